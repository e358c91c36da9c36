"""A model as a planner's prior: log-likelihoods of actions, and answers."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np

from sophia_jax.checkpoints.fingerprint import fingerprint
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.planning import providers
from sophia_jax.planning.lookahead import ContextExceeded, Proposals
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.runs import engines, policies
from sophia_jax.runs.run import Run
from sophia_jax.train import sharding
from sophia_jax.train.outputs import response_logps
from sophia_jax.types import (
  Chat,
  Completion,
  Engine,
  Prompt,
  Request,
  Role,
  Sampling,
  SophiaError,
  TokenSequence,
)

_BLOCK = 1024
_ANSWERED, _SAMPLED = 12, 32
"""Tokens of a critic's answer, and of a sampled action, at most."""
_logps = jax.jit(response_logps, static_argnums=(0, 3))


@dataclasses.dataclass(frozen=True)
class PriorConfig:
  """The language model whose likelihoods of actions are the prior."""

  model: str = "policy"
  """"policy" (as the run's last stage leaves it, or config.policy.path), a name
  of config.reasoners, or "": none."""
  samples: int = 8
  """Answers sampled to each question where likelihoods are not known, as of a
  served reasoner; and requests decoded together."""
  context: int = 1024
  """Tokens of a state and an action together, at most."""
  temperature: float = 1.0
  """Divisor of log-likelihoods in the tabular prior."""
  floor: float = 0.01
  """Share of the uniform policy in the tabular prior."""


class Model:
  """The model of `planning.prior`: log-likelihoods, and answers.

  Implements `providers.Scorer`. A context manager, because a served model holds
  connections; nothing is loaded or opened before it is asked.

  Raises:
    SophiaError: there is no such model.
  """

  def __init__(self, run: Run, config: PriorConfig):
    self._run, self._config = run, config
    self.directory = _directory(run, config)
    local = (self.directory / "config.json").is_file()
    self.digest = (
      fingerprint(self.directory) if local else f"{config.model} in servers"
    )
    self.counts: collections.Counter[str] = collections.Counter()
    self._known: dict[tuple[str, str], float] = {}
    self._open = contextlib.ExitStack()

  def __enter__(self) -> Self:
    return self

  def __exit__(self, *_: object) -> None:
    self._open.close()

  @property
  def served(self) -> bool:
    """Whether servers have the model."""
    return _is_served(self._run, self._config)

  @property
  def scores(self) -> bool:
    """Whether log-likelihoods are available: the vocabulary is ours."""
    return self._config.model == "policy" or not self.served

  def proposals(self) -> Proposals:
    """Returns proposals by likelihood, or by samples where there is none."""
    if self.scores:
      return providers.by_likelihood(self)
    how = Sampling(temperature=2.0, top_p=0.8, max_new_tokens=_SAMPLED)
    return providers.by_samples(
      providers.Asked(self._engine, how, self._config.samples, self._run.seed),
      self.counts,
    )

  # ---------------------------------------------------------------- likelihoods
  def logps(self, chat: Chat, responses: Sequence[str]) -> list[float]:
    """Returns log p(response | chat) of each response, end of turn included.

    Raises:
      ContextExceeded: one is longer than `context` with its question.
    """
    return self.of(chat.text, responses)

  def of(self, text: str, responses: Sequence[str]) -> list[float]:
    """Returns the log-likelihoods of responses to a text; see `logps`."""
    new = [r for r in responses if (text, r) not in self._known]
    if new:
      prompt = self._words.prompt(text)
      sequences = [self._words.sequence(prompt, r, id=r) for r in new]
      if max(map(len, sequences)) > self._config.context:
        raise ContextExceeded
      score = self._asked_of if self.served else self._computed
      self._known.update(
        {(text, r): logp for r, logp in zip(new, score(sequences))}
      )
    return [self._known[text, response] for response in responses]

  def _computed(self, sequences: Sequence[TokenSequence]) -> list[float]:
    """Returns the sums of the responses, by the trainer's forward pass."""
    model = self._model
    # Powers of two, so that few shapes are compiled.
    rows, length = (
      1 << (n - 1).bit_length()
      for n in (len(sequences), max(map(len, sequences)))
    )
    batch = pack(
      [*([s] for s in sequences), *([] for _ in range(rows - len(sequences)))],
      PackConfig(rows=rows, length=length, tile_budget=0),
      tokens_per_tile=model.module.cfg.tokens_per_tile,
      tile_size=model.image.tile_size,
      streams=(),
      load_tiles=TileCache(model.image),
    )
    logps = np.asarray(_logps(model.module, self._params, batch, _BLOCK))
    found = []
    for row, sequence in enumerate(sequences):
      where = np.flatnonzero(sequence.roles == Role.RESPONSE)
      found.append(float(logps[row, where - 1].sum()))
    return found

  def _asked_of(self, sequences: Sequence[TokenSequence]) -> list[float]:
    """Returns the sums of the responses, by the servers."""
    requests = [
      Request(
        id=f"score/{number}",
        prompt=Prompt(token_ids=s.token_ids, roles=s.roles),
        sampling=Sampling(temperature=0.0, max_new_tokens=1),
      )
      for number, s in enumerate(sequences)
    ]
    found = {c.request_id: c.logps for c in self._scorer.generate(requests)}
    return [math.fsum(found[request.id] or ()) for request in requests]

  # -------------------------------------------------------------------- answers
  def ask(self, text: str) -> list[Completion]:
    """Returns the model's greedy answer to a text.

    Raises:
      ContextExceeded: it is longer than `context`; a served reasoner's length is
        not known here.
    """
    if self.scores and len(self._words.prompt(text)) > self._config.context:
      raise ContextExceeded
    return self._critic(text)

  @functools.cached_property
  def _critic(self) -> providers.Asked:
    how = Sampling(temperature=0.0, max_new_tokens=_ANSWERED)
    return providers.Asked(self._engine, how, seed=self._run.seed)

  # ---------------------------------------------------------------- what is open
  @functools.cached_property
  def _model(self) -> policies.Model:
    if self._config.model == "policy":
      return policies.load_policy(self._run, self.directory)
    return policies.load_reasoner(self._run, self.directory)

  @functools.cached_property
  def _params(self) -> Any:
    mesh = sharding.make_mesh(self._run.section(sharding.MeshConfig, "mesh"))
    return policies.weights(self._model, mesh)

  @functools.cached_property
  def _words(self) -> Renderer:
    if not self.served:
      return self._model.renderer
    image = self._run.section(ImageConfig, "images")
    system = self._run.config.prompts.system
    return policies.load_words(self.directory, image, system)[1]

  @functools.cached_property
  def _scorer(self) -> Engine:
    opened = engines.scoring(
      self._run, self.directory, self._words, self._config.context
    )
    return self._open.enter_context(opened)

  @functools.cached_property
  def _engine(self) -> Engine:
    if not self.served:
      sizes = EngineConfig(
        slots=self._config.samples,
        length=self._config.context + max(_ANSWERED, _SAMPLED),
        prefill_rows=1,
        chunk=_ANSWERED,
      )
      return engines.embedded(self._run, self._model, sizes)
    if self._config.model == "policy":
      return self._open.enter_context(
        engines.policy(self._run, self.directory, _ANSWERED)
      )
    return self._open.enter_context(
      engines.reasoner(self._run, self._config.model)
    )


def _is_served(run: Run, config: PriorConfig) -> bool:
  if config.model == "policy":
    return run.config.policy.engine != "embedded"
  return run.config.reasoners[config.model].engine != "embedded"


def _directory(run: Run, config: PriorConfig) -> Path:
  """Returns the checkpoint of the model.

  Raises:
    SophiaError: there is none, or the config does not name it.
  """
  if config.model == "policy":
    order = [*run.config.order]
    found = (
      run.directory(order[-1]) / "export"
      if order
      else run.path(run.config.policy.path)
    )
  elif config.model in run.config.reasoners:
    found = run.path(run.config.reasoners[config.model].path)
  else:
    known = ", ".join(["policy", *run.config.reasoners])
    raise SophiaError(
      f"config.planning.prior.model={config.model}: use one of {known}, or '' "
      "for no model"
    )
  elsewhere = config.model != "policy" and _is_served(run, config)
  if not elsewhere and not (found / "config.json").is_file():
    raise SophiaError(
      f"{found}: no checkpoint; give --config.policy.path=DIRECTORY, or "
      "--config.planning.prior.model='' to plan without a model"
    )
  return found
