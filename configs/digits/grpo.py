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


ROUNDS = {**world.ROUNDS, "rounds": 160}
"""More than the other methods make, which are compared over 100."""


def get_config() -> ConfigDict:
  c = world.followed_by("grpo", "grpo", n=8, kl=0.0, **ROUNDS)
  c.prepare.corpus.practice = ROUNDS["rounds"] * ROUNDS["groups"]
  return c
