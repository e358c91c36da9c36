"""Jobs whose files are kept in tests/jobs/golden.

python -m tests.jobs.golden writes them again; look at the difference.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs import grpo, internvl3_8b, internvl3_38b, quickstart
from configs import sophia_grpo_8b as sophia_grpo
from sophia_jax.jobs import gke, sky, slurm
from sophia_jax.jobs.job import Job
from sophia_jax.runs import submission
from sophia_jax.runs.run import Run

DIRECTORY = Path(__file__).parent / "golden"
START_S = 3600.0

# name: target, config, servers, overrides
JOBS: dict[str, tuple[str, Any, str | None, dict[str, Any]]] = {
  "gke-tpu": (
    "gke",
    internvl3_38b,
    "policy:4,easy:2,difficult:2",
    {"topology": "v5p:4x4x4", "job.queue": "tpus"},
  ),
  "gke-gpu": ("gke", grpo, "policy:2", {"topology": "h100:32"}),
  "gke-cpu": ("gke", quickstart, None, {}),
  "slurm": (
    "slurm",
    sophia_grpo,
    "policy:2,easy",
    {
      "topology": "h100:32",
      "reasoners.difficult.urls": "http://10.0.0.1:30000",
      "job.time": "24:00:00",
      "job.sbatch": ("--account=lab",),
    },
  ),
  "slurm-alone": ("slurm", quickstart, None, {"seed": 7}),
  "sky": ("sky", internvl3_8b, None, {"topology": "h100:32"}),
}


def job(
  target: str, module: Any, servers: str | None, overrides: dict[str, Any]
) -> Job:
  """Builds the job of a config with overrides."""
  config = module.get_config()
  config.update_from_flattened_dict(overrides)
  name = module.__name__.rpartition(".")[2]
  run = Run(config, f"/shared/{name}", overrides)
  path = f"configs/{name}.py"
  where = {"root": "/sophia_jax", "python": ".venv/bin/python"}
  return submission.job_of(
    run, target, servers, path, name, **(where if target == "slurm" else {})
  )


def files(name: str) -> dict[str, str]:
  """Returns the files of a job by their names."""
  target = JOBS[name][0]
  found = job(*JOBS[name])
  if target == "gke":
    return gke.files(found, START_S)
  return sky.files(found) if target == "sky" else slurm.files(found)


def main() -> None:
  for name in JOBS:
    for file, text in files(name).items():
      (DIRECTORY / name).mkdir(parents=True, exist_ok=True)
      (DIRECTORY / name / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
  main()
