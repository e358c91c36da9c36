"""SOPHIA on InternVL3.5-8B (Qwen3 decoder), with the paper's settings.

Paper:     arXiv 2507.16814 gives no row of this model, which is newer
Run:       as configs/internvl3_8b.py, with --config=configs/internvl3_5_8b.py and
           --config.policy.path=/models/InternVL3_5-8B-Instruct
Hardware:  one node of 8 H100 for the update, or a TPU topology
Expect:    not run at this size yet
"""

from ml_collections import ConfigDict

from configs import internvl3_8b


def get_config() -> ConfigDict:
  c = internvl3_8b.get_config()
  c.size = "internvl3_5_8b"
  return c
