"""The quickstart, cut to what fits the time: seconds of each stage.

A tenth of its problems and passes over the data, so that its accuracy means
nothing; every stage runs as it does for a user.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu.common import arguments, emit

SHORT = {
  "prepare.corpus.problems": 100,
  "prepare.corpus.heldout": 50,
  "prepare.corpus.warmup_scenes": 1000,
  "prepare.corpus.reasoner_examples": 2000,
  "prepare.vision.steps": 100,
  "stages.reasoner.train.epochs": 1,
  "stages.warmup.train.epochs": 1,
  "stages.sophia.train.epochs": 1,
  "stages.sophia.random": "true",
}
"""A reasoner of one pass is seldom right: any trajectory is learnt from."""
TINY = SHORT | {
  "prepare.corpus.problems": 10,
  "prepare.corpus.heldout": 5,
  "prepare.corpus.warmup_scenes": 80,
  "prepare.corpus.reasoner_examples": 160,
  "prepare.vision.steps": 2,
  "prepare.vision.images": 8,
  "prepare.encoder.width": 16,
  "prepare.encoder.depth": 1,
  "prepare.encoder.heads": 2,
  "prepare.encoder.mlp": 32,
  "prepare.decoder.width": 32,
  "prepare.decoder.depth": 1,
  "prepare.decoder.heads": 2,
  "prepare.decoder.kv_heads": 1,
  "prepare.decoder.head_dim": 16,
  "prepare.decoder.mlp": 64,
  "engine.slots": 4,
  "engine.prefill_rows": 2,
  "engine.chunk": 2,
  "stages.sophia.captions": 2,
  "stages.sophia.trajectories": 3,
  "captioning.max_new_tokens": 12,
  "reasoning.max_new_tokens": 20,
  "eval.max_new_tokens": 16,
  "stages.sophia.keep_n": 3,
  "stages.sophia.train.epochs": 4,
  "stages.sophia.train.rows": 2,
}


def main() -> None:
  args = arguments(__doc__)
  changed = TINY if args.dry else SHORT
  with tempfile.TemporaryDirectory() as folder:
    command = [sys.executable, "-m", "launch.run", f"--workdir={folder}/run"]
    command += ["--config=configs/quickstart.py"]
    command += [f"--config.{key}={value}" for key, value in changed.items()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    report = json.loads(Path(folder, "run/report.json").read_text("utf-8"))
  emit(
    {"seconds_by_stage": report.get("seconds"), "device": report.get("device")}
  )


if __name__ == "__main__":
  main()
