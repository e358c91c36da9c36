"""CISPO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2506.13585: the importance weight is cut, no token is dropped
Run:       python -m launch.run --config=configs/cispo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/cispo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of("cispo", n=16, rounds=500, groups=64, minibatches=4)
