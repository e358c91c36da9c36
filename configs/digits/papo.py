"""PAPO on GRPO in the world of handwritten digits, from the quickstart's result
on.

Method:    docs/algorithms/papo.md (arXiv 2507.06448)
Run:       python -m launch.run --config=configs/digits/papo.py --workdir=W \\
             --config.base=runs/quickstart
           --config.stages.papo.gamma=0.5 --config.stages.papo.eta=0.0 is the arm
           that is meant to collapse
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("papo", "papo", n=8, kl=0.0, **world.ROUNDS)
