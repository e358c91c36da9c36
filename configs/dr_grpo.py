"""Dr.GRPO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2503.20783: 8 rollouts of 128 problems, no KL, no division by the
           standard deviation or the length
Run:       python -m launch.run --config=configs/dr_grpo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/dr_grpo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of("dr_grpo", n=8, rounds=500, groups=128, longest=16384)
