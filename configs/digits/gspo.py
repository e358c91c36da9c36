"""GSPO in the world of handwritten digits, from the quickstart's result on.

Method:    docs/algorithms/gspo.md (arXiv 2507.18071)
Run:       python -m launch.run --config=configs/digits/gspo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("gspo", "gspo", n=8, **world.ROUNDS)
