"""LINVIT and SLINVIT in FrozenLake, BlocksWorld and a small database.

The prior is that of the quickstart's policy: log-likelihoods of the actions'
texts. It knows nothing of these worlds, and the sweep says where that leaves it
among priors of known distance from the optimum.

Method:    docs/algorithms/linvit.md (arXiv 2402.16181)
Run:       python -m launch.run --config=configs/digits/linvit.py --workdir=W \\
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Time:      under 5 minutes, from a finished quickstart on
Expect:    BlocksWorld solved 0 % by the prior alone, 85 % by looking ahead; samples
           by prior in docs/results/linvit.md
"""

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.planning.lookahead import SearchConfig
from sophia_jax.planning.sweep import SweepConfig
from sophia_jax.runs.likelihoods import PriorConfig
from sophia_jax.runs.ways import EpisodesConfig


def get_config() -> ConfigDict:
  c = world.get_config()
  c.planning = {
    "prior": defaults(PriorConfig),
    "sweep_lake": defaults(
      SweepConfig, world="frozen_lake", horizon=20, episodes=600
    ),
    "sweep_blocks": defaults(
      SweepConfig, world="blocksworld", horizon=8, episodes=300
    ),
    "search": defaults(SearchConfig),
    "episodes": defaults(EpisodesConfig),
  }
  return c
