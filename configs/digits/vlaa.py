"""VLAA-Thinker in the world of handwritten digits, from the quickstart's result on.

The stage "chains" builds the data: a caption and a chain of the reasoner for each
problem, verified, parted by words of doubt. GRPO learns the problems of doubted
chains; "sft" is the arm that imitates the others first.

Method:    docs/algorithms/vlaa.md (arXiv 2504.11468)
Run:       python -m launch.run --config=configs/digits/vlaa.py --workdir=W \\
             --config.base=runs/quickstart
           SFT first: --config.stages.vlaa.start=sft --config.order="('reasoner', \\
             'warmup', 'sophia', 'chains', 'sft', 'vlaa')"
           another start: --config.stages.vlaa.start=warmup, or sft.start=warmup
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  c = world.followed_by(
    "vlaa",
    "vlaa",
    start="sophia",
    n=4,
    **{**world.ROUNDS, "data": "chains/rl.jsonl"},
  )
  c.stages.chains = stage(
    "chains",
    start="warmup",
    captions=1,
    trajectories=1,
    data=world.ROUNDS["data"],
  )
  c.stages.sft = stage(
    "sft",
    start="sophia",
    data="chains/sft.jsonl",
    train=world.IMITATION,
  )
  c.order = (*world.FIRST, "chains", "vlaa")
  return c
