"""MPO on InternVL3-8B, with the settings of its paper.

Paper:     arXiv 2411.10442: 0.8 DPO + 0.2 BCO + 1.0 NLL, beta 0.1, at most 15
           pairs a problem, learning rate 2e-7, batch 256
Run:       python -m launch.run --config=configs/mpo.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/mpo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b


def get_config() -> ConfigDict:
  return policy_8b.run_of(
    "mpo",
    n=32,
    pairs=15,
    train={
      "learning_rate": 2e-7,
      "schedule": "cosine",
      "warmup_steps": 100,
      "microbatches": 16,
    },
  )
