"""DAPO in the world of handwritten digits, from the quickstart's result on.

Method:    docs/algorithms/dapo.md (arXiv 2503.14476)
Run:       python -m launch.run --config=configs/digits/dapo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by(
    "dapo", "dapo", n=8, longest=128, buffer=32, **world.ROUNDS
  )
