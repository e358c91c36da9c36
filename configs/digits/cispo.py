"""CISPO in the world of handwritten digits, from the quickstart's result on.

Method:    docs/algorithms/cispo.md (arXiv 2506.13585)
Run:       python -m launch.run --config=configs/digits/cispo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("cispo", "cispo", n=8, **world.ROUNDS)
