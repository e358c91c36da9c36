"""Dr.GRPO in the world of handwritten digits, from the quickstart's result on.

Method:    docs/algorithms/dr_grpo.md (arXiv 2503.20783)
Run:       python -m launch.run --config=configs/digits/dr_grpo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by(
    "dr_grpo", "dr_grpo", n=8, longest=128, **world.ROUNDS
  )
