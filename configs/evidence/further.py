"""The quickstart, and SOPHIA once more on other problems.

The policy reasons already, so that a short update shows what its examples are
worth. The captions are the warmed-up policy's: the quickstart's result no longer
keeps their form.

Run:       python -m sophia_jax.evidence run table5
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/evidence.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  c = world.followed_by(
    "further",
    "sophia",
    sampler="warmup",
    captions=3,
    trajectories=4,
    alpha=0.7,
    train={
      **world.TRAIN,
      "tiles": 16,
      "updates": 150,
      # The rate that the quickstart's schedule ends with.
      "learning_rate": 5e-4,
    },
  )
  c.prepare.corpus.practice = 0
  return c
