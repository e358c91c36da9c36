"""One GRPO round of InternVL3-2B: sampling, scoring, an update; seconds of each.

8 questions with an image, 8 answers of exactly 128 tokens each, rewards that cost
nothing. The first round compiles and is left out.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from benchmarks.gpu.common import (
  TOY,
  arguments,
  emit,
  peak_gib,
  random_params,
  shared_memory,
  size_of,
)
from benchmarks.rollout_embedded import SIZES, Both
from benchmarks.round_ours import Ours, method
from benchmarks.round_task import Scale, task_of

NAME = "internvl3_2b"
TINY = Scale("toy", questions=2, n=2, new=4, batch=2, slots=4, block=32)
FULL = Scale(NAME, questions=8, n=8, new=128, batch=8, slots=64, block=1024)


def main() -> None:
  args = arguments(__doc__)
  scale = TINY if args.dry else FULL
  SIZES[scale.size] = TOY if args.dry else size_of(NAME)
  rounds = 1 if args.dry else 2
  with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
    both = Both(
      SIZES[scale.size],
      scale.questions,
      Path(folder),
      dtype="bfloat16",
      draw=random_params,
    )
    how = {"param_dtype": "float32", "remat": "attention"}
    both.cfg = dataclasses.replace(both.cfg, **how)  # type: ignore[arg-type]
    task = task_of(both, scale, Path(folder), rounds + 1, 0.0)
    if not args.dry:
      task = dataclasses.replace(task, together=8, multiple=128)
    with Ours(both, task, method("grpo", task), "grpo") as ours:
      ours()
      for _ in range(rounds):
        parts = {k: round(v, 3) for k, v in ours().items()}
        emit(
          {
            "s": parts,
            "answers": scale.questions * scale.n,
            "peak_gib": peak_gib(),
          }
        )


if __name__ == "__main__":
  main()
