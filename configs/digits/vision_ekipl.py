"""Vision-EKIPL in the world of handwritten digits, from the quickstart's result on.

The external model is the reasoner with a caption of the policy: its right answers
to the practice problems are stored first and join each pool. "distilled" is the
control that imitates them alone.

Method:    docs/algorithms/vision_ekipl.md (arXiv 2506.06856)
Run:       python -m launch.run --config=configs/digits/vision_ekipl.py \\
             --workdir=W --config.base=runs/quickstart
           the control: --config.order="('reasoner', 'warmup', 'sophia', \\
             'chains', 'distilled')"
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  c = world.followed_by(
    "vision_ekipl",
    "vision_ekipl",
    start="sophia",
    n=8,
    keep=8,
    kl=0.0,
    **world.ROUNDS,
  )
  c.stages.chains = stage(
    "chains",
    start="warmup",
    captions=1,
    trajectories=2,
    data=world.ROUNDS["data"],
  )
  c.stages.distilled = stage(
    "sft",
    start="sophia",
    data="chains/chains.jsonl",
    train=world.IMITATION,
  )
  c.teachers = {"teacher": defaults(TeacherConfig, file="chains/chains.jsonl")}
  c.order = (*world.FIRST, "chains", "vision_ekipl")
  return c
