"""Commands as lines of a shell script."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from sophia_jax.jobs.job import Job, Servers, Step

_JOINED = " \\\n  "


def written(words: Iterable[str], raw: Iterable[str] = ()) -> str:
  """Returns a command line, a line for each flag.

  Args:
    words: its words, which are quoted.
    raw: words that the shell expands, as they are.
  """
  words = [shlex.quote(word) for word in words]
  start = 0
  while start < len(words) and not words[start].startswith("--"):
    start += 1
  first = " ".join(words[:start])
  return _JOINED.join([first, *words[start:], *raw])


def serve(job: Job, servers: Servers, ready: str, log: str) -> str:
  """Returns the command of a server.

  Args:
    ready: path, in shell syntax, of the file written once it answers.
    log: path, in shell syntax, of its log.
  """
  return written(
    [
      *(job.python, "-m", "launch.serve"),
      *servers.flags,
      "--host=0.0.0.0",
      f"--port={job.config.port}",
      f"--api_key_env={job.key}",
    ],
    [f"--ready_file={ready}", f"--log={log}"],
  )


def step(
  job: Job, step: Step, urls: Mapping[str, str], more: Iterable[str] = ()
) -> str:
  """Returns the command of a step on one host.

  Args:
    urls: URLs of the servers by config key, in shell syntax.
    more: further flags, in shell syntax.
  """
  raw = [f"--config.{key}.urls={urls[key]}" for key in step.served]
  environment = ["env", "JAX_PLATFORMS=cpu"] if step.on_cpu else []
  return written(
    [*environment, job.python, "-m", step.module, *step.flags], [*raw, *more]
  )


PROLOGUE = r"""
set -euo pipefail
stopped='' child=''
trap 'stopped=1; kill -TERM "$child" 2>/dev/null' TERM
# Passes SIGTERM on, which bash does not: the command saves, then ends.
run() {
  local code=0
  "$@" &
  child=$!
  wait "$child" || code=$?
  if [ "$stopped" ]; then
    wait "$child" || true
    exit 143
  fi
  return "$code"
}
is_done() { grep -qs "\"$1\":" "$workdir/stages.json"; }
until_done() { until is_done "$1"; do sleep 5; done; }
""".strip()
"""Functions of a script that runs in a container, by itself on each host."""


def steps(
  job: Job,
  chosen: Iterable[Step],
  urls: Mapping[str, str],
  index: str = "",
  meeting: Iterable[str] = (),
) -> str:
  """Returns the script of the trainer on one host.

  Args:
    urls: URLs of the servers by config key, in shell syntax.
    index: number of the host among the trainer's, in shell syntax; "": the
      steps run on one host.
    meeting: flags, in shell syntax, by which joint processes meet.
  """
  lines = [f"workdir={shlex.quote(job.workdir)}", PROLOGUE]
  several = bool(index) and job.trainer.hosts > 1
  more = {
    "joint": tuple(meeting),
    "shards": (f'--shard="{index}/{job.trainer.hosts}"',),
    "one": (),
  }
  for each in chosen:
    flags = more[each.processes] if several else ()
    command = "run " + step(job, each, urls, flags)
    if each.done:
      command = f"is_done {shlex.quote(each.done)} || {command}"
    if several and each.processes == "one":
      command = f'[ "{index}" != 0 ] || {command}'
    lines.append(command)
    if several and each.done:
      lines.append(f"until_done {shlex.quote(each.done)}")
  return "\n".join(lines) + "\n"


def url(host: str, job: Job) -> str:
  """Returns the URL of a server."""
  return f"http://{host}:{job.config.port}"
