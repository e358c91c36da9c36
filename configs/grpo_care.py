"""GRPO-CARE on Qwen2.5-VL-7B, with the settings of the authors' code.

Paper:     arXiv 2506.16141: 8 rollouts of 768 tokens, 4 problems an update, one
           pass over SEED-Bench-R1's 6,000, images of at most 401,408 pixels; bonus
           0.5, likelihood up to 0.95, a copy of the policy with decay 0.995 that
           moves every 10 updates, no KL; L3 +6.7 and consistency +24.5 points over
           GRPO
Data:      as for configs/seed_bench_r1.py
Run:       python -m launch.run --config=configs/grpo_care.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.data.problems=/data/train.jsonl \\
             --config.data.heldout=/data/levels.jsonl
           general videos: --config.stages.grpo_care.margin=0.01
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/grpo_care.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import seed_bench_r1


def get_config() -> ConfigDict:
  return seed_bench_r1.run_of(
    "grpo_care",
    768,
    most=512,
    rounds=1500,
    groups=4,
    train={"schedule": "cosine", "weight_decay": 0.01, "clip_norm": 5.0},
  )
