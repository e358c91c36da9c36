"""Rounds: sample, credit, annotate, update, hand the weights over, again.

A round is a pure function of the weights it starts from and of its store,
W/rounds/000017: killed anywhere, a run takes the newest checkpoint, asks only
what that round's store lacks, and ends with the same parameters. With `ahead`
the next round is sampled while this one is learnt.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from sophia_jax.algorithms import credit, diagnostics, information
from sophia_jax.algorithms.contract import Moment
from sophia_jax.data.loader import Loader, LoaderConfig
from sophia_jax.hosts import meeting
from sophia_jax.rollout import taken, tokens
from sophia_jax.rollout.store import round_directory
from sophia_jax.runs import (
  draws,
  evaluation,
  kept,
  rewarders,
  sampling,
  sources,
  training,
)
from sophia_jax.runs.policies import Model
from sophia_jax.runs.run import Run
from sophia_jax.runs.sampler import Sampler, alone, opened
from sophia_jax.runs.stage import Stage
from sophia_jax.stopping import Preempted
from sophia_jax.train import sharding
from sophia_jax.train.annotate import Scorer
from sophia_jax.train.average import Follower
from sophia_jax.train.session import Session
from sophia_jax.types import Group, TokenSequence

_log = logging.getLogger("sophia_jax")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
  """Samples of a round, and the sequences learnt from them."""

  groups: list[Group]
  """Everything that was sampled, with its mixed reward."""
  kept: list[Group]
  """The groups that are learnt."""
  sequences: list[TokenSequence]
  drawn: int
  """Problems drawn so far, this round's included."""
  seconds: float


class Beside(NamedTuple):
  """The models beside the policy; at most one critic and one average."""

  critics: Sequence[Session]
  averages: Sequence[Follower]
  references: Mapping[str, Scorer]
  """Models that never change, by the names that annotators use."""


def learn(run: Run, stage: Stage) -> None:
  """Samples and learns for all rounds of a stage, and exports the result.

  Raises:
    SophiaError: a server, the verifier or the data fail.
    Preempted: SIGTERM arrived; a restart resumes.
  """
  model = training.opened(run, stage)
  mesh = sharding.make_mesh(run.section(sharding.MeshConfig, "mesh"))
  config = stage.config
  updates = config.rounds * stage.train.epochs * config.minibatches
  watched = kept.terms(stage)
  session = training.session(run, stage, model, mesh, updates, watched)
  names = (training.REFERENCE,)
  start = training.references(stage, model, mesh, names)
  start |= rewarders.opened(run, stage, mesh)
  critics = training.critic_sessions(run, stage, model, mesh, updates)
  with contextlib.ExitStack() as stack:
    # Before the session sets its mesh, under which no checkpoint is read.
    others = stack.enter_context(sampling.opened_others(run, stage))
    stack.enter_context(session)
    for critic in critics:
      critic.limit = session.step
      stack.enter_context(critic)
    start |= training.unadapted(stage, session, names)
    averages = training.averages(run, stage, session)
    for average in averages:
      stack.enter_context(average)
    begin = training.for_engine(session)
    sampler = stack.enter_context(opened(run, stage, model, begin, others))
    del begin  # or it would be held until the last round
    beside = Beside(critics, averages, start)
    Rounds(run, stage, model, mesh, session, beside, sampler).run()
    params = session.model_params
  training.export(run, stage, model, params)


class Rounds:
  """The rounds of a stage; see the module."""

  def __init__(
    self,
    run: Run,
    stage: Stage,
    model: Model,
    mesh: Mesh,
    session: Session,
    beside: Beside,
    sampler: Sampler,
  ):
    self._run, self._stage, self._model = run, stage, model
    self._session, self._beside = session, beside
    self._sampler = sampler
    self._words = sources.words(run, model)
    self._shape = training.packing(run, stage, model, mesh)
    self._reading = training.reading(stage, model, mesh)
    self._said = False
    """Whether the suggested tile budget is logged."""

  def run(self) -> None:
    """Runs the rounds that follow the newest checkpoint."""
    config, session = self._stage.config, self._session
    first = session.cursor.get("round", 0)
    drawn = session.cursor.get("drawn", 0)
    # The pool waits for the round ahead, which ends with a run that fails.
    with ThreadPoolExecutor(1, "ahead") as pool, self._sampler.ending():
      ahead: Future[Sampled] | None = None
      for number in range(first, config.rounds):
        moment = Moment(
          round=number,
          step=session.step,
          metrics=session.cursor.get("metrics", {}),
        )
        # Before new weights are loaded: the round ahead samples with the old.
        sampled = ahead.result() if ahead else None
        self._load(number)
        self._evaluate(number)
        if sampled is None:
          with session.waiting("timing_s/gen"):
            sampled = self._sample(number, drawn, moment)
        drawn = sampled.drawn
        if config.ahead and number + 1 < config.rounds:
          # Schedules of the reward and of the credit go by the round itself, as
          # they do where a killed run samples it in its turn.
          later = dataclasses.replace(moment, round=number + 1)
          ahead = pool.submit(self._sample, number + 1, drawn, later)
        metrics = self._update(sampled, moment)
        if ahead is not None:
          ahead.result()
        self._save({"round": number + 1, "drawn": drawn, "metrics": metrics})
        if session.stopping():
          raise Preempted(f"saved round {number} in {session.directory}")

  def _save(self, cursor: dict[str, Any]) -> None:
    """Saves what is beside the policy, then the policy: after a kill the former
    may be ahead, never behind.

    Each round is saved: the next one's samples are drawn with its weights, and
    updates that are repeated on other devices would give others.
    """
    others: list[Session | Follower] = [
      *self._beside.critics,
      *self._beside.averages,
    ]
    for other in others:
      other.save(cursor)
      other.wait_saved()
    self._session.save(cursor)

  # --------------------------------------------------------------------- sampling
  def _load(self, number: int) -> None:
    """Hands the current weights to the policy's engine; versions count from 1."""
    self._sampler.load(training.for_engine(self._session), number + 1)

  def _sample(self, number: int, drawn: int, moment: Moment) -> Sampled:
    """Samples problems until enough groups are left after the selection."""
    start = time.monotonic()
    config, algorithm = self._stage.config, self._stage.algorithm
    groups: list[Group] = []
    learnt: list[Group] = []
    seen: set[str] = set()
    for _ in range(config.draws):
      wave, drawn = draws.wave(
        self._sampler.problems, config.groups, self._run.seed, drawn, seen
      )
      sampled = self._sampler.groups(number, wave)
      groups += credit.rewarded(sampled, algorithm.reward, moment)
      learnt = list(algorithm.select(groups, moment))[: config.groups]
      if len(learnt) >= config.groups:
        break
    assert algorithm.credit is not None
    if meeting.is_leader():
      directory = round_directory(self._run.directory(self._stage.name), number)
      taken.write(directory, [group.problem.id for group in learnt])
    return Sampled(
      groups=groups,
      kept=learnt,
      sequences=algorithm.credit(learnt, self._words, moment),
      drawn=drawn,
      seconds=time.monotonic() - start,
    )

  # --------------------------------------------------------------------- learning
  def _update(self, sampled: Sampled, moment: Moment) -> dict[str, float]:
    """Annotates and learns a round; returns the metrics of its last update."""
    session, stage = self._session, self._stage
    sequences = session.annotate(
      sampled.sequences, self._shape, self._reading, self._models()
    )
    found = _round_metrics(sampled, sequences, moment)
    found["timing_s/sample"] = sampled.seconds
    if not sequences:
      _log.warning(
        "round %d: nothing to learn: none of %d groups is left after the "
        "selection",
        moment.round,
        len(sampled.groups),
      )
      return dict(moment.metrics)
    loader = self._loader(sequences, moment)
    found |= self._crossed(sampled.groups)
    session.metrics(found)
    keeping = kept.Kept(stage, self._run.seed, moment.round, sequences)
    for step, batch in enumerate(loader):
      now = dataclasses.replace(moment, step=session.step)
      for learner in (*self._beside.critics, session):
        learner.update(batch, now)
      for average in self._beside.averages:
        average.follow()
      keeping.see(loader.rows(step), session.tokens)
    self._keep(keeping, moment.round)
    latest = session.latest()
    return {k: v for k, v in {**found, **latest}.items() if np.isfinite(v)}

  def _loader(
    self, sequences: Sequence[TokenSequence], moment: Moment
  ) -> Loader:
    """Plans the updates of a round, which all processes must see alike."""
    stage = self._stage
    loader = Loader(
      sequences,
      self._shape,
      LoaderConfig(
        epochs=stage.train.epochs,
        updates=stage.config.minibatches,
        seed=training.order_seed(self._run, stage),
        round=moment.round,
        prefetch=training.prefetched(stage, self._model),
      ),
      self._reading,
    )
    if meeting.is_leader() and not self._said:
      self._said = True
      training.say_tiles(stage, loader.summary()["suggested_tile_budget"])
    meeting.assert_same(
      f"round {moment.round}",
      loader.identity,
      "the processes see other samples",
    )
    return loader

  def _keep(self, keeping: kept.Kept, number: int) -> None:
    """Writes the tokens that are kept of a round beside its store."""
    rollouts = keeping.rollouts()
    if rollouts and meeting.is_leader():
      directory = self._run.directory(self._stage.name)
      tokens.write(round_directory(directory, number), rollouts)

  def _crossed(self, groups: Sequence[Group]) -> dict[str, float]:
    """Measures how much answers depend on their prompts, if the method does."""
    how = self._stage.algorithm.crossed
    if how is None:
      return {}
    pairs = information.pairs(groups, how, self._shape.length)
    scored = self._session.annotate(
      pairs.sequences,
      self._shape,
      self._reading,
      annotators=information.ANNOTATORS,
    )
    return information.of_round(scored, pairs.own)

  def _models(self) -> dict[str, Scorer]:
    """Returns the models that annotators name, beside the policy."""
    critics, averages, references = self._beside
    found = dict(references)
    for name, others in (
      (training.CRITIC, critics),
      (training.AVERAGE, averages),
    ):
      found |= dict(zip([name], [other.scorer() for other in others]))
    return found

  def _evaluate(self, number: int) -> None:
    """Evaluates on the held-out problems, every so many rounds."""
    every = self._stage.config.evaluate_every
    if not every or not number or number % every:
      return
    name = f"{self._stage.name}-{number:06d}"
    if meeting.is_leader():
      with alone():
        value = evaluation.evaluate_round(
          self._run, name, self._sampler.policy, f"{self._stage.name} {number}"
        )
      self._session.metrics({"val/pass_at_1": value})
    meeting.barrier(f"evaluated {name}")


def _round_metrics(
  sampled: Sampled, sequences: Sequence[TokenSequence], moment: Moment
) -> dict[str, float]:
  """Returns the metrics of a round's samples, and of the sampler against us."""
  found: dict[str, Any] = diagnostics.of_round(
    sampled.groups, sampled.kept, sequences, moment
  )
  streams = [s.streams for s in sequences]
  names = {"old_logps", "behaviour_logps", "mask"}
  if streams and all(names <= s.keys() for s in streams):
    found |= diagnostics.sampler_gap(streams)
  return {"round": float(moment.round), **found}
