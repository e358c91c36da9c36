"""Checkpoints: the newest whole one is restored, a cut-off one never."""

import json
import logging
import os
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sophia_jax.checkpoints import manifest
from sophia_jax.train import checkpoint
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.state import create
from sophia_jax.types import SophiaError
from tests.devices import host_devices

IDENTITY = {
  "model": {"width": 4, "parts": ("a", "b")},
  "optimizer": {"b1": 0.9},
}
TX = optax.adam(1e-3)


def state_at(step: int, size: int = 8):
  """A state whose every number tells its step."""
  params = {
    "language": {"w": jnp.full(size, step, jnp.float32)},
    "vision": {"w": jnp.full(size, -1.0)},
  }
  state = create(params, TX, ("language",))
  opt_state = jax.tree.map(lambda x: x + step, state.opt_state)
  return state.replace(step=jnp.int32(step), opt_state=opt_state)


def save(directory, *steps, identity=IDENTITY, **how):
  checkpoints = Checkpoints(directory, 2, identity)
  for step in steps:
    checkpoints.save(state_at(step, **how), {"step": step})
  checkpoints.close()


def restore(directory, identity=IDENTITY, **how):
  checkpoints = Checkpoints(directory, 2, identity)
  try:
    return checkpoints.restore(state_at(0, **how))
  finally:
    checkpoints.close()


def assert_is_step(found, step, size=8):
  state, loader_state = found
  jax.tree.map(np.testing.assert_array_equal, state, state_at(step, size))
  assert loader_state == {"step": step}


def test_the_newest_is_restored_and_old_ones_go(tmp_path):
  assert restore(tmp_path) is None
  save(tmp_path, 3, 9, 12)
  assert_is_step(restore(tmp_path), 12)
  assert {p.name for p in tmp_path.iterdir() if p.name.isdigit()} == {"9", "12"}


def test_frozen_parts_are_not_saved(tmp_path):
  save(tmp_path, 1, size=100_000)
  saved = sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
  assert saved < 3.2 * 400_000  # weights and two moments of one part


@pytest.mark.parametrize("key", ["model", "optimizer"])
def test_another_identity_is_refused(tmp_path, key):
  save(tmp_path, 7)
  other = {**IDENTITY, key: {"width": 5}}
  with pytest.raises(SophiaError) as error:
    restore(tmp_path, other)
  assert str(error.value) == (
    f"{tmp_path / '7'}: a checkpoint of another {key}; use the config it was "
    "made with, or another workdir"
  )


def largest_file(directory):
  """Not the seal, which a loaded machine's many small files make the largest: it
  says the same without its last newline."""
  return max(
    (
      p for p in directory.rglob("*") if p.is_file() and p.name != manifest.NAME
    ),
    key=lambda p: p.stat().st_size,
  )


def remove(path):
  path.unlink()


def cut(path):
  path.write_bytes(path.read_bytes()[:-1])


def flip(path):
  """One bit in the middle, as a disk or a cable may."""
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


@pytest.mark.parametrize("harm", [remove, cut, flip])
@pytest.mark.parametrize(
  "which", [largest_file, lambda step: step / "loader" / "metadata"]
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, caplog, which, harm):
  save(tmp_path, 3, 6)
  path = which(tmp_path / "6")
  harm(path)
  with caplog.at_level("WARNING"):
    found = restore(tmp_path)
  assert_is_step(found, 3)
  (told,) = [r.getMessage() for r in caplog.records if "damaged" in r.msg]
  assert str(tmp_path / "6") in told and path.name in told
  # The run continues and saves that step again; the damaged one is kept aside.
  save(tmp_path, 6)
  assert_is_step(restore(tmp_path), 6)
  assert (tmp_path / "damaged-6").is_dir()
  harm(which(tmp_path / "6"))
  assert_is_step(restore(tmp_path), 3)
  assert (tmp_path / "damaged-6-2").is_dir()


def test_a_bit_in_any_file_is_found(tmp_path, monkeypatch):
  """As is one in a large file, which only a restore reads."""
  monkeypatch.setattr(manifest, "SMALL", 400)
  save(tmp_path, 3, 6)
  step = tmp_path / "6"
  everything = [p for p in step.rglob("*") if p.is_file() and p.stat().st_size]
  sealed = [p for p in everything if p.name != manifest.NAME]
  large = [p for p in sealed if p.stat().st_size > 400]
  assert large
  for path in everything:
    whole = path.read_bytes()
    flip(path)
    assert manifest.damage(step, whole=True), path
    assert bool(manifest.damage(step)) == (path not in large), path
    path.write_bytes(whole)
  assert manifest.damage(step, whole=True) is None
  flip(large[0])
  found = [
    manifest.damage(step, whole=True, share=(index, 3)) for index in range(3)
  ]
  assert sum(map(bool, found)) == 1
  assert_is_step(restore(tmp_path), 3)


def test_a_seal_of_an_older_version_holds_sizes(tmp_path):
  save(tmp_path, 3)
  seal = tmp_path / "3" / manifest.NAME
  entries = json.loads(seal.read_text())
  seal.write_text(json.dumps({name: e[0] for name, e in entries.items()}))
  assert manifest.damage(tmp_path / "3", whole=True) is None
  cut(largest_file(tmp_path / "3"))
  assert "bytes, was written with" in manifest.damage(tmp_path / "3")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"a": {}}', "{" * 9999])
def test_a_seal_that_is_none(tmp_path, text):
  save(tmp_path, 3, 6)
  (tmp_path / "6" / manifest.NAME).write_text(text)
  assert_is_step(restore(tmp_path), 3)


FULL = """
import resource, sys
from pathlib import Path
import jax
from sophia_jax.train import checkpoint
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.types import SophiaError
from tests.train.test_checkpoint import IDENTITY, save, state_at
directory = Path(sys.argv[1])
save(directory, 3)
noise = {"language": {"w": jax.random.normal(jax.random.key(0), 1_000_000)}}
state = state_at(6).replace(params=noise)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
checkpoints = Checkpoints(directory, 2, IDENTITY)
try:
  checkpoints.save(state, {"step": 6})
  checkpoints.close()
except SophiaError as e:
  print(e)
"""


def test_a_full_disk_is_one_line(tmp_path):
  done = subprocess.run(
    [sys.executable, "-c", FULL, str(tmp_path)],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  (line,) = done.stdout.splitlines()
  assert str(tmp_path) in line and "free the disk" in line
  assert "Traceback" not in done.stderr
  assert_is_step(restore(tmp_path), 3)


def test_what_orbax_logs_of_a_full_disk_is_left_out():
  full = ValueError("a.b: No space left on device [os_error_code='28']")
  record = lambda path, error: logging.makeLogRecord(
    {"pathname": path, "exc_info": (type(error), error, None)}
  )
  assert not checkpoint._is_not_ours(record("orbax/future.py", full))
  assert checkpoint._is_not_ours(record("orbax/future.py", ValueError("a")))
  assert checkpoint._is_not_ours(record("elsewhere.py", full))
  assert checkpoint._is_not_ours(logging.makeLogRecord({"pathname": "orbax"}))


def test_nothing_is_restored_when_all_are_damaged(tmp_path):
  save(tmp_path, 3)
  cut(largest_file(tmp_path / "3"))
  assert restore(tmp_path) is None


def test_every_finished_step_is_sealed(tmp_path):
  save(tmp_path, 3, 6)
  for step in ("3", "6"):
    assert (tmp_path / step / manifest.NAME).is_file()
    assert manifest.damage(tmp_path / step) is None


CUT_OFF = """
import os, signal, sys
from pathlib import Path
from tests.train.test_checkpoint import IDENTITY, save, state_at
from sophia_jax.train import checkpoint
from sophia_jax.train.checkpoint import Checkpoints
directory, size = Path(sys.argv[1]), int(sys.argv[2])
save(directory, 3, size=size)
Checkpoints(directory, 2, IDENTITY).save(state_at(6, size), {"step": 6})
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_checkpoint_that_was_cut_off_is_never_chosen(tmp_path, caplog):
  """Saving is asynchronous: the process dies while 100 MB are written."""
  size = 8_000_000
  done = subprocess.run(
    [sys.executable, "-c", CUT_OFF, str(tmp_path), str(size)],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert done.returncode == -signal.SIGKILL
  left = [p.name for p in tmp_path.iterdir()]
  assert any(name.startswith("6") for name in left), "nothing was cut off"
  assert "6" not in left
  with caplog.at_level("WARNING"):
    assert_is_step(restore(tmp_path, size=size), 3, size)
  assert "was cut off" in caplog.text
  # The run continues and saves that step again.
  save(tmp_path, 6, size=size)
  assert_is_step(restore(tmp_path, size=size), 6, size)


ON_DEVICES = """
import sys
from pathlib import Path
import jax, numpy as np
from sophia_jax.train import sharding
from sophia_jax.train import checkpoint
from sophia_jax.train.checkpoint import Checkpoints
from tests.train.test_checkpoint import IDENTITY, assert_is_step, state_at
def on_mesh(step, devices):
  where = jax.devices()[:devices]
  assert len(where) == devices
  mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=devices), where)
  spread = jax.sharding.NamedSharding(mesh, jax.P("fsdp"))
  whole = jax.sharding.NamedSharding(mesh, jax.P())
  put = lambda x: jax.device_put(x, spread if x.shape else whole)
  return jax.tree.map(put, state_at(step))
checkpoints = Checkpoints(Path(sys.argv[1]), 2, IDENTITY)
checkpoints.save(on_mesh(5, 4), {"step": 5})
checkpoints.close()
for devices in (8, 4, 2):
  like = on_mesh(0, devices)
  checkpoints = Checkpoints(Path(sys.argv[1]), 2, IDENTITY)
  found = checkpoints.restore(like)
  checkpoints.close()
  assert_is_step(found, 5)
  for x, y in zip(jax.tree.leaves(found[0]), jax.tree.leaves(like)):
    assert x.sharding.is_equivalent_to(y.sharding, x.ndim), x.sharding
  assert len(found[0].params["language"]["w"].sharding.device_set) == devices
"""


def test_another_number_of_devices_restores_it(tmp_path):
  subprocess.run(
    [sys.executable, "-c", ON_DEVICES, str(tmp_path)],
    env={
      **os.environ,
      "JAX_PLATFORMS": "cpu",
      "XLA_FLAGS": host_devices(8),
    },
    check=True,
  )
  assert_is_step(restore(tmp_path), 5)  # on the only device here
