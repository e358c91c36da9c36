"""The quickstart in a world where some digits are too faint to read.

A share of the scenes has such a digit. True captions call it unclear, the
reasoner guesses it, each time another one, and every question has four options:
a lucky answer is a property of the trajectory, and a caption's mean over its
trajectories shows it. That is what the caption reward is for.

Run:       python -m launch.run --config=configs/digits/unclear.py --workdir=W
           without the caption reward, from the same samples: --workdir=W \\
             --name=plain --config.stages.sophia.no_caption_reward=true
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/evidence.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  c = world.get_config()
  c.prepare.corpus.update(unclear=0.25, options=True, problems=1600)
  c.stages.sophia.trajectories = 8
  c.engine.length = 256
  return c
