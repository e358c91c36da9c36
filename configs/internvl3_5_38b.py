"""SOPHIA on InternVL3.5-38B (Qwen3 decoder), with the paper's settings.

Paper:     arXiv 2507.16814 gives no row of this model, which is newer
Run:       as configs/internvl3_8b.py, with --config=configs/internvl3_5_38b.py
           and --config.policy.path=/models/InternVL3_5-38B-Instruct
Hardware:  as configs/internvl3_38b.py
Expect:    not run at this size yet
"""

from ml_collections import ConfigDict

from configs import internvl3_38b


def get_config() -> ConfigDict:
  c = internvl3_38b.get_config()
  c.size = "internvl3_5_38b"
  return c
