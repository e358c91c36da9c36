"""launch.plan as a user types it, for devices that every machine has."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sophia_jax.checkpoints.config_writer import write_config
from sophia_jax.models import DecoderConfig, InternVLConfig, VisionConfig

MODEL = InternVLConfig(
  vision=VisionConfig(width=32, depth=2, heads=2, mlp=64, image_size=56),
  decoder=DecoderConfig(
    vocab=128, width=64, depth=3, heads=4, kv_heads=2, mlp=96, head_dim=16
  ),
  image_token_id=3,
)
# Heads of a width that a TPU's kernel takes.
WIDE = dataclasses.replace(
  MODEL,
  decoder=dataclasses.replace(MODEL.decoder, width=256, head_dim=64, depth=2),
)

ROUNDS = """
from configs import grpo

def get_config():
  c = grpo.get_config()
  c.policy.path = {path!r}
  c.policy.engine = "embedded"
  c.engine.slots, c.engine.length = 16, 128
  c.answering.max_new_tokens = 48
  c.stages.grpo.n, c.stages.grpo.groups, c.stages.grpo.minibatches = 4, 8, 2
  c.stages.grpo.train.update(rows=4, length=128, block=64, tiles=16)
  return c
"""

CONFIG = """
from configs import internvl3_8b

def get_config():
  c = internvl3_8b.get_config()
  c.policy.path = {path!r}
  c.stages.sophia.train.length, c.stages.sophia.train.block, c.stages.sophia.train.rows = 256, 64, 4
  c.stages.sophia.train.tiles, c.stages.sophia.train.microbatches = 8, 2
  c.topologies = {{"cpu:4": {{"policy": {{"remat": "block"}}}}}}
  return c
"""


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
  own = ("XLA_FLAGS", "TF_CPP_MIN_LOG_LEVEL")
  environment = {k: v for k, v in os.environ.items() if k not in own}
  return subprocess.run(
    [sys.executable, "-m", "launch.plan", *arguments],
    capture_output=True,
    text=True,
    env={**environment, "JAX_PLATFORMS": "cpu"},
  )


def written(directory: Path, model: InternVLConfig, text: str) -> Path:
  """Writes a config file and a model that has only shapes."""
  values = write_config(model, "float32")
  (directory / "config.json").write_text(json.dumps(values))
  # No weight is read; whether there is a head says if it is tied.
  head = {"lm_head.weight": np.zeros((1, 1), np.float32)}
  save_file(head, directory / "model.safetensors")
  path = directory / "small.py"
  path.write_text(text.format(path=str(directory)))
  return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
  return written(tmp_path_factory.mktemp("plan"), MODEL, CONFIG)


def test_two_meshes_are_planned_and_compared(config, tmp_path):
  out = tmp_path / "plans.json"
  done = plan(
    f"--config={config}",
    "--topology=cpu:8",
    "--mesh=fsdp=2,context=2,tensor=2",
    "--mesh=data=2,fsdp=2,tensor=2",
    f"--out={out}",
  )
  assert done.returncode == 0, done.stderr
  # XLA's words for a change of sharding that gathers everything first.
  assert "Involuntary full rematerialization" not in done.stderr
  best = json.loads(done.stdout.splitlines()[-1])
  both = json.loads(out.read_text())
  assert best == both[0]
  assert [p["fits"] for p in both] == [True, True]
  assert {(p["mesh"]["data"], p["mesh"]["context"]) for p in both} == {
    (1, 2),
    (2, 1),
  }
  assert best["tokens_per_step"] == 2 * 4 * 256
  assert 0 < best["peak_gib"] < best["hbm_gib"]
  assert set(best) >= {"topology", "estimated_mfu", "memory_gib", "advice"}
  for one in both:
    # A tensor axis sums what its devices hold; every mesh gathers weights.
    assert sum(one["collectives_gib"].values()) >= 0
    assert one["memory_gib"]["optimizer"] == pytest.approx(
      2 * one["memory_gib"]["parameters"], abs=0.02
    )


def test_a_round_is_planned_with_its_update(tmp_path):
  config = written(tmp_path, MODEL, ROUNDS)
  done = plan(
    f"--config={config}",
    "--stage=grpo",
    "--topology=cpu:2",
    "--segment_length=64",
    "--sampling_throughput=100",
  )
  assert done.returncode == 0, done.stderr
  assert "32 sequences (4 of policy a problem), 2 updates" in done.stdout
  assert "at 100 tokens/s a device, assumed" in done.stdout
  found = json.loads(done.stdout.splitlines()[-1])
  whole = found["round"]
  # 32 sequences of 64 tokens in two updates: 8 rows each, 4 a microbatch.
  assert found["tokens_per_step"] == 2 * 4 * 128
  assert whole["scored_by"] == ["policy", "reference"]
  assert whole["seconds"]["sampling"] == 32 * 48 / (100 * 2)
  assert whole["seconds"]["update"] == pytest.approx(
    2 * found["estimated_seconds"], abs=2e-4
  )
  assert whole["seconds"]["round"] == pytest.approx(
    sum(v for k, v in whole["seconds"].items() if k != "round"), rel=1e-3
  )
  assert set(whole["held_gib"]) == {
    "reference",
    "engine's weights",
    "engine's caches",
  }
  assert found["peak_gib"] == max(whole["phases_gib"].values())


def test_every_host_of_several_holds_the_whole_policy_to_sample(tmp_path):
  config = written(tmp_path, MODEL, ROUNDS)
  done = plan(
    f"--config={config}", "--topology=h100:16", "--mesh=fsdp=4,context=4"
  )
  assert done.returncode == 0, done.stderr
  found = json.loads(done.stdout.splitlines()[-1])
  whole, held = found["memory_gib"], found["round"]["held_gib"]
  # Its own shards are a sixteenth.
  assert held["engine's weights"] > 4 * whole["parameters"]


def test_gpus_are_planned_by_arithmetic_and_it_says_so():
  """The released shapes: the state of 8B on 8 GPUs is known to the byte."""
  done = plan(
    "--config=configs/internvl3_8b.py",
    "--topology=h100:8",
    "--rows=16",
    "--config.policy.remat=block",
  )
  assert done.returncode == 0, done.stderr
  assert "arithmetic  fits" in done.stdout and "nothing compiled" in done.stdout
  found = json.loads(done.stdout.splitlines()[-1])
  assert found["source"] == "arithmetic" and found["fits"]
  assert found["remat"] == "block"
  assert found["tokens_per_step"] == 512 * 32768
  # 7.6e9 trained parameters in fp32, an eighth of them here; vectors and the
  # uneven vocabulary's other axis included.
  assert found["memory_gib"]["parameters"] == pytest.approx(3.546, abs=0.01)
  assert found["peak_gib"] == pytest.approx(
    sum(found["memory_gib"].values()), abs=0.01
  )
  assert 0.2 < found["estimated_mfu"] < 0.7


@pytest.mark.parametrize(
  ("arguments", "said"),
  [
    (["--topology=v9:2x2"], "--topology=v9:2x2: known kinds are cpu, v4"),
    (["--topology=cpu:4", "--mesh=rows=4"], "write axis=devices of data, fsdp"),
    (["--topology=cpu:4", "--mesh=fsdp=3"], "is not 4 devices"),
    (["--topology=cpu:4", "--rows=3"], "--rows=3: an update of 8 rows"),
    (
      ["--topology=cpu:4", "--config.policy.path=/none", "--config.size=x"],
      "/none: no such checkpoint; give --config.policy.path",
    ),
  ],
)
def test_an_impossible_plan_is_one_line(config, arguments, said):
  done = plan(f"--config={config}", *arguments)
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert last.startswith("error: ") and said in last
  assert "Traceback" not in done.stderr


def test_adapters_of_38b_fit_a_node_that_its_weights_do_not():
  """Without a gradient or moments of a weight."""
  plans = []
  for rank in (0, 64):
    done = plan(
      "--config=configs/internvl3_5_38b.py",
      "--topology=h100:8",
      "--mesh=fsdp=8",
      "--rows=8",
      "--config.policy.remat=block",
      f"--config.stages.sophia.train.lora_rank={rank}",
    )
    assert done.returncode == 0, done.stderr
    plans.append(json.loads(done.stdout.splitlines()[-1]))
  assert [found["fits"] for found in plans] == [False, True]
  memory = plans[1]["memory_gib"]
  # Per layer 64 x (in + out) of seven maps, in fp32, over eight devices.
  width, heads, keys, mlp = 5120, 8192, 1024, 25600
  ends = 2 * (width + heads) + 2 * (width + keys) + 3 * (width + mlp)
  expected = 64 * 64 * ends * 4 / 8 / 2**30
  assert memory["parameters"] == pytest.approx(expected, rel=0.01)
  assert memory["optimizer"] == pytest.approx(2 * expected, rel=0.01)
