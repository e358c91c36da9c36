"""PAPO on GRPO, Qwen2.5-VL-7B, with the settings of its paper and code.

Paper:     arXiv 2507.06448, App. C: 5 rollouts of 384 problems of ViRL39K, 3
           updates a round, clip 0.2 and 0.3, dual clip 3, KL 0.01, gamma 0.02,
           eta 0.05, 60 % of the patches hidden, learning rate 1e-6, weight
           decay 0.01, the vision encoder learns, too; 2 epochs, 202 rounds; images
           of 200,704 to 1,003,520 pixels
Run:       python -m launch.run --config=configs/papo.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/papo.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b, qwen2_5_vl_7b

TRAIN = {
  "weight_decay": 0.01,
  "trained": ("vision", "projector", "language"),
}


def get_config() -> ConfigDict:
  c = policy_8b.run_of(
    "papo", n=5, rounds=202, groups=384, minibatches=3, train=TRAIN
  )
  c.answering.max_new_tokens = 2048
  return qwen2_5_vl_7b.adopt(c, least=256)
