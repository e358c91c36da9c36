"""The rollouts of a stage that samples once -> W/trajectories. Resumes by itself.

Earlier stages that are not done are run first. Several processes, on one machine
or many with a common W, may share the work: each is given a shard, and each may
be killed and started again.

Example:
  python -m launch.sample --config=configs/quickstart.py --workdir=runs/quickstart
  python -m launch.sample --config=C --workdir=W --shard=0/2 &
  python -m launch.sample --config=C --workdir=W --shard=1/2
"""

from absl import flags

from launch import cli
from sophia_jax import files
from sophia_jax.runs import locks, pipeline, preflight, sampling
from sophia_jax.runs.shards import Shard

EXAMPLE = "python -m launch.sample --config=configs/quickstart.py --workdir=W"


def main() -> None:
  shard = Shard.of(flags.FLAGS.shard)
  run = cli.run_of_flags()
  stage = pipeline.first_sampled(run, flags.FLAGS.stage)
  locks.check(run, share=True)
  locks.check_shard(run, stage, shard)
  preflight.check(run, sampled=stage.name)
  with locks.writing(run, share=True):
    with files.exclusive(run.workdir / ".setup.lock", "earlier stages"):
      pipeline.run_until(run, stage)
    sampling.sample(run, stage, shard)
  print(f"trajectories: {sampling.store_directory(run, stage)}")


if __name__ == "__main__":
  cli.define_run_flags()
  cli.define_stage_flag("The stage; by default the first that samples once.")
  flags.DEFINE_string(
    "shard", "0/1", "Shard of the problems, as i/n from 0/n to n-1/n."
  )
  cli.start(main, EXAMPLE, ("config", "workdir"), resumes=True)
