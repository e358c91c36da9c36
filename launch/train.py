"""Selection and update -> W/checkpoints, W/export. Resumes after a kill.

Several processes may train together, on one machine or many with a common W:
start each with the same command (under Slurm, by one `srun`), or name the
coordinator. If one is lost, all end; start them all again.

Example:
  python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m launch.train --config=C --workdir=W --coordinator=host-0:9999 \\
    --processes=2 --process=0
"""

from absl import flags

from launch import cli
from sophia_jax.hosts import meeting
from sophia_jax.runs import sampling, stages
from sophia_jax.types import SophiaError

EXAMPLE = "python -m launch.train --config=configs/quickstart.py --workdir=W"


def main() -> None:
  run = cli.run_of_flags()
  if flags.FLAGS.stage == "warmup":
    stages.warm_up(run)
    written = sampling.policy_directory(run)
  elif run.done("sample"):
    stages.train(run)
    written = run.workdir / "export"
  else:
    raise SophiaError(
      f"{run.workdir}: nothing is sampled yet; run launch.sample first"
    )
  if meeting.is_leader():
    print(f"checkpoint: {written}")


if __name__ == "__main__":
  cli.define_run_flags()
  meeting.define_flags()
  flags.DEFINE_enum(
    "stage",
    "train",
    ["warmup", "train"],
    "warmup: the stage before launch.sample, where it takes several hosts.",
  )
  cli.start(main, EXAMPLE, ("config", "workdir"))
