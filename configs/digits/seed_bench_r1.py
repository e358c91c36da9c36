"""SEED-Bench-R1 with clips of handwritten digits, from the quickstart's result on.

Questions about order, number and change in three or four frames, with four
options. The policy first learns to read clips ("clips"); then GRPO with ratio 1
learns from its own answers, or SFT from worked solutions of the same problems.
Held-out problems have three levels: other scans, other handwriting and colours,
other kinds of questions.

Method:    docs/algorithms/seed_bench_r1.md (arXiv 2503.24376)
Run:       python -m launch.run --config=configs/digits/seed_bench_r1.py \\
             --workdir=W --config.base=runs/quickstart
           the arm that imitates: --config.order="('reasoner', 'warmup', \\
             'sophia', 'clips', 'sft')"
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from typing import Any

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.digits.clip_files import ClipConfig
from sophia_jax.runs.stage import stage

LENGTH = 384
"""Tokens of a row: four frames, a question with options, an answer."""
TRAIN = {**world.TRAIN, "length": LENGTH, "tiles": 32}
ROUNDS: dict[str, Any] = {
  "start": "clips",
  "data": "data/clips.jsonl",
  "n": 8,
  "rounds": 40,
  "groups": 24,
  "train": {**world.ROUND, "length": LENGTH, "tiles": 32},
}


def get_config() -> ConfigDict:
  c = world.followed_by("seed_bench_r1", "seed_bench_r1", **ROUNDS)
  c.prepare.corpus.practice = 0
  c.prepare.clips = defaults(ClipConfig)
  c.data.heldout = "data/clips_heldout.jsonl"
  c.engine.update(slots=96, length=320)
  c.stages.clips = stage(
    "sft",
    start="sophia",
    data="data/clips_warmup.jsonl",
    train={
      **TRAIN,
      "trained": ("projector", "language"),
      "epochs": 2,
      "final_fraction": 0.05,
    },
  )
  c.stages.sft = stage(
    "sft",
    start="clips",
    data="data/clips_solutions.jsonl",
    train={**TRAIN, "learning_rate": 5e-4, "epochs": 2},
  )
  c.order = (*world.FIRST, "clips", "seed_bench_r1")
  return c
