"""Stages that train adapters: what they learn, write, and export merged."""

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from launch.convert import convert
from sophia_jax.checkpoints import Format, adapters, read_config
from sophia_jax.models import lora
from sophia_jax.runs import rounds as driver
from sophia_jax.runs import stage as stages
from sophia_jax.runs import training
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics, sharding
from sophia_jax.types import SophiaError
from tests.launch import hosts_config, rounds, rounds_config, workdirs

LORA = {"lora_rank": 4, "lora_alpha": 8.0}
TOLERANCE = 1e-5


def tensors(directory):
  return load_file(directory / "model.safetensors")


def assert_close(found, wanted):
  assert found.keys() == wanted.keys()
  for name, x in wanted.items():
    np.testing.assert_allclose(found[name], x, rtol=0, atol=TOLERANCE)


def assert_exported(directory, start, model):
  """The export is the start with the adapters added, and nothing else."""
  tree, rank, alpha = adapters.read(directory / "adapter", model.module.cfg)
  assert (rank, alpha) == (4, 8.0)
  moved = {path.split("/")[-2] for path, _, b in lora.pairs(tree) if b.any()}
  merged = directory / "merged"
  convert(start, merged, Format.HF, adapter=directory / "adapter")
  export = tensors(directory / "export")
  assert_close(tensors(merged), export)
  before = tensors(start)
  changed = {n for n, x in export.items() if not np.array_equal(x, before[n])}
  kinds = {name.split(".")[-2].removesuffix("_proj") for name in changed}
  assert kinds == moved and not any("vision" in name for name in changed)
  return moved


def opened(config, workdir, name, **train):
  config.stages[name].train.update({**LORA, **train})
  run = Run(config, str(workdir))
  return run, stages.read(config, name)


@pytest.fixture
def grpo(tmp_path):
  config = rounds_config.get_config()
  config.stages.grpo.update(rounds=2, evaluate_every=0)
  workdir = rounds.ready(tmp_path / "W", noise=0.2)
  return opened(config, workdir, "grpo", learning_rate=3e-2)


def test_grpo_over_rounds(grpo):
  run, row = grpo
  run.begin()
  driver.learn(run, row)
  found = metrics.read(run.workdir / "metrics.jsonl")
  assert [line["step"] for line in found] == [1, 2, 3, 4]
  # The engine answers with merged weights, the trainer adds the products.
  for line in found:
    assert line.get("training/rollout_probs_diff_max", 0.0) < 1e-4
  # The reference is the model without its adapters.
  assert found[0]["actor/kl_loss"] == pytest.approx(0, abs=1e-7)
  assert found[-1]["actor/kl_loss"] > 1e-6
  model = training.opened(run, row)
  start = run.start(row)
  # The start's attention and MLPs are zero, and all tokens look alike to it.
  assert {"down", "o"} <= assert_exported(run.workdir, start, model)
  # What training saved is merged in the same way, and so is its start.
  saved = run.workdir.parent / "saved"
  convert(run.workdir, saved, Format.HF)
  assert_close(tensors(saved), tensors(run.workdir / "export"))
  assert_starts_from_adapters(run, row, model)


def assert_starts_from_adapters(run, row, model):
  """Content decides whether a run may resume; rank and alpha must agree."""

  def starting(**changes):
    start = {"lora_start": str(run.workdir / "adapter"), **changes}
    return dataclasses.replace(
      row, train=dataclasses.replace(row.train, **start)
    )

  assert training.identity(run, row)["adapter"] is None
  assert training.identity(run, starting())["adapter"] is not None
  mesh = sharding.make_mesh(run.section(sharding.MeshConfig, "mesh"))
  with pytest.raises(SophiaError, match="set lora_rank and lora_alpha"):
    training.session(run, starting(lora_rank=8), model, mesh, 1)


def test_sophia(tmp_path):
  config = hosts_config.get_config()
  workdir = tmp_path / "W"
  workdirs.sampled(config, workdir, problems=8)
  run, row = opened(config, workdir, "sophia", epochs=2, warmup_steps=0)
  training.learn(run, row)
  model = training.opened(run, row)
  moved = assert_exported(run.directory("sophia"), run.start(row), model)
  assert moved == {"q", "k", "v", "o", "gate", "up", "down"}
  assert read_config(run.directory("sophia") / "export") == model.module.cfg
