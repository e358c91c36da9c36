"""PAPO on DAPO in the world of handwritten digits, from the quickstart's result
on.

Method:    docs/algorithms/papo.md (arXiv 2507.06448)
Run:       python -m launch.run --config=configs/digits/papo_d.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("papo_d", "papo_d", n=8, **world.ROUNDS)
