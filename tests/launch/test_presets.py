"""Every topology of the released sizes lays out, and is the paper's update."""

import inspect
import math
import runpy
from pathlib import Path

import pytest
from jax.sharding import AbstractMesh

from sophia_jax.config import section
from sophia_jax.models import SIZES
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import for_topology
from sophia_jax.train import sharding

NAMES = (
  "internvl2_5_8b",
  "internvl2_5_38b",
  "internvl3_8b",
  "internvl3_38b",
  "internvl3_5_8b",
  "internvl3_5_38b",
  "qwen2_5_vl_7b",
)


QWEN = (
  *("papo", "papo_d", "openvlthinker", "vlaa", "vision_ekipl"),
  *("seed_bench_r1", "grpo_care"),
)
"""Methods that were published on Qwen2-VL or Qwen2.5-VL."""


@pytest.fixture(params=NAMES)
def config(request):
  return runpy.run_path(f"configs/{request.param}.py")["get_config"]()


def test_every_topology_lays_out(config):
  topologies = config.topologies.keys()
  assert {"v5p:4x4x4", "v5p:4x4x8", "v6e:8x8", "v6e:16x16"} <= set(topologies)
  for topology in topologies:
    set_up = for_topology(config, topology, {})
    train = stages.read(set_up, "sophia").train
    axes = section(sharding.MeshConfig, set_up.mesh.to_dict(), "mesh")
    mesh = AbstractMesh(
      tuple(getattr(axes, axis) for axis in sharding.AXES), sharding.AXES
    )
    devices = map(int, topology.partition(":")[2].split("x"))
    assert mesh.size == math.prod(devices), topology
    sharding.check_shape(train.rows, train.length, train.tiles, mesh)
    tokens = train.rows * train.microbatches * train.length
    assert tokens == 512 * 32768, topology


@pytest.mark.parametrize("name", QWEN)
def test_every_method_of_qwen_lays_out(name):
  """An image fits a shard, and each device has whole shards of the packing."""
  config = runpy.run_path(f"configs/{name}.py")["get_config"]()
  assert config.size == "qwen2_5_vl_7b"
  for topology in config.topologies:
    set_up = for_topology(config, topology, {})
    axes = section(sharding.MeshConfig, set_up.mesh.to_dict(), "mesh")
    mesh = AbstractMesh(
      tuple(getattr(axes, axis) for axis in sharding.AXES), sharding.AXES
    )
    shards = set_up.packing.shards
    assert shards % (axes.data * axes.fsdp) == 0, topology
    for stage in (stages.read(set_up, key) for key in set_up.stages):
      train = stage.train
      if train is not None and train.tiles:
        sharding.check_shape(train.rows, train.length, train.tiles, mesh)
        most = set_up.images.max_tiles
        assert most <= train.tiles // shards, topology


def test_a_run_may_change_its_topology(config):
  """Hosts have whole shards of the packing, of as many rows everywhere."""
  each = set()
  for topology, preset in config.topologies.items():
    chips = 8 if topology.startswith("h100") else 4
    row = preset["mesh"].get("context", 1) * preset["mesh"].get("tensor", 1)
    # Hosts, or groups of them where a row lies on several.
    shares = math.prod(preset["mesh"].values()) // max(chips, row)
    shards = preset["packing"]["shards"]
    assert shards % shares == 0, topology
    each.add(preset["train"]["rows"] / shards)
  assert len(each) == 1


@pytest.mark.parametrize(
  "path", sorted(map(str, Path("configs").rglob("[!_]*.py")))
)
def test_every_config_reads_and_has_a_run_card(path):
  names = runpy.run_path(path)
  get_config = names.get("get_config")
  if get_config is None or inspect.signature(get_config).parameters:
    return  # shared parts
  config = get_config()
  assert names["__doc__"].strip()
  assert config.get("size", "internvl3_8b") in SIZES
  for name in config.order:
    assert stages.read(config, name).name == name


@pytest.mark.parametrize(
  "path", sorted(map(str, Path("configs").rglob("[!_]*.py")))
)
def test_what_a_config_practises_on_is_made(path):
  get_config = runpy.run_path(path).get("get_config")
  if get_config is None or inspect.signature(get_config).parameters:
    return  # shared parts
  config = get_config()
  files = [config.stages[name].get("data", "") for name in config.order]
  files += [
    each.get("file", "") for each in config.get("teachers", {}).values()
  ]
  if any(file.startswith("data/practice") for file in files if file):
    assert config.prepare.corpus.practice > 0
