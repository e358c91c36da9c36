"""Captions, reasoning and rewards -> W/trajectories. Resumes after a kill.

Several processes, on one machine or many with a common W, may share the work:
each takes a shard, and each may be killed and started again.

Example:
  python -m launch.sample --config=configs/quickstart.py --workdir=runs/quickstart
  python -m launch.sample --config=C --workdir=W --shard=0/2 &
  python -m launch.sample --config=C --workdir=W --shard=1/2
"""

from absl import flags

from launch import cli
from sophia_jax import files
from sophia_jax.runs import sampling, stages

EXAMPLE = "python -m launch.sample --config=configs/quickstart.py --workdir=W"


def main() -> None:
  shard = sampling.Shard.of(flags.FLAGS.shard)
  run = cli.run_of_flags()
  with files.exclusive(run.workdir / ".setup.lock", "preparing the run"):
    stages.prepare(run)
    stages.warm_up(run)
  sampling.sample(run, shard)
  print(f"trajectories: {run.workdir / 'trajectories'}")


if __name__ == "__main__":
  cli.define_run_flags()
  flags.DEFINE_string(
    "shard", "0/1", "Part of the problems, as i/n from 0/n to n-1/n."
  )
  cli.start(main, EXAMPLE, ("config", "workdir"))
