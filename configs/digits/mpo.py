"""MPO on pairs of own samples, in the world of handwritten digits.

The policy answers every training problem eight times; right answers are paired
with wrong ones.

Method:    docs/algorithms/mpo.md (arXiv 2411.10442)
Run:       python -m launch.run --config=configs/digits/mpo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("mpo", "mpo", **world.PAIRS)
