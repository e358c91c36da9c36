"""OpenVLThinker on Qwen2.5-VL-7B, with the settings of its paper.

Paper:     arXiv 2503.17352 v3: three times SFT from the base on
           3k verified chains, GRPO on 3k medium and 6k hard problems; MathVista
           68.5 -> 72.3, average of six benchmarks 45.6 -> 47.9 (Table 1)
Run:       python -m launch.run --config=configs/openvlthinker.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.reasoners.easy.path=/models/QwQ-32B \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
           The problems name their data sets in `source`; buckets go by them.
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/openvlthinker.py runs on two cores
"""

from typing import Any

from ml_collections import ConfigDict

from configs import internvl3_8b, policy_8b, qwen2_5_vl_7b
from sophia_jax.runs.stage import stage

ALL = ("vision", "projector", "language")
SFT = {
  **policy_8b.TRAIN,
  "trained": ALL,
  "learning_rate": 5e-7,
  "schedule": "cosine",
  "warmup_steps": 9,  # a tenth of 3k chains in batches of 32
}


def grpo(passes: int, problems: int, **train: Any) -> ConfigDict:
  """Returns a stage of so many passes over so many problems."""
  return stage(
    "openvlthinker",
    rounds=passes * problems // 512,
    groups=512,
    minibatches=4,
    data=f"rate/{'medium' if problems == 3000 else 'hard'}.jsonl",
    train={**policy_8b.TRAIN, "weight_decay": 1e-2, **train},
  )


def iteration(i: int) -> dict[str, ConfigDict]:
  """Returns the stages of iteration `i`, from 1."""
  return {
    f"chains{i}": stage(
      "chains",
      start="base" if i == 1 else "previous",
      captions=int(i == 1),
      reflections=1,
      data="rate/medium.jsonl",
    ),
    f"sft{i}": stage(
      "sft", start="base", data=f"chains{i}/chains.jsonl", train=SFT
    ),
    f"medium{i}": grpo(5, 3000),
    f"hard{i}": grpo(15, 6000, trained=ALL),
  }


def get_config() -> ConfigDict:
  c = internvl3_8b.get_config()
  c.answering.max_new_tokens = 2048
  c.stages = {"rate": stage("buckets", most=(0, 3000, 6000))}
  for i in (1, 2, 3):
    c.stages.update(iteration(i))
  loop = (name for i in (1, 2, 3) for name in iteration(i))
  c.order = ("rate", *loop)
  return qwen2_5_vl_7b.adopt(c)
