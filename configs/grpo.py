"""GRPO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2402.03300: 64 rollouts, KL 0.04, learning rate 1e-6, one update
           of 1,024 samples a round
Run:       python -m launch.run --config=configs/grpo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/grpo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of("grpo", n=64, kl=0.04, rounds=1000, groups=16)
