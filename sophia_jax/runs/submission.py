"""A run as a job on a cluster: its servers, and the trainer's steps."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ml_collections import ConfigDict

from sophia_jax.config import nearest, section
from sophia_jax.jobs import machines
from sophia_jax.jobs.job import KEY, Job, JobConfig, Servers, Step, plain
from sophia_jax.jobs.machines import GPU, TPU, Machine
from sophia_jax.rollout import roles
from sophia_jax.runs import sampling
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.servers import supervise
from sophia_jax.types import SophiaError

TARGETS = {"gke": (TPU, GPU), "slurm": (GPU,), "sky": (GPU, TPU)}
"""Families of accelerators by target, the usual one first."""
POLICY = "policy"
_ONE_HOST = (
  *("--config.mesh.data=1", "--config.mesh.fsdp=-1"),
  *("--config.mesh.context=1", "--config.mesh.tensor=1"),
)
"""Mesh of a command that has the devices of one host, not of all."""
_SPARED = ("config.topology", "config.job.")
"""Overrides that steps do not get as they are."""


def job_of(
  run: Run,
  target: str,
  servers: str | None,
  config: str,
  name: str,
  **where: str,
) -> Job:
  """Returns the job that a run is on a cluster.

  Args:
    run: the run; its workdir is the one on the cluster.
    target: a key of TARGETS.
    servers: servers by model, "policy:4,easy:2"; None: one for each model that
      is sampled from, whose engine is "sglang" and that has no URLs.
    config: path of the config file, as commands on the cluster name it.
    name: name of the job where config.job has none.
    where: `root` and `python` of the commands, where there is no container.

  Raises:
    SophiaError: the run cannot be done by these servers and hosts.
  """
  run.check_order()
  settings = job_config(run.config)
  topology = topology_of(run.config, target)
  trainer = machines.read(topology, settings.hosts)
  count = _counts(run, servers)
  _check_prepared(run, trainer, count)
  builder = _Builder(run, config, topology, trainer, count)
  return Job(
    name=settings.name or plain(name),
    config=settings,
    workdir=str(run.workdir),
    trainer=trainer,
    server=machines.serving(settings.server, trainer),
    servers=tuple(builder.servers()),
    steps=tuple(builder.steps()),
    key=builder.key,
    **where,
  )


def job_config(config: ConfigDict) -> JobConfig:
  """Returns the config section `job`."""
  return section(JobConfig, config.get("job", ConfigDict()).to_dict(), "job")


def topology_of(config: ConfigDict, target: str) -> str:
  """Returns config.topology, or the smallest that a target and the config have.

  Raises:
    SophiaError: config.topologies does not have it.
  """
  known = list(config.get("topologies", {}))
  given = config.get("topology", "")
  if given and given not in known:
    raise SophiaError(
      f"config.topology={given}: not in config.topologies, which has "
      f"{', '.join(known) or 'none'}"
    )
  machine = {name: machines.read(name) for name in known}
  for family in TARGETS[target]:
    usual = [name for name in known if machine[name].family == family]
    if usual and not given:
      return min(usual, key=lambda n: machine[n].hosts * machine[n].chips)
  return given or "cpu:1"


def notes(run: Run, job: Job) -> list[str]:
  """Returns what a user may want to change before a job is submitted."""
  found = []
  for key in ("policy.path", "data.problems", "data.heldout"):
    first, second = key.split(".")
    if not run.config[first][second]:
      found.append(f"config.{key} is empty: the run will stop at once")
  for servers in job.servers:
    model = _at(run.config, servers.key)
    if not model.path:
      found.append(f"config.{servers.key}.path is empty: no server can start")
  return found


def _counts(run: Run, text: str | None) -> dict[str, int]:
  """Returns the number of servers by config key, without those of none.

  Raises:
    SophiaError: the text has another form, or names no model of the config.
  """
  config = run.config
  models = {POLICY: POLICY, **{n: f"reasoners.{n}" for n in config.reasoners}}
  if text is None:
    values = {POLICY: config.policy, **config.reasoners}
    asked = {key for stage in run.stages() for key in _asked(config, stage)}
    return {
      models[name]: 1
      for name, model in values.items()
      if models[name] in asked and model.engine == "sglang" and not model.urls
    }
  found: dict[str, int] = {}
  for part in filter(None, text.split(",")):
    name, _, count = part.partition(":")
    if not re.fullmatch(r"\d{1,4}", count or "1"):
      raise SophiaError(f"--servers={text}: write policy:4,easy:2")
    if name not in models:
      raise SophiaError(f"--servers={text}: {name!r}; {nearest(name, models)}")
    if models[name] in found:
      raise SophiaError(f"--servers={text}: {name!r} stands twice")
    found[models[name]] = int(count or "1")
  return {key: n for key, n in found.items() if n}


def _check_prepared(
  run: Run, trainer: Machine, servers: dict[str, int]
) -> None:
  """Raises SophiaError if the run makes the models that it needs at its start."""
  if not run.config.get("prepare"):
    return
  if servers or trainer.hosts > 1:
    raise SophiaError(
      "config.prepare: the run makes its models itself, on one host; give "
      "--servers= and no topology of several hosts"
    )


def _asked(config: ConfigDict, stage: Stage) -> set[str]:
  """Returns the config keys of the models, except teachers, that a stage asks."""
  asked = set(stage.algorithm.roles if stage.samples else ())
  keys = {POLICY} if asked & roles.OWN else set()
  if "reasoner" in asked:
    keys |= {f"reasoners.{name}" for name in config.reasoners}
  return keys


class _Builder:
  """Builds the commands of a job."""

  def __init__(
    self,
    run: Run,
    config: str,
    topology: str,
    trainer: Machine,
    count: dict[str, int],
  ):
    self._run, self._trainer, self._count = run, trainer, count
    self.key = run.config.get("client", {}).get("api_key_env") or KEY
    given = (f"--config.{k}={_text(v)}" for k, v in run.overrides.items())
    spared = tuple(f"--{name}" for name in _SPARED)
    self._common = (
      f"--config={config}",
      f"--workdir={run.workdir}",
      *(flag for flag in given if not flag.startswith(spared)),
    )
    known = topology in run.config.get("topologies", {})
    self._topology = (f"--config.topology={topology}",) if known else ()

  # ------------------------------------------------------------------- servers
  def servers(self) -> list[Servers]:
    """Returns the servers of each model."""
    return [self._servers(key, n) for key, n in self._count.items()]

  def _servers(self, key: str, count: int) -> Servers:
    if key == POLICY:
      weights = self._run.config.serve.weights
      flags = [
        "--role=policy",
        f"--config.serve.weights={weights or self._run.workdir / 'weights'}",
      ]
    else:
      name = key.partition(".")[2]
      flags = ["--role=reasoner", f"--reasoner={name}"]
    if self._run.base:  # its models are not in the workdir
      flags.append(f"--model={self._run.path(_at(self._run.config, key).path)}")
    name = plain(key.rpartition(".")[2])
    return Servers(
      name=name, key=key, count=count, flags=(*self._common, *flags)
    )

  # --------------------------------------------------------------------- steps
  def steps(self) -> list[Step]:
    """Returns the trainer's steps.

    One host that has the policy in its own process does all by launch.run.
    """
    if self._trainer.hosts == 1 and POLICY not in self._count:
      served = tuple(self._count)
      flags = (*self._topology, *self._clients(served))
      return [self._step("launch.run", "", "one", flags, served)]
    found = []
    for stage in self._run.stages():
      if stage.samples and stage.config.rounds == 1:
        found.append(self._sampling(stage))
      found.append(self._learning(stage))
    return [*found, self._report()]

  def _step(
    self, module: str, done: str, processes, flags, served, on_cpu=False
  ) -> Step:  # type: ignore[no-untyped-def]
    alone = processes != "joint" and self._trainer.hosts > 1
    return Step(
      module=module,
      flags=(*self._common, *(_ONE_HOST if alone else ()), *flags),
      done=done,
      processes=processes,
      served=served,
      on_cpu=on_cpu,
    )

  def _sampling(self, stage: Stage) -> Step:
    """Samples a stage once, a shard on each host.

    Raises:
      SophiaError: the stage samples from weights that servers do not have, or
        in processes that cannot have the devices.
    """
    served = self._served(stage)
    start = self._run.start(stage)
    if POLICY in served and start != self._run.path(
      self._run.config.policy.path
    ):
      raise SophiaError(
        f"--servers: the stage {stage.name!r} samples from {start}, and servers "
        "of the policy begin with config.policy.path; leave policy out of "
        "--servers and set --config.policy.engine=embedded"
      )
    on_cpu = self._is_apart(stage)
    if self._trainer.family == TPU and self._trainer.hosts > 1 and not on_cpu:
      raise SophiaError(
        f"the stage {stage.name!r} samples in the trainer's processes, and a "
        f"host of {self._trainer.name}:{self._trainer.topology} computes with "
        "the others only; name servers for each of its models, as --servers="
        "policy:4"
      )
    return self._step(
      "launch.sample",
      sampling.step_name(stage),
      "shards",
      (f"--stage={stage.name}", *self._clients(served)),
      served,
      on_cpu,
    )

  def _learning(self, stage: Stage) -> Step:
    served = self._served(stage) if stage.config.rounds > 1 else ()
    flags = (f"--stage={stage.name}", *self._topology, *self._clients(served))
    return self._step("launch.train", stage.name, "joint", flags, served)

  def _report(self) -> Step:
    """Evaluates with the policy in its own process, whose weights are the last."""
    served = tuple(key for key in self._count if key != POLICY)
    flags = ["--config.policy.engine=embedded", "--config.policy.urls="]
    return self._step(
      "launch.run", "", "one", (*flags, *self._clients(served)), served
    )

  def _served(self, stage: Stage) -> tuple[str, ...]:
    """Returns the config keys of the servers that a stage asks."""
    keys = _asked(self._run.config, stage)
    return tuple(key for key in self._count if key in keys)

  def _is_apart(self, stage: Stage) -> bool:
    """Returns whether all models that a stage asks are in servers."""
    config = self._run.config
    models = {key: _at(config, key) for key in _asked(config, stage)}
    for name in roles.teachers(stage.algorithm.roles):
      models[name] = config.teachers.get(name, ConfigDict())
    return all(
      key in self._count or model.get("urls") or model.get("file")
      for key, model in models.items()
    )

  def _clients(self, served: Sequence[str]) -> tuple[str, ...]:
    """Returns the flags of a command that asks servers."""
    if not served:
      return ()
    start_s = supervise.serve_config(self._run.config).start_s
    flags = [
      f"--config.client.api_key_env={self.key}",
      f"--config.client.ready_s={start_s:g}",
    ]
    for key in served:
      model = _at(self._run.config, key)
      flags.append(f"--config.{key}.engine=sglang")
      if name := model.served or model.path:
        flags.append(f"--config.{key}.served={name}")
    return tuple(flags)


def _at(config: ConfigDict, key: str) -> ConfigDict:
  """Returns the section at a key such as "reasoners.easy"."""
  for part in key.split("."):
    config = config[part]
  return config


def _text(value: object) -> str:
  """Returns an override as the command line has it."""
  if isinstance(value, bool):
    return str(value).lower()
  return value if isinstance(value, str) else repr(value)
