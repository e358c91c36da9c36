"""GRPO-CARE with clips of handwritten digits, from the quickstart's result on.

The world and the first stages are those of configs/digits/seed_bench_r1.py; right
answers that a slowly moving copy of the policy finds likely after their reasoning
earn more.

Method:    docs/algorithms/grpo_care.md (arXiv 2506.16141)
Run:       python -m launch.run --config=configs/digits/grpo_care.py --workdir=W \\
             --config.base=runs/quickstart
           without the bonus: --config.stages.grpo_care.bonus=0
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import seed_bench_r1, world
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  c = seed_bench_r1.get_config()
  # 40 updates in place of the paper's 1,500: the copy moves more often.
  c.stages.grpo_care = stage("grpo_care", every=2, **seed_bench_r1.ROUNDS)
  c.order = (*world.FIRST, "clips", "grpo_care")
  return c
