"""DPO on pairs of own samples, in the world of handwritten digits.

The policy answers every training problem eight times; right answers are paired
with wrong ones.

Method:    docs/algorithms/dpo.md (arXiv 2305.18290)
Run:       python -m launch.run --config=configs/digits/dpo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("dpo", "dpo", **world.PAIRS)
