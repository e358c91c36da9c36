"""Vision-EKIPL on Qwen2.5-VL-7B, with the settings of the trainer it builds on.

Paper:     arXiv 2506.06856 says too little; these are Reason-RFT's (arXiv
           2503.20752): 8 rollouts, 14 problems an update, one update a round. Its
           policy is Qwen2-VL, which is not read here; this is its successor
Run:       python -m launch.run --config=configs/vision_ekipl.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.teachers.teacher.file=/data/teacher.jsonl \\
             --config.data.problems=/data/counting.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/vision_ekipl.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b, qwen2_5_vl_7b
from sophia_jax.config import defaults
from sophia_jax.runs.policies import TeacherConfig


def get_config() -> ConfigDict:
  c = policy_8b.run_of(
    "vision_ekipl", n=8, keep=8, task="counting", rounds=2500, groups=14
  )
  c.teachers = {"teacher": defaults(TeacherConfig, file="data/teacher.jsonl")}
  return qwen2_5_vl_7b.adopt(c)
