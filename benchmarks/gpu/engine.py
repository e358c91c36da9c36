"""The embedded engine against Hugging Face generate: InternVL3-2B in bf16.

Both continue prompts of about 320 tokens, each with an image, greedily by exactly
128 tokens, in turns in one process: 8, 64 and 256 of them together.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.gpu.common import (
  TOY,
  arguments,
  emit,
  random_params,
  shared_memory,
  size_of,
)
from benchmarks.rollout_embedded import NEW, Both, interleaved

REPS = 3


def main() -> None:
  args = arguments(__doc__)
  batches = (2,) if args.dry else (8, 64, 256)
  size = TOY if args.dry else size_of("internvl3_2b")
  with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
    both = Both(
      size,
      max(batches),
      Path(folder),
      dtype="bfloat16",
      new=8 if args.dry else NEW,
      draw=random_params,
    )
    everything = both.prompts
    for batch in batches:
      both.prompts = everything[:batch]
      both.prefill_rows = min(batch, size.prefill_rows)
      compared(both, 1 if args.dry else REPS)


def compared(both: Both, reps: int) -> None:
  """Times both on the same prompts and prints a line."""
  works = {"ours": both.ours(), "hf": both.theirs()}
  same = float((works["ours"]() == works["hf"]()).mean())
  seconds = interleaved(works, reps)
  pairs = zip(seconds["ours"], seconds["hf"])
  new = len(both.prompts) * both.new
  emit(
    {
      "batch": len(both.prompts),
      "prompt_tokens": len(both.prompts[0]),
      "new_tokens": both.new,
      "tokens_per_s": {
        name: round(new / statistics.median(t[0] for t in times))
        for name, times in seconds.items()
      },
      "ratio": round(statistics.median(b[0] / a[0] for a, b in pairs), 3),
      "same_tokens": round(same, 4),
    }
  )


if __name__ == "__main__":
  main()
