"""PAPO: the same answer should be less likely where the image is hidden (arXiv
2507.06448, Eq. 2 and 3)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from sophia_jax.algorithms import (
  annotate,
  diagnostics,
  grpo,
  losses,
  ratios,
  selection,
  views,
)
from sophia_jax.algorithms.contract import (
  Algorithm,
  Annotator,
  Coefficient,
  Credit,
  Hidden,
  Loss,
  Moment,
  Reward,
  Term,
  View,
  Words,
  constant,
)
from sophia_jax.config import check_range
from sophia_jax.types import Group, Rollout, TokenSequence

MOST = 10.0
"""Bound of a token's estimate of the perception KL, as in the code."""
PLACES = ("tile", "image")
STREAM, VIEW = "view_logps", "hidden"
FORM = ("</think>", "\\boxed{", "}")
"""Parts of an answer in its form, in this order, after <think>."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(grpo.Config):
  """Perception-aware policy optimisation on GRPO."""

  n: int = 5
  """Rollouts of a problem."""
  high: float = 0.3
  """Distance of the ratio's upper bound from 1."""
  dual: float = 3.0
  """Bound of the loss in |A| where the advantage A is negative; 0: off."""
  kl: float = 0.01
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  reduction: str = "token"
  """Key of reductions.REDUCTIONS; the code's is "token", the paper's
  "sequence"."""
  gamma: float = 0.02
  """Coefficient of KL(pi || pi on the hidden view), which is maximised."""
  gamma_last: float = 0.0
  """Value that gamma falls to over `gamma_rounds`."""
  gamma_rounds: int = 0
  """Rounds of gamma's fall on a straight line; 0: constant."""
  eta: float = 0.05
  """Coefficient of -log pi of the sampled tokens, without which gamma is
  exploited."""
  eta_view: float = 0.05
  """The same on the hidden view; has no gradient unless `recompute`."""
  hidden: float = 0.6
  """Probability that a square of an image is black."""
  place: str = "tile"
  """Place of the squares: "tile", patches of the encoder on the device; "image",
  before an image is resized, as the authors do."""
  patch: int = 14
  """Side of a square where `place` is "image", pixels of the file."""
  recompute: bool = False
  """Log-probabilities of the view at every update and with a gradient, instead of
  constants of the round."""
  format: float = 0.0
  """Share of the reward for thoughts in tags and a boxed answer; the paper has
  0, the code 0.1."""

  def __post_init__(self) -> None:
    for key in ("gamma", "gamma_last", "eta", "eta_view", "gamma_rounds"):
      value = getattr(self, key)
      check_range(f"papo.{key}", value, value >= 0, "0 or more")
    for key in ("hidden", "format"):
      value = getattr(self, key)
      check_range(f"papo.{key}", value, 0 <= value <= 1, "0 to 1")
    check_range("papo.patch", self.patch, self.patch > 0, "1 or more")
    for fits, remedy in (
      (self.place in PLACES, " or ".join(PLACES)),
      (not self.recompute or self.place != "image", "tile with recompute"),
    ):
      check_range("papo.place", self.place, fits, remedy)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigD(Config):
  """Perception-aware policy optimisation on DAPO."""

  high: float = 0.28
  """Distance of the ratio's upper bound from 1: clip-higher."""
  kl: float = 0.0
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  gamma: float = 0.01
  """Coefficient of KL(pi || pi on the hidden view), which is maximised."""
  eta: float = 0.03
  """Coefficient of -log pi of the sampled tokens, without which gamma is
  exploited."""
  eta_view: float = 0.03
  """The same on the hidden view; has no gradient unless `recompute`."""


def papo(c: Config, method: str = "papo") -> Algorithm:
  """Builds GRPO's loss - gamma KL_prcp - eta log pi - eta_view log pi_view.

  KL_prcp is k3 of KL(pi || pi_view) on the sampled tokens of sequences with an
  image. Without gamma and eta it is GRPO.
  """
  plain = grpo.grpo(c, method)
  looks = bool(c.gamma or (c.recompute and c.eta_view))
  plain = dataclasses.replace(plain, reward=formed(c.format))
  if not (looks or c.eta):
    return plain
  assert plain.credit is not None
  higher = diagnostics.clipped_higher(ratios.token, c.high)
  found = dataclasses.replace(
    plain,
    credit=shown(plain.credit),
    streams=(*plain.streams, "shown", "draw"),
    terms=(*plain.terms, *_entropy("actor/own_nll", losses.nll, c.eta)),
    metrics=(*plain.metrics, higher),
  )
  return _looking(found, c) if looks else found


def papo_d(c: ConfigD) -> Algorithm:
  """Builds PAPO on groups with right and wrong answers (Eq. 3)."""
  varied = selection.varied("accuracy")
  return dataclasses.replace(papo(c, "papo_d"), select=varied)


def _looking(plain: Algorithm, c: Config) -> Algorithm:
  """Adds the hidden view: constants of the round, or recomputed."""
  view = views.black_patches(c.hidden)
  gamma = falling(c.gamma, c.gamma_last, c.gamma_rounds)
  gradient: Loss
  if c.recompute:
    gradient = losses.kl_to_view(VIEW, MOST)
    unlikely = losses.nll_of_view(VIEW)
    seen = _entropy("actor/view_nll", unlikely, c.eta_view)
  else:
    gradient = losses.kl_to(STREAM, most=MOST)
    unlikely = lambda out, batch: -batch.streams[STREAM]
    # A constant is not learnt.
    seen = ()
  # With the normaliser of the loss, whose part it is where it is learnt.
  metric = Term("actor/view_nll", unlikely, weights="shown")
  return dataclasses.replace(
    plain,
    annotate=(*plain.annotate, *(() if c.recompute else (_scored(c, view),))),
    terms=(
      *plain.terms,
      Term("actor/kl_prcp", gradient, lambda m: -gamma(m), "shown"),
      *seen,
    ),
    metrics=(*plain.metrics, *(() if seen else (metric,))),
    views={VIEW: view} if c.recompute else {},
  )


def _scored(c: Config, view: View) -> Annotator:
  """Returns the annotator of the view's log-probabilities."""
  if c.place == "tile":
    return annotate.logps(STREAM, view=view)
  return annotate.logps(STREAM, hidden=Hidden(c.hidden, c.patch))


def _entropy(name: str, loss: Loss, eta: float) -> tuple[Term, ...]:
  """Returns a term of the double entropy loss; none if 0."""
  return (Term(name, loss, constant(eta), "shown"),) if eta else ()


def shown(credited: Credit) -> Credit:
  """Returns the credit with the streams of a view.

  shown  the weights of sequences with an image; 0 on the others
  draw   number of the round, from 1
  """

  def credit(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    return [
      dataclasses.replace(
        s,
        streams={
          **s.streams,
          "shown": s.streams["weights"] * np.float32(sum(s.tiles) > 0),
          "draw": s.streams["mask"] * np.float32(moment.round + 1),
        },
      )
      for s in credited(groups, words, moment)
    ]

  return credit


def falling(first: float, last: float, rounds: int) -> Coefficient:
  """Returns a straight line from `first` to `last` over rounds; then `last`."""

  def coefficient(moment: Moment) -> float:
    done = min(moment.round / rounds, 1.0) if rounds else 0.0
    return first + done * (last - first)

  return coefficient


def formed(share: float) -> Reward:
  """Returns the accuracy, with a share of the reward for an answer's form."""

  def reward(rollout: Rollout, moment: Moment) -> float:
    form = has_form(rollout.completion.text)
    return (1 - share) * selection.part(rollout, "accuracy") + share * form

  return reward


def has_form(text: str) -> bool:
  """Returns whether a text is thoughts in tags and then a boxed answer.

  Takes time linear in the text, whatever a model wrote.
  """
  text = text.lstrip()
  place = 0 if text.startswith("<think>") else -1
  for part in FORM:
    place = text.find(part, place) if place >= 0 else -1
  return place >= 0
