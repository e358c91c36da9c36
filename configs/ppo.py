"""PPO with a critic on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 1707.06347, 1506.02438; values and coefficients as verl sets
           them
Run:       python -m launch.run --config=configs/ppo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/ppo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of(
    "ppo", n=1, kl=0.001, critic="head", rounds=1000, groups=512, minibatches=2
  )
