"""Rows of any shape: each importer takes them or refuses them one by one."""

import inspect
import json
import random
import re

import pytest

from sophia_jax.datasets.importers import IMPORTERS, find_importer
from sophia_jax.datasets.importers.run import import_dataset
from sophia_jax.types import SophiaError

VALUES = (
  *(None, True, 0, 1.5, -1, 10**400, float("nan"), "", "x", "2024", "?"),
  *("<image>", "['a', 'b']", "[[", "{'a': 1}", "\ud800", "multi-choice"),
  *([], ["a"], [["a"]], [None], {}, {"bytes": "x"}, {"text": "a"}),
  [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
  [{"role": "user", "content": [{"type": "text", "text": 3}]}],
  [{"role": "user", "content": [{"type": "image", "image": 3}]}],
)
IMAGES = ("image", "decoded_image", "image_1", "input_image")
ROWS = 300


def columns_of(name):
  """The columns that an importer's source asks for."""
  source = inspect.getsource(inspect.getmodule(find_importer(name).convert))
  return {*re.findall(r"\"([a-z_]+)\"", source), *IMAGES}


@pytest.mark.parametrize("name", IMPORTERS)
def test_rows_of_any_shape(src, put, tmp_path, name):
  put("p.png")
  (src / "p.jpg").write_bytes((src / "p.png").read_bytes())
  rng, columns = random.Random(name), sorted(columns_of(name))
  rows = []
  for _ in range(ROWS):
    chosen = rng.sample(columns, rng.randint(1, len(columns)))
    row = {column: rng.choice(VALUES) for column in chosen}
    # With a real image converters get beyond it.
    row |= {k: "p.png" for k in IMAGES if rng.random() < 0.8}
    rows.append(row | {"input_image": "['p.png']"})
  path = src / "rows.json"
  path.write_text(json.dumps(rows))
  keys = ("question", "answer", "images", "choices")
  mapped = {key: rng.choice(columns) for key in keys}
  listed = []
  try:
    report = import_dataset(
      name, path, tmp_path / "out.jsonl", columns=mapped, say=listed.append
    )
  except SophiaError as e:
    assert "\n" not in str(e)
  else:
    counts = (report.written, report.broken.total(), report.skipped.total())
    assert sum(counts) == ROWS
  assert all(len(line) < 600 and line.isprintable() for line in listed)
