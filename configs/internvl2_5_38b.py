"""SOPHIA on InternVL2.5-38B, as the paper sets it.

Paper:     arXiv 2507.16814, App. B.1 and Table 1, row "InternVL2.5-38B + SOPHIA":
           average of the eight benchmarks 43.09 -> 54.03, MathVision 31.32 ->
           47.96, OlympiadBench 23.06 -> 49.22
Run:       as configs/internvl3_8b.py, with --config=configs/internvl2_5_38b.py
Hardware:  as configs/internvl3_38b.py: the shapes are the same
Expect:    not run at this size yet; the rows above are the paper's
"""

from ml_collections import ConfigDict

from configs import internvl3_38b


def get_config() -> ConfigDict:
  c = internvl3_38b.get_config()
  c.size = "internvl2_5_38b"
  return c
