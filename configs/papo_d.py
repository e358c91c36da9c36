"""PAPO on DAPO, Qwen2.5-VL-7B, with the settings of its paper and code.

Paper:     arXiv 2507.06448, App. C: as configs/papo.py, with clip 0.2 and 0.28,
           no KL, gamma 0.01, eta 0.03, groups with right and wrong answers only
           (at most 20 draws)
Run:       python -m launch.run --config=configs/papo_d.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/papo_d.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import papo, policy_8b, qwen2_5_vl_7b


def get_config() -> ConfigDict:
  c = policy_8b.run_of(
    "papo_d",
    n=5,
    rounds=202,
    groups=384,
    draws=20,
    minibatches=3,
    train=papo.TRAIN,
  )
  c.answering.max_new_tokens = 2048
  return qwen2_5_vl_7b.adopt(c, least=256)
