"""Import straight onto a mesh, export from it: the same bits, none read twice."""

import json
import os
import socket
import subprocess
import sys

import jax
import pytest
from safetensors.numpy import load_file

from launch.convert import convert
from sophia_jax.checkpoints import Format, load_sharded, reading, save_params
from sophia_jax.models import abstract_params
from tests.checkpoints.on_a_mesh import MESHES
from tests.checkpoints.toy import (
  CFG,
  VARIANTS,
  assert_same,
  random_params,
  write_tokenizer,
)
from tests.devices import host_devices

SOURCES = ("300m-qwen2", "6b-internlm2", "6b-internlm2-orbax")


def environment(devices):
  return {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": host_devices(devices),
  }


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
  """Facts of every source on every mesh, and the directories."""
  directory = tmp_path_factory.mktemp("meshes")
  tokenizer = write_tokenizer(tmp_path_factory.mktemp("words"))
  for name in ("300m-qwen2", "6b-internlm2"):
    save_params(
      random_params(VARIANTS[name]),
      VARIANTS[name],
      directory / name,
      tokenizer,
      format=Format.INTERNVL_CHAT,
    )
  last = directory / SOURCES[-1]
  convert(directory / "6b-internlm2", last, Format.ORBAX)
  done = subprocess.run(
    [sys.executable, "-m", "tests.checkpoints.on_a_mesh", str(directory)],
    env=environment(4),
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1]), directory


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("source", SOURCES)
def test_every_device_has_its_part(ran, source, mesh):
  facts = ran[0][f"{source}-{mesh}"]
  assert not facts["wrong"]
  assert facts["spread"] > 15


@pytest.mark.parametrize("source", SOURCES[:2])
def test_each_byte_is_read_once(ran, source):
  facts = ran[0][source]
  assert facts["read"] == facts["there"]
  assert facts["parts"] == ["vision"]


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("source", SOURCES)
def test_an_export_from_a_mesh_is_the_host_s(ran, source, mesh, tmp_path):
  _, directory = ran
  convert(directory / source, tmp_path / "hf", Format.HF)
  want = load_file(tmp_path / "hf" / "model.safetensors")
  got = load_file(directory / f"{source}-{mesh}" / "model.safetensors")
  assert_same(want, got)


@pytest.mark.parametrize("source", SOURCES[:2])
def test_fused_tensors_leave_the_mesh_as_they_came(ran, source):
  _, directory = ran
  want = load_file(directory / source / "model.safetensors")
  got = load_file(directory / f"{source}-chat" / "model.safetensors")
  assert_same(want, got)


@pytest.mark.parametrize("format", Format)
def test_one_device(format, tmp_path):
  cfg = VARIANTS["300m-internlm2"]
  params = random_params(cfg)
  words = write_tokenizer(tmp_path / "words")
  save_params(params, cfg, tmp_path / "model", words, format=format)
  here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  layout = jax.tree.map(lambda _: here, abstract_params(cfg))
  assert_same(params, load_sharded(tmp_path / "model", cfg, layout))


def test_only_the_wanted_slice_is_read(tmp_path):
  """Of a matrix on two devices, one process may hold one of them."""
  save_params(random_params(CFG), CFG, tmp_path / "model")
  reader = reading.Reader(reading.Shards(tmp_path / "model"), CFG)
  (source, _) = reader.sources["language/layers/mlp/up/kernel"]
  region = (slice(8, 16), slice(24, 48))  # of [32, 48]
  pieces = list(reader.pieces(source, region))
  assert sum(piece.read().nbytes for piece in pieces) == 8 * 24 * 4
  assert reader.bytes == 8 * 24 * 4


def free_port():
  with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def test_two_hosts_read_half_each_and_one_writes(tmp_path, tmp_path_factory):
  cfg = VARIANTS["6b-internlm2"]
  words = write_tokenizer(tmp_path / "words")
  source, out = tmp_path / "source", tmp_path / "out"
  params = random_params(cfg)
  save_params(params, cfg, source, words, format=Format.INTERNVL_CHAT)
  line = [sys.executable, "-m", "tests.checkpoints.on_two_hosts"]
  address = f"127.0.0.1:{free_port()}"
  counts = [tmp_path_factory.mktemp("read") / str(i) for i in range(2)]
  hosts = [
    subprocess.Popen(
      [*line, address, str(i), str(source), str(out), str(count)],
      env=environment(2),
    )
    for i, count in enumerate(counts)
  ]
  assert [host.wait(timeout=300) for host in hosts] == [0, 0]
  read = [int(count.read_text()) for count in counts]
  total = sum(x.nbytes for x in jax.tree.leaves(params))
  assert max(read) < 0.6 * total < total <= sum(read)
  want = load_file(source / "model.safetensors")
  assert_same(want, load_file(out / "model.safetensors"))
  assert {p.name for p in tmp_path.iterdir()} == {"words", "source", "out"}
