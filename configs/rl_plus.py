"""RL-PLUS on InternVL3-8B, with the settings of its paper and code.

Paper:     arXiv 2508.00222: 7 rollouts and a teacher's answer to each of 128
           problems, 2 updates a round, learning rate 1e-6, answers of 8,192
           tokens, U = 1, gamma 0.5, entropy 0.001
Data:      problems with one response each of a strong reasoner, such as
           OpenR1-Math (as released) or NuminaMath-1.5 (as in the paper); both
           are text. The ids of the responses are those of the problems.
Run:       python -m launch.run --config=configs/rl_plus.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.data.problems=/data/problems.jsonl \\
             --config.data.heldout=/data/heldout.jsonl \\
             --config.teachers.teacher.file=/data/responses.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/rl_plus.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b
from sophia_jax.config import defaults
from sophia_jax.runs.policies import TeacherConfig


def get_config() -> ConfigDict:
  c = policy_8b.run_of(
    "rl_plus", n=8, rounds=300, groups=128, minibatches=2, longest=8192
  )
  c.answering.max_new_tokens = 8192
  c.teachers = {"teacher": defaults(TeacherConfig, file="data/responses.jsonl")}
  return c
