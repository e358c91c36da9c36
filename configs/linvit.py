"""LINVIT and SLINVIT with a language model at the size of the paper's.

Paper:     arXiv 2402.16181: Vicuna-13B and 33B in BlocksWorld (6 steps, 2
           children, 5 looked ahead), gpt-3.5-turbo on InterCode's SQL (5 turns,
           1 child, 1 looked ahead); ALFWorld needs games that are not here
Run:       python -m launch.run --config=configs/linvit.py --workdir=W \\
             --config.policy.path=/models/Qwen3-14B
           with intercode-bench installed its SQL questions are played, too; the
           proposals there are simulated
Hardware:  one node of 8 H100
Expect:    not run at this size; configs/digits/linvit.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import base
from sophia_jax.config import defaults
from sophia_jax.planning.lookahead import SearchConfig
from sophia_jax.planning.sweep import SweepConfig
from sophia_jax.runs.likelihoods import PriorConfig
from sophia_jax.runs.ways import EpisodesConfig


def get_config() -> ConfigDict:
  c = base.get_config()
  c.mesh.fsdp = 8
  c.planning = {
    "prior": defaults(PriorConfig),
    "sweep_lake": defaults(
      SweepConfig,
      world="frozen_lake",
      horizon=20,
      episodes=20_000,
      bonus=1.0,
      per_step=True,
    ),
    "sweep_blocks": defaults(
      SweepConfig,
      world="blocksworld",
      horizon=8,
      episodes=20_000,
      blocks=5,
      bonus=1.0,
      per_step=True,
    ),
    "search": defaults(SearchConfig, prior_weight=0.0),
    "episodes": defaults(EpisodesConfig, asked=100),
  }
  return c
