"""RL-PLUS in the world of handwritten digits, from the quickstart's result on.

The teacher's answers are worked solutions, one for each problem of the rounds.

Method:    docs/algorithms/rl_plus.md (arXiv 2508.00222)
Run:       python -m launch.run --config=configs/digits/rl_plus.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.runs.policies import TeacherConfig


def get_config() -> ConfigDict:
  c = world.followed_by("rl_plus", "rl_plus", n=8, longest=128, **world.ROUNDS)
  c.teachers = {
    "teacher": defaults(TeacherConfig, file="data/practice_solutions.jsonl")
  }
  return c
