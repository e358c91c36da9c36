"""A run as a job group of SkyPilot: servers beside the trainer.

The trainer is the primary task: with it the servers end. Tasks reach each other
by the names that the group gives to their nodes, <task>-<rank>.<group>.
"""

from __future__ import annotations

from typing import Any

from sophia_jax.jobs import shell, yamls
from sophia_jax.jobs.job import Job, Servers
from sophia_jax.jobs.machines import TPU, Machine

TRAINER = "trainer"
_PORT = 9999
"""Port at which the trainer's processes meet."""

_SUBMIT = """\
#!/usr/bin/env bash
# Launches the job group, with a new key for its servers.
set -euo pipefail
cd "$(dirname "$0")"
{key}sky jobs launch --yes {secret}group.yaml
"""
_KEY = """\
export {key}="${{{key}:-$(od -An -tx1 -N32 /dev/urandom | tr -d ' \\n')}}"
"""


def files(job: Job) -> dict[str, str]:
  """Returns the text of each file by its name."""
  key = _KEY.format(key=job.key) if job.servers else ""
  secret = f"--secret {job.key} " if job.servers else ""
  return {
    "group.yaml": yamls.dump(*group(job)),
    "submit.sh": _SUBMIT.format(key=key, secret=secret),
  }


def group(job: Job) -> list[dict[str, Any]]:
  """Returns the documents of a job group: its header, then the tasks."""
  header = {
    "name": job.name,
    "execution": "parallel",
    "primary_tasks": [TRAINER],
  }
  tasks = [_servers(job, servers) for servers in job.servers]
  return [header, *tasks, _trainer(job)]


def _urls(job: Job) -> dict[str, str]:
  return {
    s.key: ",".join(
      shell.url(f"{s.name}-{i}.{job.name}", job) for i in range(s.count)
    )
    for s in job.servers
  }


def _servers(job: Job, servers: Servers) -> dict[str, Any]:
  log = f'"{job.workdir}/servers/{servers.name}-$SKYPILOT_NODE_RANK.log"'
  command = shell.serve(job, servers, "/tmp/ready", log)
  return _task(job, servers.name, job.server, servers.count, command + "\n")


def _trainer(job: Job) -> dict[str, Any]:
  hosts = job.trainer.hosts
  meeting = (
    f'--coordinator="$(head -n1 <<< "$SKYPILOT_NODE_IPS"):{_PORT}"',
    f"--processes={hosts}",
    '--process="$SKYPILOT_NODE_RANK"',
  )
  # A host of a TPU slice computes with the others only.
  apart = job.trainer.family == TPU and hosts > 1
  steps = [s for s in job.steps if not (apart and s.processes == "one")]
  script = shell.steps(job, steps, _urls(job), "$SKYPILOT_NODE_RANK", meeting)
  return _task(job, TRAINER, job.trainer, hosts, script)


def _task(
  job: Job, name: str, machine: Machine, hosts: int, script: str
) -> dict[str, Any]:
  """Returns a task of so many nodes; a TPU slice is one node of several hosts."""
  resources: dict[str, Any] = {"image_id": f"docker:{job.config.image}"}
  if machine.sky:
    resources["accelerators"] = machine.sky
  resources["job_recovery"] = {
    "strategy": "EAGER_NEXT_REGION",
    "max_restarts_on_errors": job.config.restarts,
  }
  task: dict[str, Any] = {
    "name": name,
    "num_nodes": 1 if machine.family == TPU and machine.hosts > 1 else hosts,
    "resources": resources,
    "volumes": {job.config.mount: job.config.claim},
  }
  if job.servers:
    task["secrets"] = {job.key: None}
  return {**task, "run": script}
