"""SOPHIA on InternVL2.5-8B (InternLM2.5 decoder), with the paper's settings.

Paper:     arXiv 2507.16814 gives no row of this size
Run:       as configs/internvl3_8b.py, with --config=configs/internvl2_5_8b.py
Hardware:  one node of 8 H100 for the update, or a TPU topology
Expect:    not run at this size yet
"""

from ml_collections import ConfigDict

from configs import internvl3_8b


def get_config() -> ConfigDict:
  c = internvl3_8b.get_config()
  c.size = "internvl2_5_8b"
  return c
