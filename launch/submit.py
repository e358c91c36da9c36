"""Files that start a run on a cluster: GKE, Slurm, or through SkyPilot.

They start what the config says: servers of the models that are sampled from
(config.serve), a trainer on the hosts of config.topology, and its commands in
their order. Section `job` of the config says what the cluster calls things.
Without --submit the files are only written; `submit.sh` among them does the same.

Examples:
  python -m launch.submit --config=configs/internvl3_38b.py --target=gke \\
    --config.topology=v5p:4x4x4 --servers=policy:4,easy:2,difficult:4
  python -m launch.submit --config=configs/grpo.py --target=slurm \\
    --workdir=/shared/W --servers=policy:2 --config.job.time=24:00:00 --submit
"""

import shutil
import subprocess
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from launch import cli
from sophia_jax.files import write_text
from sophia_jax.jobs import gke, sky, slurm
from sophia_jax.jobs.job import Job, plain
from sophia_jax.runs import submission
from sophia_jax.runs.run import Run
from sophia_jax.servers import supervise
from sophia_jax.types import SophiaError

EXAMPLE = "python -m launch.submit --config=configs/grpo.py --target=slurm"
TOOLS = {"gke": "kubectl", "slurm": "sbatch", "sky": "sky"}
ROOT = Path(__file__).parents[1]


def main() -> None:
  target, config = flags.FLAGS.target, flags.FLAGS.config
  if flags.FLAGS.submit and not shutil.which(TOOLS[target]):
    raise SophiaError(
      f"--submit: no {TOOLS[target]} here; leave it out, and run submit.sh "
      "where there is one"
    )
  name = submission.job_config(config).name or Path(_config()).stem
  run = Run(config, _workdir(target, name), cli.given())
  job = submission.job_of(
    run, target, flags.FLAGS.servers, _config(), name, **_commands(target)
  )
  notes = submission.notes(run, job)
  if flags.FLAGS.submit and notes:
    raise SophiaError(f"--submit: {notes[0]}")
  out = Path(flags.FLAGS.out or f"runs/jobs/{job.name}-{target}")
  for name, text in _files(target, job).items():
    write_text(out / name, text)
    if not name.endswith(".yaml"):
      (out / name).chmod(0o755)
    print(out / name)
  print(_summary(job))
  for note in notes:
    print(f"note: {note}")
  if flags.FLAGS.submit:
    done = subprocess.run(["bash", str(out / "submit.sh")], check=False)
    if done.returncode:
      raise SophiaError(f"{out / 'submit.sh'}: ended with {done.returncode}")
  else:
    print(f"submit it: bash {out / 'submit.sh'}")


def _config() -> str:
  """Returns the path of the config, as commands in the repository name it."""
  given = config_flags.get_config_filename(flags.FLAGS["config"])
  path = Path(given.partition(f"{cli.SAVED}:")[2] or given)
  absolute = path.absolute()
  return str(
    absolute.relative_to(ROOT) if absolute.is_relative_to(ROOT) else absolute
  )


def _workdir(target: str, name: str) -> str:
  """Returns --workdir, or a directory of the shared file system.

  Raises:
    SophiaError: containers would not see it, or a path with white space.
  """
  mount = submission.job_config(flags.FLAGS.config).mount
  path = Path(flags.FLAGS.workdir or f"{mount}/{plain(name)}").absolute()
  if len(str(path).split()) > 1:
    raise SophiaError(f"--workdir={path}: has white space; use another name")
  if target != "slurm" and not path.is_relative_to(mount):
    raise SophiaError(
      f"--workdir={path}: not below config.job.mount={mount}, where containers "
      "have the file system that all of them see"
    )
  return str(path)


def _commands(target: str) -> dict[str, str]:
  """Returns how commands are started where there is no container."""
  return (
    {"root": str(ROOT), "python": sys.executable} if target == "slurm" else {}
  )


def _files(target: str, job: Job) -> dict[str, str]:
  if target == "gke":
    how = supervise.serve_config(flags.FLAGS.config)
    return gke.files(job, how.start_s)
  return sky.files(job) if target == "sky" else slurm.files(job)


def _summary(job: Job) -> str:
  """Says in a line what runs on how many hosts."""
  servers = [f"{s.count} x {s.key.rpartition('.')[2]}" for s in job.servers]
  t, s = job.trainer, job.server
  serving = f"; servers {', '.join(servers)} on {s.name}:{s.topology}"
  return (
    f"{job.name}: {t.name}:{t.topology}, {t.hosts} host{'s' * (t.hosts > 1)}"
    f"{serving if servers else ''}; workdir {job.workdir}"
  )


if __name__ == "__main__":
  cli.define_run_flags()
  flags.DEFINE_enum(
    "target", None, list(submission.TARGETS), "Kind of cluster."
  )
  flags.DEFINE_string(
    "servers",
    None,
    "Servers by model, as policy:4,easy:2; by default one for each model that is "
    "sampled from, whose engine is sglang and that has no URLs.",
  )
  flags.DEFINE_string("out", None, "Directory of the files.")
  flags.DEFINE_bool("submit", False, "Submit the job as well.")
  cli.start(main, EXAMPLE, ("config", "target"))
