"""GRPO in the world of handwritten digits, from the quickstart's result on.

Method:    docs/algorithms/grpo.md (arXiv 2402.03300)
Run:       make quickstart-grpo
           python -m launch.run --config=configs/digits/grpo.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world

MORE = 160
"""Rounds; the methods that are compared make `world.ROUNDS`."""


def get_config() -> ConfigDict:
  values = {**world.ROUNDS, "rounds": MORE}
  c = world.followed_by("grpo", "grpo", n=8, kl=0.0, **values)
  c.prepare.corpus.practice = MORE * c.stages.grpo.groups
  return c
