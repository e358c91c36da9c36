"""Embodied-R in a world of pans: a window moves over photographs and mosaics.

Photographs are scikit-learn's, mosaics are of UCI digits; ORB and a homography
choose the key frames. The describer's texts are exact, apart from known errors, and
stored. A text-only policy of 1M parameters learns worked answers whose reasoning
slips at times though the answer is right; then GRPO rewards form, accuracy and
consistency. The reader is the policy that the rounds start from.

Method:    docs/algorithms/embodied_r.md (arXiv 2504.12680)
Run:       python -m launch.run --config=configs/digits/embodied_r.py --workdir=W
           without the consistency reward: \\
             --config.stages.embodied_r.consistency="(0.0,0.0,0.0)"
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.digits.pan_corpus import PansConfig
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  c = world.get_config()
  c.prepare = {
    "name": "pans",
    "pans": defaults(PansConfig),
    "decoder": c.prepare.decoder,
  }
  c.reasoners = ConfigDict()
  c.teachers = {
    "describer": defaults(TeacherConfig, file="data/pans_views.jsonl"),
    "reader": defaults(TeacherConfig, path="learn/export", absent="stop"),
  }
  c.data.update(
    problems="describe/described.jsonl",
    heldout="describe_heldout/described.jsonl",
  )
  c.prompts.update(
    system="Read.",
    reading="{question}\n{reasoning}",
  )
  c.answering.max_new_tokens = c.eval.max_new_tokens = 72
  c.engine.update(length=256)
  c.stages = {
    "learn": stage(
      "sft",
      data="data/pans_worked.jsonl",
      train={**world.TRAIN, "tiles": 0, "final_fraction": 0.05},
    ),
    "describe": stage("describe", data="data/pans.jsonl"),
    "describe_heldout": stage("describe", data="data/pans_heldout.jsonl"),
    "embodied_r": stage(
      "embodied_r",
      data="describe/described.jsonl",
      n=8,
      begins=(0, 5, 10),
      rounds=40,
      groups=32,
      minibatches=1,
      train={**world.ROUND, "tiles": 0},
    ),
  }
  c.order = ("learn", "describe", "describe_heldout", "embodied_r")
  return c
