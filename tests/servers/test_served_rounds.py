"""Three rounds whose policy is served: each round samples with new weights."""

import os
import subprocess
import sys

import pytest

from sophia_jax.checkpoints import Format
from sophia_jax.rollout.records import Answer, decode
from sophia_jax.rollout.store import round_directory
from sophia_jax.train import metrics
from tests.launch import rounds
from tests.servers import tiny_config
from tests.servers.served import ROOT

pytestmark = pytest.mark.servers

CONFIG = "--config=tests/servers/rounds_config.py"
EXTRA = {
  "sglang_jax": tiny_config.get_config().serve.extra,
  "sglang": ("--chunked-prefill-size", str(tiny_config.CHUNK)),
}
MODELS = {
  "sglang_jax": {"head_dim": 32, "format": Format.HF},
  # SGLang's Qwen2 has heads of width / heads.
  "sglang": {"head_dim": 8, "format": Format.INTERNVL_CHAT},
}


def versions(workdir, number):
  """The versions of the weights that a round's tokens come from."""
  segment = round_directory(workdir, number) / "0.jsonl"
  found = map(decode, segment.read_bytes().splitlines(True))
  answers = [r for r in found if isinstance(r, Answer)]
  assert len(answers) >= 4 * 6
  return {v for a in answers for v, _ in a.completion.versions}


@pytest.mark.parametrize("backend", ["sglang_jax", "sglang"])
def test_rounds_sample_with_the_weights_of_their_update(backend, tmp_path):
  workdir = rounds.ready(tmp_path / "W", **MODELS[backend])
  done = subprocess.run(
    [
      *(sys.executable, "-m", "launch.run", CONFIG, f"--workdir={workdir}"),
      f"--config.serve.backend={backend}",
      f"--config.serve.extra={EXTRA[backend]}",
    ],
    cwd=ROOT,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  assert [versions(workdir, n) for n in range(3)] == [{1}, {2}, {3}]
  rows = metrics.read(workdir / "metrics.jsonl")
  gaps = [
    row["training/rollout_probs_diff_max"] for row in rows if "round" in row
  ]
  # The server's probabilities are those of the trainer's weights of that round.
  assert len(gaps) == 3 and max(gaps) < 1e-3
