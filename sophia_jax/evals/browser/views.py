"""Groups, tokens and metrics as a page shows them: plain values.

Nothing here is HTML; the templates escape every value.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sophia_jax import files
from sophia_jax.evals import charts
from sophia_jax.evals.browser import groups as trees
from sophia_jax.evals.browser import requests
from sophia_jax.evals.browser.groups import Credit
from sophia_jax.evals.browser.session import Session, Source
from sophia_jax.evals.browser.table import Place, Table
from sophia_jax.types import Group, Problem, Rollout, Status

MAX_WORDS = 600
"""Most words of an answer that are compared with another."""
CURVES = {
  "loss": "loss",
  "critic/score/mean": "reward",
  "val/pass_at_1": "pass@1",
  "response_length/mean": "response length, tokens",
  "response_length/clip_ratio": "share cut off",
  "actor/entropy": "entropy, nats",
  "actor/ppo_kl": "KL to the sampling policy",
  "actor/kl_loss": "KL to the reference",
  "actor/pg_clipfrac": "share clipped",
  "training/off_policy/trajectory_staleness/mean": "staleness, rounds",
  "actor/grad_norm": "gradient norm",
}
"""Metrics that are plotted, and their captions; times of stages as well."""
TIMES = "timing_s/"
SAMPLING, GENERATION = f"{TIMES}sample", f"{TIMES}gen"
ENDED = "ended_"
"""Beginning of the reward parts that say how an episode ended."""


# ----------------------------------------------------------------------- a group
@dataclasses.dataclass(frozen=True, kw_only=True)
class Card:
  """A rollout as a page shows it."""

  rollout: Rollout
  reward: float | None
  advantage: float | None
  selected: bool | None
  """None: not known."""
  why: str
  verdict: str
  """Why the verdict is as it is."""
  age: int | None
  """Rounds between its policy and that of the round; None: not known."""
  request: str
  """JSON that samples it again."""
  kept: bool
  """Whether the run keeps what the update made of its tokens."""

  @property
  def value(self) -> float:
    """Reward that cards are sorted by."""
    accuracy = self.rollout.rewards.get("accuracy")
    found = self.reward if self.reward is not None else accuracy
    return found if isinstance(found, float) else -math.inf

  @property
  def parts(self) -> list[tuple[str, float]]:
    """Reward parts, except for the mix and the ways it did not end."""
    return [
      (name, value)
      for name, value in sorted(self.rollout.rewards.items())
      if isinstance(value, (int, float))
      and name != "reward"
      and (value or not name.startswith(ENDED))
    ]

  def shown(self, turn: int) -> str:
    """Returns what an episode has shown before a turn; "" for the first."""
    prompt = self.rollout.turns[turn].prompt
    return prompt.shown if isinstance(prompt, trees.Continued) else ""

  def turn_reward(self, turn: int) -> float | None:
    """Returns the reward of a turn of an episode; None where turns have none."""
    values = self.rollout.rewards.get("turns")
    return values[turn] if isinstance(values, tuple) else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branch:
  """Rollouts side by side, and the caption they were built on."""

  caption: Card | None
  cards: tuple[Card, ...]

  @property
  def value(self) -> float:
    """R(c), or -inf."""
    return self.caption.value if self.caption else -math.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class GroupView:
  """A group as a page shows it."""

  number: int
  place: Place
  digest: str
  problem: Problem
  complete: bool
  branches: tuple[Branch, ...]
  absent: tuple[str, ...]
  mean: float
  """Mean accuracy of the graded rollouts; NaN: none."""
  known: bool
  """Whether the problem's file has the problem."""

  @property
  def played(self) -> bool:
    """Whether its rollouts are episodes, whose question is a state in words."""
    return any("turns" in card.rollout.rewards for card in self.cards)

  @property
  def key(self) -> dict[str, str]:
    """Values that name it in a URL."""
    return {
      "in": self.place.name,
      "id": self.problem.id,
      "digest": self.digest,
    }

  @property
  def cards(self) -> Iterator[Card]:
    """All graded rollouts."""
    return (card for branch in self.branches for card in branch.cards)


def group(session: Session, table: Table, g: int) -> GroupView:
  """Reads a group: captions by R(c), rollouts by reward, the best first.

  Raises:
    SophiaError: a segment has changed since it was indexed.
  """
  place = table.places[table.place[g]]
  name, digest = table.names[table.problem[g]]
  known = session.known(table, g)
  problem = known or Problem(id=name, question="", answer="")
  records = list(session.catalogue.records(table, g))
  found, complete = trees.read(
    records, problem, place.algorithm, place.seed, place.round
  )
  credits = session.credits.of_group(table, g) if complete else {}
  kept = session.kept.get(place.name, ())
  cards = {
    r.path: _card(place, found, r, credits.get(r.path), r.id in kept)
    for r in found.rollouts
  }
  captions = [r for r in found.depth(1) if found.children(r.path)]
  branches = [
    Branch(
      caption=cards[c.path],
      cards=_ranked(cards[r.path] for r in found.children(c.path)),
    )
    for c in captions
  ]
  inside = {c.path for c in captions}
  rest = [
    cards[r.path]
    for r in found.rollouts
    if r.path not in inside and r.path[:-1] not in inside
  ]
  if rest:
    branches.append(Branch(caption=None, cards=_ranked(rest)))
  return GroupView(
    number=g,
    place=place,
    digest=digest,
    problem=problem,
    complete=complete,
    branches=tuple(sorted(branches, key=lambda b: -b.value)),
    absent=found.absent,
    mean=_mean(found),
    known=known is not None,
  )


def _mean(found: Group) -> float:
  values = [r.rewards.get("accuracy") for r in found.rollouts if r.verdict]
  graded = [v for v in values if isinstance(v, (int, float))]
  return sum(graded) / len(graded) if graded else math.nan


def _ranked(cards: Iterator[Card] | Sequence[Card]) -> tuple[Card, ...]:
  return tuple(
    sorted(cards, key=lambda c: (-c.value, c.rollout.length, c.rollout.path))
  )


def _card(
  place: Place,
  found: Group,
  rollout: Rollout,
  made: Credit | None,
  kept: bool,
) -> Card:
  version = rollout.version
  return Card(
    rollout=rollout,
    reward=made.reward if made else None,
    advantage=made.advantage if made else None,
    selected=made.selected if made and rollout.verdict else None,
    why=trees.why(place, found, rollout, made),
    verdict=explained(rollout, found.problem),
    age=place.round + 1 - version if version else None,
    request=requests.request(place, found, rollout),
    kept=kept,
  )


def explained(rollout: Rollout, problem: Problem) -> str:
  """Returns why a rollout has its verdict, in a few words."""
  verdict = rollout.verdict
  if verdict is None:
    return ""
  if ends := [n for n in rollout.rewards if n.startswith(ENDED)]:
    how = [n.removeprefix(ENDED) for n in ends if rollout.rewards[n]]
    goal = "reached" if verdict.status is Status.RIGHT else "not reached"
    return f"the goal was {goal}; the episode ended by {', '.join(how)}"
  found = verdict.extracted[:200]
  return {
    Status.RIGHT: f"found {found!r}, as the gold answer has it",
    Status.WRONG: f"found {found!r}, gold {problem.answer[:200]!r}",
    Status.UNPARSEABLE: "no answer was found in the text",
    Status.TIMED_OUT: f"comparing {found!r} took longer than the limit",
    Status.TRUNCATED: "cut off at the token limit before an answer",
  }[verdict.status]


# -------------------------------------------------------------------- comparison
def difference(before: str, after: str) -> list[tuple[str, str]]:
  """Returns two texts as pieces ("same" | "gone" | "new", text), by words."""
  old, new = before.split()[:MAX_WORDS], after.split()[:MAX_WORDS]
  pieces: list[tuple[str, str]] = []
  matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
  for kind, a, b, c, d in matcher.get_opcodes():
    if kind == "equal":
      pieces.append(("same", " ".join(old[a:b])))
      continue
    if b > a:
      pieces.append(("gone", " ".join(old[a:b])))
    if d > c:
      pieces.append(("new", " ".join(new[c:d])))
  return pieces


# ------------------------------------------------------------------------ curves
def curves(source: Source) -> Iterator[tuple[str, list[charts.Line]]]:
  """Yields the stages of a workdir that have metrics, each with its curves.

  Raises:
    SophiaError: a metrics file is damaged.
  """
  for stage, path in source.metrics().items():
    rows = [line.values for line in files.read_jsonl(path)]
    times = sorted({k for row in rows for k in row if k.startswith(TIMES)})
    titles = CURVES | {k: f"{k.removeprefix(TIMES)}, seconds" for k in times}
    if SAMPLING in titles:  # the same time by a further name
      titles.pop(GENERATION, None)
    lines = []
    for key, title in titles.items():
      points = [
        (float(row["step"]), float(row[key]))
        for row in rows
        if _is_number(row.get(key)) and _is_number(row.get("step"))
      ]
      if len(points) > 1:
        lines.append(charts.line(title, points))
    if lines:
      yield stage, lines


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)


# ------------------------------------------------------------------------ export
def exported(view: GroupView, rows: Mapping[tuple[int, ...], bool]) -> Any:
  """Yields the rollouts of a group that a filter leaves, as JSON values.

  Args:
    rows: the paths that it leaves.
  """
  cards = [c for b in view.branches for c in (b.caption, *b.cards) if c]
  for card in sorted(cards, key=lambda c: c.rollout.path):
    rollout = card.rollout
    if rollout.path not in rows:
      continue
    verdict = rollout.verdict
    yield {
      "store": view.place.name,
      "stage": view.place.stage,
      "round": view.place.round,
      "id": view.problem.id,
      "digest": view.digest,
      "path": list(rollout.path),
      "author": rollout.author,
      "question": view.problem.question,
      "answer": view.problem.answer,
      "images": list(view.problem.images),
      "responses": [turn.completion.text for turn in rollout.turns],
      "finish": rollout.completion.finish_reason.value,
      "length": rollout.length,
      "version": rollout.version,
      "status": verdict.status.value if verdict else None,
      "extracted": verdict.extracted if verdict else None,
      "rewards": dict(rollout.rewards),
      "reward": card.reward,
      "advantage": card.advantage,
      "selected": card.selected,
    }
