"""PPO with a critic in the world of handwritten digits, from the quickstart's
result on.

Method:    docs/algorithms/ppo.md (arXiv 1707.06347)
Run:       python -m launch.run --config=configs/digits/ppo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by("ppo", "ppo", n=8, kl=0.0, **world.ROUNDS)
