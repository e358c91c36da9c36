"""Embodied-R on Qwen2.5-3B-Instruct, with the settings of its paper.

Paper:     arXiv 2504.12680 and its code: 8 answers of at most 2,048 tokens, 32 an
           update, 12 epochs over 4,061 questions, learning rate 5e-7 with 5 % of
           warm-up, KL 0.001; form, accuracy and consistency weigh 7:3:0 for two
           epochs, 3:7:0 for two, then 1:7:2
Data:      multiple choice on videos, such as VSI-Bench and UrbanVideo-Bench,
           split by scene: python -m sophia_jax.datasets keyframes VIDEOS.jsonl
           /data/videos.jsonl --fps 1
Run:       python -m launch.run --config=configs/embodied_r.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-3B-Instruct \\
             --config.teachers.reader.path=/models/Qwen2.5-3B-Instruct \\
             --config.teachers.describer.urls=http://HOST:PORT \\
             --config.data.problems=/data/videos.jsonl \\
             --config.stages.describe_heldout.data=/data/videos_heldout.jsonl
Hardware:  one node of 8 H100, servers of the describer beside it
Expect:    not run at this size; configs/digits/embodied_r.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import base
from sophia_jax.config import defaults
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.stage import stage

THINK = (
  "Answer a question about a video that is described to you view by view. Think "
  "first, then answer with the letter of an option, in this form: "
  "<think>your thoughts</think><answer>letter</answer>"
)
ROUNDS = 12180
"""Rounds of 4 questions: 12 epochs over 4,061."""


def get_config() -> ConfigDict:
  c = base.get_config()
  c.policy.update(remat="block")
  c.prompts.slow_thinking = THINK
  c.answering.max_new_tokens = 2048
  c.engine = defaults(EngineConfig, slots=64, length=8192)
  c.eval.update(temperature=0.0, max_new_tokens=2048)
  c.data.heldout = "describe_heldout/described.jsonl"
  c.teachers = {
    "describer": defaults(
      TeacherConfig,
      engine="sglang",
      served="Qwen2.5-VL-72B-Instruct",
      cache="descriptions",
    ),
    "reader": defaults(TeacherConfig, cache="readings", absent="stop"),
  }
  c.stages = {
    "describe": stage("describe"),
    "describe_heldout": stage("describe", data="data/videos_heldout.jsonl"),
    "embodied_r": stage(
      "embodied_r",
      data="describe/described.jsonl",
      n=8,
      rounds=ROUNDS,
      groups=4,
      train={
        "rows": 8,
        "tiles": 0,
        "length": 8192,
        "block": 1024,
        "learning_rate": 5e-7,
        "warmup_steps": ROUNDS // 20,
        "log_every": 1,
      },
    ),
  }
  c.order = ("describe", "describe_heldout", "embodied_r")
  return c
