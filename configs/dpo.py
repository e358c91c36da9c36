"""DPO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2305.18290: beta 0.1; pairs as MPO makes them
Run:       python -m launch.run --config=configs/dpo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/dpo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of(
    "dpo",
    n=32,
    train={"learning_rate": 5e-7, "schedule": "cosine", "microbatches": 16},
  )
