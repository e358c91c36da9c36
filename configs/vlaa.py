"""VLAA-Thinker on Qwen2.5-VL-7B, with the settings of its paper.

Paper:     arXiv 2504.11468: 4 rollouts of 512 problems, 49 rounds
           over 25k problems, adaptive KL from 1e-3 to a target of 5e-4; average of
           six benchmarks 40.1 -> 42.5 (Table 4)
Run:       python -m launch.run --config=configs/vlaa.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.scorer.engine=http --config.scorer.urls=http://HOST:PORT \\
             --config.data.problems=/data/rl.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
           The stages "chains" and "sft" of configs/digits/vlaa.py make such data.
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/vlaa.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b, qwen2_5_vl_7b


def get_config() -> ConfigDict:
  # 256 samples an update; the peak of the learning rate is not given, its end
  # and the share of the warm-up are.
  c = policy_8b.run_of(
    "vlaa",
    n=4,
    rounds=49,
    groups=512,
    minibatches=8,
    train={
      "learning_rate": 1e-6,
      "schedule": "cosine",
      "final_fraction": 0.5,
      "warmup_steps": 12,
    },
  )
  return qwen2_5_vl_7b.adopt(c)
