"""The generated pages of docs/reference are those of this tree."""

import subprocess
import sys
from pathlib import Path

from sophia_jax.data.schema import schema_of

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_current():
  result = subprocess.run(
    [sys.executable, "-m", "docs.generate", "--check"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr


def test_the_data_format_names_every_key():
  page = (ROOT / "docs/reference/data-format.md").read_text(encoding="utf-8")
  for examples in (False, True):
    for key in schema_of(examples):
      assert f"`{key}`" in page, key
