"""`further`, and the stages that the core experiments compare it with.

An experiment's arms choose among the stages by `order` and change their settings.

Run:       python -m sophia_jax.evidence run NAME, one of configs/evidence
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/evidence.md
"""

from typing import Any

from ml_collections import ConfigDict

from configs.digits import world
from configs.evidence import further
from sophia_jax.config import defaults
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  c = further.get_config()
  short = c.stages.further.train.to_dict()
  # As many trajectories of the reasoner as SOPHIA takes, on the true caption.
  c.stages.told = stage(
    "chains", captioner=True, captions=1, trajectories=12, keep_n=1
  )
  c.teachers = {
    "captioner": defaults(
      TeacherConfig, file="data/captions.jsonl", absent="stop"
    )
  }
  c.stages.taught = stage(
    "sft", start="sophia", data="told/chains.jsonl", train=short
  )
  c.stages.answered = stage(
    "sft", start="sophia", data="data/answers.jsonl", train=short
  )
  rounds: dict[str, Any] = {**world.ROUNDS, "data": "", "rounds": 24}
  c.stages.grpo = stage("grpo", n=8, kl=0.0, **rounds)
  # A warm-up of another length, from the policy that only sees.
  c.stages.dose = stage(
    "sft",
    start="base",
    data="data/warmup.jsonl",
    train=c.stages.warmup.train.to_dict(),
  )
  return c
