"""RLOO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2402.14740: 4 rollouts, batch 512, KL 0.03 in the reward
Run:       python -m launch.run --config=configs/rloo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/rloo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of("rloo", n=4, kl=0.03, rounds=500, groups=128)
