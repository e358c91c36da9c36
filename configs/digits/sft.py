"""Supervised fine-tuning on worked solutions, in the world of handwritten digits.

The solutions are written from the true scenes: what imitation reaches where
somebody reasons about every image without a mistake of reading. SOPHIA has no
such text; it is the upper arm of the comparison.

Method:    docs/algorithms/sft.md
Run:       python -m launch.run --config=configs/digits/sft.py --workdir=W \
             --config.base=runs/quickstart
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/rounds.md
"""

from ml_collections import ConfigDict

from configs.digits import world


def get_config() -> ConfigDict:
  return world.followed_by(
    "sft",
    "sft",
    start="warmup",
    data="data/solutions.jsonl",
    train={**world.TRAIN, "epochs": 10, "tiles": 16},
  )
