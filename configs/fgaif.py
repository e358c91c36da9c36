"""FGAIF on InternVL3-8B, with the settings of its code.

Paper:     arXiv 2404.05046 on LLaVA-1.5-7B: 512 descriptions of COCO images a
           round, 2 updates of 256 an epoch, 2 epochs a round, 4 passes over 15k
           images, learning rate 1e-7 with cosine and a warm-up of 5, KL 0.1,
           answers of 896 tokens at temperature 1, rewards times 10. The reward
           models: rank 64, 2e-5, one here with three heads in place of three of
           13B.
Data:      problems that ask for a description, W/data/described.jsonl; their
           answers are not read
Run:       python -m launch.run --config=configs/fgaif.py --workdir=W \\
             --config.policy.path=/models/InternVL3-8B-hf \\
             --config.teachers.extractor.urls=http://HOST:PORT \\
             --config.teachers.extractor.served=NAME \\
             --config.teachers.checker.urls=http://HOST:PORT \\
             --config.teachers.checker.served=NAME \\
             --config.data.problems=/data/images.jsonl \\
             --config.data.heldout=/data/heldout.jsonl
           The extractor is a language model, the checker sees images.
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/fgaif.py runs on two cores
"""

from ml_collections import ConfigDict

from configs import policy_8b
from sophia_jax.config import defaults
from sophia_jax.runs.policies import TeacherConfig
from sophia_jax.runs.stage import stage

DESCRIBE = "Describe only what the image shows, in plain sentences."


def get_config() -> ConfigDict:
  c = policy_8b.run_of(
    "fgaif",
    n=1,
    rounds=4 * 15000 // 512,
    groups=512,
    minibatches=2,
    scale=10.0,
    train={
      "length": 4096,
      "epochs": 2,
      "learning_rate": 1e-7,
      "schedule": "cosine",
      "warmup_steps": 5,
    },
  )
  c.prompts.slow_thinking = DESCRIBE
  c.answering.max_new_tokens = 896
  c.teaching.temperature = 0.0
  c.teachers = {
    name: defaults(TeacherConfig, engine="sglang")
    for name in ("extractor", "checker")
  }
  c.stages.rewards = stage(
    "clause_rewards",
    labels="models",
    train={
      **policy_8b.TRAIN,
      "length": 4096,
      "lora_rank": 64,
      "learning_rate": 2e-5,
      "warmup_steps": 50,
      "epochs": 3,
    },
  )
  c.stages.fgaif.start = "base"
  c.order = ("rewards", "fgaif")
  return c
