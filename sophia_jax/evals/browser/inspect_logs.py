"""Rollouts as logs of inspect-ai, for its viewer: one a store.

Each graded rollout is a sample of its problem, an epoch each, as `inspect view`
compares them. inspect-ai is an optional extra: `pip install -e .[inspect]`.
"""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np

from sophia_jax.evals.browser import views
from sophia_jax.evals.browser.session import Session
from sophia_jax.evals.browser.table import Place, Table
from sophia_jax.evals.browser.views import Card, GroupView
from sophia_jax.evals.report import image_uri
from sophia_jax.types import FinishReason, SophiaError

MAX_GROUPS = 200
"""Most groups of a store that are written: the viewer holds a log in memory."""


def write(session: Session, directory: Path) -> list[Path]:
  """Writes a log of every store, and returns their paths.

  The first MAX_GROUPS groups of each are written.

  Raises:
    SophiaError: inspect-ai is not installed, or a segment has changed.
  """
  try:
    from inspect_ai import log as logs
  except ImportError:
    raise SophiaError(
      "--export=inspect: inspect-ai is not installed; pip install -e .[inspect]"
    ) from None
  table = session.table()
  directory.mkdir(parents=True, exist_ok=True)
  written = []
  for number, place in enumerate(table.places):
    groups = np.flatnonzero(table.place == number)[:MAX_GROUPS]
    if len(groups):
      path = directory / f"{place.name.replace('/', '-')}.eval"
      logs.write_eval_log(_log(session, table, place, groups), str(path))
      written.append(path)
  return written


def _log(
  session: Session, table: Table, place: Place, groups: np.ndarray
) -> Any:
  """Returns the log of a store."""
  from inspect_ai import log as logs

  samples: list[Any] = []
  for g in groups.tolist():
    view = views.group(session, table, g)
    cards = sorted(view.cards, key=lambda card: card.rollout.path)
    samples += [
      _sample(view, card, epoch)
      for epoch, card in enumerate(cards, start=1)
      if card.rollout.verdict
    ]
  return logs.EvalLog(
    status="success",
    eval=logs.EvalSpec(
      created=datetime.datetime.now(datetime.UTC).isoformat(),
      task=place.name,
      dataset=logs.EvalDataset(name=place.stage, samples=len(groups)),
      model=f"{place.stage or 'sampled'}/{place.round}",
      config=logs.EvalConfig(),
    ),
    samples=samples,
    results=_results(samples),
  )


def _results(samples: list[Any]) -> Any:
  """Returns the mean accuracy of the samples, as the viewer's list shows it."""
  from inspect_ai import log as logs

  values = [sample.scores["accuracy"].value for sample in samples]
  mean = logs.EvalMetric(name="mean", value=float(np.mean(values or [0.0])))
  return logs.EvalResults(
    total_samples=len(samples),
    completed_samples=len(samples),
    scores=[
      logs.EvalScore(name="accuracy", scorer="accuracy", metrics={"mean": mean})
    ],
  )


def _sample(view: GroupView, card: Card, epoch: int) -> Any:
  """Returns a rollout as a sample of its problem."""
  from inspect_ai import log as logs
  from inspect_ai import model as models
  from inspect_ai import scorer

  problem, rollout = view.problem, card.rollout
  images = [uri for uri in map(image_uri, problem.images) if uri]
  content: list[Any] = [models.ContentImage(image=uri) for uri in images]
  content.append(models.ContentText(text=_text(problem.text)))
  asked = models.ChatMessageUser(content=content)
  said = models.ChatMessageAssistant(content=_text(rollout.completion.text))
  cut = rollout.completion.finish_reason is FinishReason.LENGTH
  caption = next(
    (b.caption for b in view.branches if card in b.cards and b.caption), None
  )
  verdict = rollout.verdict
  assert verdict is not None
  return logs.EvalSample(
    id=_text(problem.id),
    epoch=epoch,
    input=[asked],
    target=_text(problem.answer),
    messages=[asked, said],
    output=models.ModelOutput(
      model=rollout.author,
      choices=[
        models.ChatCompletionChoice(
          message=said, stop_reason="max_tokens" if cut else "stop"
        )
      ],
    ),
    scores={
      "accuracy": scorer.Score(
        value=float(rollout.rewards.get("accuracy", 0.0)),  # type: ignore[arg-type]
        answer=_text(verdict.extracted),
        explanation=_text(f"{verdict.status.value}: {card.verdict}"),
      )
    },
    metadata={
      "path": list(rollout.path),
      "author": rollout.author,
      "caption": _text(caption.rollout.completion.text) if caption else None,
      "caption_reward": caption.value if caption else None,
      "reward": card.reward,
      "rewards": dict(card.parts),
      "advantage": card.advantage,
      "selection": card.why,
      "length": rollout.length,
      "version": rollout.version,
    },
  )


def _text(text: str) -> str:
  """Returns a text that UTF-8 can encode."""
  return text.encode(errors="replace").decode()
