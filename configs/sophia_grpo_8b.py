"""SOPHIA and its continuation by GRPO on InternVL3-8B, as the paper has it.

Paper:     arXiv 2507.16814, App. B.2: 64 questions x 8 samples of at most 16,384
           tokens, learning rate 5e-7, 480 updates; questions whose pass rate
           under the base model is 0.4 to 0.6 over 16 samples
Run:       as configs/internvl3_8b.py, with --config=configs/sophia_grpo_8b.py
Hardware:  as configs/internvl3_8b.py; servers of the policy beside the update
Expect:    not run at this size; for 38B the paper reports an average of 55.51
           after SOPHIA and 57.28 after GRPO
"""

from ml_collections import ConfigDict

from configs import internvl3_8b, policy_8b
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  c = internvl3_8b.get_config()
  c.answering.max_new_tokens = 16384
  c.stages.screen = stage("screen", start="base", n=16, low=0.4, high=0.6)
  c.stages.grpo = stage(
    "grpo",
    data="screen/problems.jsonl",
    n=8,
    kl=0.0,
    rounds=480,
    groups=64,
    train={**policy_8b.TRAIN, "learning_rate": 5e-7},
  )
  c.order = ("sophia", "screen", "grpo")
  return c
