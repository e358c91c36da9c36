"""Files written piece by piece are safetensors' own; devices assemble the same."""

import concurrent.futures
import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from sophia_jax.checkpoints import (
  Format,
  load_params,
  reading,
  save_params,
  shards,
  writing,
)
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import CFG, VARIANTS, random_params


def several(params):
  """The same values, some parameters in another dtype."""
  kinds = [jnp.float32, jnp.bfloat16, jnp.float16]
  leaves, tree = jax.tree.flatten(params)
  changed = [x.astype(kinds[i % 3]) for i, x in enumerate(leaves)]
  return jax.tree.unflatten(tree, changed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("format", [Format.HF, Format.INTERNVL_CHAT])
def test_a_file_has_the_bytes_of_safetensors(
  dtype, where, format, tmp_path, monkeypatch
):
  monkeypatch.setattr(writing, "PIECE_BYTES", 700)
  cfg = VARIANTS["300m-internlm2"]
  params = random_params(cfg)
  if dtype is None:
    params = several(params)
  if where == "device":
    params = jax.tree.map(jnp.asarray, params)
  save_params(params, cfg, tmp_path / "ours", dtype=dtype, format=format)
  ours = tmp_path / "ours" / shards.SINGLE
  save_file(load_file(ours), tmp_path / "theirs", metadata={"format": "pt"})
  assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_a_cast_export_is_the_cast_of_an_export(tmp_path):
  params = random_params(CFG)
  save_params(params, CFG, tmp_path / "model", dtype="bfloat16")
  cfg = dataclasses.replace(CFG, param_dtype="bfloat16")
  for path, x in flatten_dict(load_params(tmp_path / "model", cfg)).items():
    want = flatten_dict(params)[path].astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(x.view(np.uint16), want.view(np.uint16))


@pytest.mark.parametrize("piece", [1500, 1 << 20])
def test_an_accelerator_assembles_the_same(piece, tmp_path, monkeypatch):
  """Here a CPU stands in for it: the program is the same."""
  monkeypatch.setattr(reading, "PIECE_BYTES", piece)
  params = random_params(CFG)
  save_params(params, CFG, tmp_path / "model")
  reader = reading.Reader(shards.Shards(tmp_path / "model"), CFG)
  (device,) = jax.devices()[:1]
  with concurrent.futures.ThreadPoolExecutor(2) as pool:
    for path, want in flatten_dict(params, sep="/").items():
      region = tuple(slice(0, size) for size in want.shape)
      found = reading.on_devices(
        reader, path, region, [device], want.dtype, pool
      )
      np.testing.assert_array_equal(np.asarray(found[device]), want)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, "bf16"])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf, 3, -3])
def test_every_number_that_is_not_finite_is_seen(dtype, value):
  dtype = ml_dtypes.bfloat16 if dtype == "bf16" else dtype
  kind = {v: k for k, v in shards.DTYPES.items()}[np.dtype(dtype)]
  x = np.linspace(-9, -1, 1000).astype(dtype)
  x[77] = value
  finite = reading._finite(x, reading.EXPONENTS[kind])
  assert finite == (abs(value) == 3)


def test_a_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
  save_params(random_params(CFG), CFG, tmp_path / "model")
  reader = reading.Reader(shards.Shards(tmp_path / "model"), CFG)
  path = tmp_path / "model" / shards.SINGLE
  path.write_bytes(path.read_bytes()[:-100])
  with pytest.raises(SophiaError, match="truncated"):
    reading.read_params(reader, CFG)
