"""SEED-Bench-R1 on Qwen2.5-VL-7B, with the settings of the authors' code.

Paper:     arXiv 2503.24376 on Qwen2-VL-7B: 8 rollouts of 256 tokens, 8 problems an
           update, one pass over 6,000 problems of 16 frames and an image of at
           most 153,664 pixels, KL 0.1; accuracy on L1, L2, L3: 34.8, 34.0, 31.6 ->
           46.0, 50.2, 44.9 (SFT 43.8, 44.1, 38.2). Qwen2-VL is not read here; this
           is its successor
Data:      python -m sophia_jax.datasets import --from=seed_bench_r1_train \\
             SEED-Bench-R1 /data/train.jsonl; seed_bench_r1 for the three levels
Run:       python -m launch.run --config=configs/seed_bench_r1.py --workdir=W \\
             --config.policy.path=/models/Qwen2.5-VL-7B-Instruct \\
             --config.data.problems=/data/train.jsonl \\
             --config.data.heldout=/data/levels.jsonl
           the arm that imitates: --config.order="('sft',)" \\
             --config.stages.sft.data=/data/chains.jsonl
Hardware:  one node of 8 H100 for the update, servers beside it
Expect:    not run at this size; configs/digits/seed_bench_r1.py runs on two cores
"""

from typing import Any

from ml_collections import ConfigDict

from configs import policy_8b, qwen2_5_vl_7b
from sophia_jax.runs.stage import stage

THINK = (
  "Output the thinking process in <think> </think> and the final answer in "
  "<answer> </answer> tags, that is: <think> reasoning process here </think>"
  "<answer> answer here </answer>."
)
ROUNDS: dict[str, Any] = {
  "n": 8,
  "rounds": 750,
  "groups": 8,
  "train": {"length": 16384},
}
IMAGES = 17
"""Images of a problem: frames, and what is seen now."""


def run_of(algorithm: str, tokens: int, most: int, **values: Any) -> ConfigDict:
  """Returns a run on video questions.

  Args:
    tokens: longest answer.
    most: most tokens of an image, each of which is 784 pixels.
    values: keys of the stage that differ from ROUNDS; `train` is merged.
  """
  train = {**ROUNDS["train"], **values.pop("train", {})}
  c = policy_8b.run_of(algorithm, **{**ROUNDS, **values, "train": train})
  c.prompts.slow_thinking = THINK
  c.answering.max_new_tokens = tokens
  c.eval.update(temperature=0.0, top_p=1.0, max_new_tokens=tokens)
  # Whole sequences, as many as a row has room for.
  sequences = train["length"] // (IMAGES * most + tokens)
  return qwen2_5_vl_7b.adopt(c, sequences * IMAGES * most, most=most)


def get_config() -> ConfigDict:
  most = 196
  c = run_of("seed_bench_r1", 256, most)
  # Packed rows of 8,192 tokens, 16 an update.
  c.stages.sft = stage(
    "sft",
    data="data/chains.jsonl",
    train={
      **policy_8b.TRAIN,
      "rows": 8,
      "microbatches": 2,
      "length": 8192,
      "tiles": 8 * 2 * IMAGES * most,
      "learning_rate": 2e-5,
      "schedule": "cosine",
      "warmup_steps": 20,
    },
  )
  return c
