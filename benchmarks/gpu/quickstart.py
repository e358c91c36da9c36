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
from configs.digits import world

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
TINY = SHORT | world.TOY | {"stages.sophia.train.epochs": 4}


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
