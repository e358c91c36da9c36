"""A run as a JobSet on GKE: servers, then the trainer, then a report.

JobSet: https://jobset.sigs.k8s.io (v1alpha2). The trainer depends on servers
that are ready, which a startup probe says once they have answered.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sophia_jax.jobs import shell, yamls
from sophia_jax.jobs.job import Job, Servers
from sophia_jax.jobs.machines import GPU, TPU, Machine
from sophia_jax.types import SophiaError

TRAINER, REPORT = "trainer", "report"
READY = "/tmp/ready"
_PORT = 9999
"""Port at which the trainer's processes meet."""
_MOST_SERVERS = 5
"""Other jobs that a job of a JobSet may depend on."""
_PROBE_S = 10
_SAVE_S = 300
"""Time to save a checkpoint after SIGTERM, seconds."""
_MOST_FAILURES = 100
"""Times that a server is started again in its place."""

_EXCLUSIVE = "alpha.jobset.sigs.k8s.io/exclusive-topology"

_SUBMIT = """\
#!/usr/bin/env bash
# Makes the secret of the servers' API key where there is none, and the JobSet.
set -euo pipefail
cd "$(dirname "$0")"
{secret}kubectl apply -f jobset.yaml
"""
_SECRET = """\
if ! kubectl get secret {name} >/dev/null 2>&1; then
  od -An -tx1 -N32 /dev/urandom | tr -d ' \\n' |
    kubectl create secret generic {name} --from-file=key=/dev/stdin
fi
"""


def files(job: Job, start_s: float) -> dict[str, str]:
  """Returns the text of each file by its name.

  Args:
    start_s: longest time until a server answers, seconds.

  Raises:
    SophiaError: more kinds of servers than a JobSet can wait for.
  """
  secret = _SECRET.format(name=_secret(job)) if job.servers else ""
  return {
    "jobset.yaml": yamls.dump(jobset(job, start_s)),
    "submit.sh": _SUBMIT.format(secret=secret),
  }


def jobset(job: Job, start_s: float) -> dict[str, Any]:
  """Returns the JobSet; arguments and errors as for `files`."""
  if len(job.servers) > _MOST_SERVERS:
    raise SophiaError(
      f"--servers: {len(job.servers)} models; a JobSet waits for at most "
      f"{_MOST_SERVERS}"
    )
  jobs = [_servers(job, servers, start_s) for servers in job.servers]
  jobs += _trainer(job)
  labels = (
    {"kueue.x-k8s.io/queue-name": job.config.queue} if job.config.queue else {}
  )
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": job.name} | ({"labels": labels} if labels else {}),
    "spec": {
      "network": {
        "enableDNSHostnames": True,
        "subdomain": job.name,
        "publishNotReadyAddresses": True,
      },
      # The servers are ended with the job that they were started for.
      "successPolicy": {
        "operator": "All",
        "targetReplicatedJobs": [jobs[-1]["name"]],
      },
      "failurePolicy": {"maxRestarts": job.config.restarts},
      "replicatedJobs": jobs,
    },
  }


def host(job: Job, name: str, replica: int, pod: int) -> str:
  """Returns the name of a pod in the cluster's DNS."""
  return f"{job.name}-{name}-{replica}-{pod}.{job.name}"


def _urls(job: Job) -> dict[str, str]:
  return {
    s.key: ",".join(
      shell.url(host(job, s.name, i, 0), job) for i in range(s.count)
    )
    for s in job.servers
  }


def _secret(job: Job) -> str:
  return job.config.secret or f"{job.name}-key"


# ------------------------------------------------------------------------- jobs
def _servers(job: Job, servers: Servers, start_s: float) -> dict[str, Any]:
  """Returns the job of the servers of a model, one replica each."""
  script = "exec " + shell.serve(
    job, servers, READY, f'"{job.workdir}/servers/$HOSTNAME.log"'
  )
  container = {
    "ports": [{"containerPort": job.config.port}],
    "startupProbe": {
      "exec": {"command": ["test", "-s", READY]},
      "periodSeconds": _PROBE_S,
      "failureThreshold": math.ceil(start_s / _PROBE_S) + 6,
    },
  }
  spec = _pod(job, job.server, servers.name, script, container)
  return {
    "name": servers.name,
    "replicas": servers.count,
    "template": _template(
      1, _MOST_FAILURES, {**spec, "restartPolicy": "OnFailure"}
    ),
  }


def _trainer(job: Job) -> list[dict[str, Any]]:
  """Returns the trainer's job, and one that reports where its hosts cannot.

  A host of a TPU slice computes with the others only.
  """
  first, *rest = host(job, TRAINER, 0, 0), *job.steps
  apart = job.trainer.family == TPU and job.trainer.hosts > 1
  own = [s for s in rest if not (apart and s.processes == "one")]
  meeting: Sequence[str] = ()
  script = ""
  if job.trainer.family != TPU and job.trainer.hosts > 1:
    meeting = (
      f"--coordinator={first}:{_PORT}",
      f"--processes={job.trainer.hosts}",
      '--process="$JOB_COMPLETION_INDEX"',
    )
    script = f"until getent hosts {first} >/dev/null; do sleep 1; done\n"
  index = "$JOB_COMPLETION_INDEX"
  script += shell.steps(job, own, _urls(job), index, meeting)
  spec = _pod(job, job.trainer, TRAINER, script)
  trainer = _depending(
    TRAINER,
    [(s.name, "Ready") for s in job.servers],
    _template(job.trainer.hosts, 0, {**spec, "restartPolicy": "Never"}),
  )
  if not apart:
    return [trainer]
  # No two jobs share the hosts of a slice.
  metadata = {"annotations": {_EXCLUSIVE: "cloud.google.com/gke-nodepool"}}
  trainer["template"] = {"metadata": metadata, **trainer["template"]}
  left = [s for s in rest if s not in own]
  script = shell.steps(job, left, _urls(job))
  spec = _pod(job, job.server, REPORT, script)
  report = _depending(
    REPORT,
    [(TRAINER, "Complete")],
    _template(1, 0, {**spec, "restartPolicy": "Never"}),
  )
  return [trainer, report]


def _depending(
  name: str, on: Sequence[tuple[str, str]], template: Mapping[str, Any]
) -> dict[str, Any]:
  found: dict[str, Any] = {"name": name}
  if on:
    found["dependsOn"] = [{"name": n, "status": status} for n, status in on]
  return {**found, "replicas": 1, "template": dict(template)}


def _template(
  hosts: int, failures: int, spec: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the template of a Job of so many pods."""
  return {
    "spec": {
      "parallelism": hosts,
      "completions": hosts,
      "completionMode": "Indexed",
      "backoffLimit": failures,
      "template": {"spec": dict(spec)},
    }
  }


# ------------------------------------------------------------------------- pods
def _pod(
  job: Job,
  machine: Machine,
  name: str,
  script: str,
  more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  """Returns the spec of a pod, without its restart policy.

  Args:
    more: further keys of its container.
  """
  volumes = [
    {
      "name": "shared",
      "persistentVolumeClaim": {"claimName": job.config.claim},
    }
  ]
  mounts = [{"name": "shared", "mountPath": job.config.mount}]
  if machine.family == GPU:  # NCCL needs more than a container's 64 MiB
    memory: dict[str, Any] = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    volumes.append(memory)
    mounts.append({"name": "shm", "mountPath": "/dev/shm"})
  container: dict[str, Any] = {
    "name": name,
    "image": job.config.image,
    "command": ["bash", "-c", script],
  }
  if job.servers:
    reference = {"name": _secret(job), "key": "key"}
    container["env"] = [
      {"name": job.key, "valueFrom": {"secretKeyRef": reference}}
    ]
  container |= dict(more or {})
  if limits := _limits(machine):
    container["resources"] = {"requests": limits, "limits": limits}
  container["volumeMounts"] = mounts
  spec: dict[str, Any] = {}
  if selector := _selector(machine):
    spec["nodeSelector"] = selector
  return {
    **spec,
    "terminationGracePeriodSeconds": _SAVE_S,
    "containers": [container],
    "volumes": volumes,
  }


def _limits(machine: Machine) -> dict[str, str]:
  names = {TPU: "google.com/tpu", GPU: "nvidia.com/gpu"}
  if machine.family not in names:
    return {}
  return {names[machine.family]: str(machine.chips)}


def _selector(machine: Machine) -> dict[str, str]:
  if machine.family == TPU:
    return {
      "cloud.google.com/gke-tpu-accelerator": machine.kind.gke,
      "cloud.google.com/gke-tpu-topology": machine.topology,
    }
  if machine.family == GPU:
    return {"cloud.google.com/gke-accelerator": machine.kind.gke}
  return {}
