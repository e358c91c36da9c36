"""The world with unclear digits, and SOPHIA once more on other problems.

As `further` is to the quickstart: the policy reasons already, so that a short
update shows what its examples are worth.

Run:       python -m sophia_jax.evidence run unclear_further
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/evidence.md
"""

from ml_collections import ConfigDict

from configs.digits import unclear
from configs.evidence import further


def get_config() -> ConfigDict:
  c = unclear.get_config()
  c.stages.further = further.get_config().stages.further
  c.stages.further.trajectories = c.stages.sophia.trajectories
  c.order = (*c.order, "further")
  return c
