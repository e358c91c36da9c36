"""The whole road on a laptop: handwriting, reasoned about by a small InternVL.

Scenes of two or three handwritten digits (UCI digits) and questions that need
reading them and then several steps. An InternVL of 1M parameters starts from
random weights, is warmed up on captions and plain reading, and learns to reason
by SOPHIA from a text-only reasoner that never sees an image.

Run:       make quickstart
           python -m launch.run --config=configs/quickstart.py --workdir=W
Hardware:  two CPU cores, 4 GiB
Time:      5 minutes, compilation included
Expect:    held-out pass@1 from 2.5 % (the warmed-up policy) to 53 %; other seeds
           and libraries 51 % to 59 % (docs/results)
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.get_config()
