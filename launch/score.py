"""Log-probabilities of given responses, token by token (teacher-forced).

Reads lines {"id", "images", "question", "response", "system"?} and writes lines
{"id", "token_ids", "logprobs"} for the response, end of turn included.

A prompt begins with a system turn, which the chat templates of released models
leave out: to compare with transformers give it the same one, or --system='' here.

Example:
  python -m launch.score --model=W/export --data=examples.jsonl --out=scores.jsonl
"""

from pathlib import Path

from absl import flags

from launch import cli
from sophia_jax.checkpoints import hub
from sophia_jax.runs import scoring

EXAMPLE = "python -m launch.score --model=DIR --data=E.jsonl --out=S.jsonl"


def main() -> None:
  count = scoring.score(
    hub.local(flags.FLAGS.model),
    Path(flags.FLAGS.data),
    Path(flags.FLAGS.out),
    flags.FLAGS.dtype,
    flags.FLAGS.max_tiles,
    flags.FLAGS.system,
  )
  print(f"{count} responses scored: {flags.FLAGS.out}")


if __name__ == "__main__":
  flags.DEFINE_string(
    "model", None, "Checkpoint directory, or its name on the Hub."
  )
  flags.DEFINE_string("data", None, "Examples to score.")
  flags.DEFINE_string("out", None, "File of the scores.")
  flags.DEFINE_string("dtype", "float32", "Dtype of the computation.")
  flags.DEFINE_integer(
    "max_tiles", None, "Most tiles of an image; the model's if absent."
  )
  flags.DEFINE_string(
    "system",
    None,
    "System prompt of examples that have none; if absent the one that an export "
    "was trained under, for other InternVL checkpoints InternVL's own sentence. "
    "'': no system turn, as transformers' templates of released models have it.",
  )
  cli.start(main, EXAMPLE, ("model", "data", "out"))
