"""DAPO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2503.14476: 16 rollouts of 512 problems, 16 updates a round, clip
           0.2 and 0.28, no KL, dynamic sampling, overlong penalty
Run:       python -m launch.run --config=configs/dapo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/dapo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of(
    "dapo",
    n=16,
    rounds=300,
    groups=512,
    draws=10,
    minibatches=16,
    longest=16384,
  )
