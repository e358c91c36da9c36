"""The update of a stage -> W/export, W/report.html. Resumes by itself.

Several processes may do it together, on one machine or many with a common W:
each is started with the same command (under Slurm, by one `srun`), or is given
the coordinator's address. If one is lost, all end; start them all again.

Example:
  python -m launch.train --config=configs/quickstart.py --workdir=runs/quickstart
  python -m launch.train --config=C --workdir=W --coordinator=host-0:9999 \\
    --processes=2 --process=0
  python -m launch.train --workdir=W --name=slow \\
    --config.stages.sophia.train.learning_rate=1e-6
"""

from absl import flags

from launch import cli
from sophia_jax.hosts import meeting
from sophia_jax.runs import locks, pipeline, preflight, training, updates

EXAMPLE = "python -m launch.train --config=configs/quickstart.py --workdir=W"


def main() -> None:
  run = cli.run_of_flags(flags.FLAGS.name)
  run.agree()
  stage = pipeline.trainable(run, flags.FLAGS.stage)
  share = stage.name == run.last().name
  locks.check(run, share, update=True)
  preflight.check(run, stage.name)
  with locks.updating(run, share):
    run.begin()
    pipeline.update(run, stage)
    page = pipeline.page(run)
  if meeting.is_leader():
    print(f"checkpoint: {training.export_directory(run, stage)}")
    print(f"report: {page}")
    for line in updates.table(run.workdir):
      print(line)


if __name__ == "__main__":
  cli.define_run_flags()
  meeting.define_flags()
  cli.define_name_flag()
  cli.define_stage_flag("The stage; by default the last of config.order.")
  cli.start(main, EXAMPLE, ("config", "workdir"), resumes=True)
