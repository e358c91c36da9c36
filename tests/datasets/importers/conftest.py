"""Runs importers and makes data sets in the layouts they are published in."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sophia_jax.data.problems import check, load_examples, load_problems
from sophia_jax.datasets.importers.run import import_dataset


@pytest.fixture
def src(tmp_path):
  path = tmp_path / "src"
  path.mkdir()
  return path


@pytest.fixture
def run(tmp_path, src):
  """run(name) -> (problems or examples, report, broken rows as listed)."""

  def import_from(name, path=None, **options):
    dst = tmp_path / "out" / f"{name}.jsonl"
    listed = options.pop("listed", [])
    report = import_dataset(
      name, path or src, dst, say=listed.append, **options
    )
    examples = report.kind == "examples"
    assert check(dst, examples=examples) == []
    records = (load_examples if examples else load_problems)(dst)
    assert len(records) == report.written
    return records, report, listed

  return import_from


@pytest.fixture(scope="session")
def png():
  """png(seed) -> the bytes of a small PNG that is like no other."""

  def make(seed=0):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()

  return make


@pytest.fixture
def put(src, png):
  """put(path, content): rows or an object for .jsonl, .json and .parquet."""

  def write(name, content=None):
    path = src / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
      path.write_bytes(png(len(name)))
    elif path.suffix == ".parquet":
      pq.write_table(pa.Table.from_pylist(content), path)
    elif path.suffix == ".jsonl":
      lines = [
        line if isinstance(line, str) else json.dumps(line) for line in content
      ]
      path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
      path.write_text(json.dumps(content, indent=4), encoding="utf-8")
    return path

  return write
