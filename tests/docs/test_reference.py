"""The generated pages of docs/reference are those of this tree."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_pages_are_current():
  result = subprocess.run(
    [sys.executable, "-m", "docs.generate", "--check"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr
