"""FGAIF: PPO on dense, typed rewards of clauses (arXiv 2404.05046).

Reward models say of every clause of a description whether its objects, attributes
and relations are right; the reward lies at the clause's last token, the KL to the
reference at every token. The control pays the sum at the response's end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sophia_jax.algorithms import (
  annotate,
  clause_rewards,
  contract,
  credit,
  diagnostics,
  labels,
  ppo,
  reductions,
  segments,
)
from sophia_jax.algorithms.contract import (
  Algorithm,
  Annotator,
  Credit,
  Moment,
  Score,
  Streams,
  Term,
  Words,
)
from sophia_jax.algorithms.reductions import Reduction
from sophia_jax.config import check_choices
from sophia_jax.rewards import facts
from sophia_jax.rewards.facts import KINDS
from sophia_jax.types import (
  Batch,
  FinishReason,
  Group,
  Rollout,
  SophiaError,
  TokenSequence,
)

VALUES = (0.0, 1.0, -1.0)
"""Reward of each class: no such fact, right, wrong."""
PLACES = ("clause", "response")
CRITICS = ("reward", *ppo.CRITICS)
MEASURED = (
  *(f"wrong_{kind}" for kind in KINDS),
  *("wrong", "clauses", "missing", "silent"),
)
"""Reward parts of a description whose scene is known."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ppo.CriticConfig):
  """PPO with fine-grained AI feedback."""

  n: int = 1
  """Descriptions of a problem."""
  rewards: tuple[str, ...] = ("rewards",)
  """Stages that trained the reward models: one for all kinds, or one for each
  kind, in the order object, attribute, relation."""
  object: float = 1.0
  """Weight of the reward for objects; 0: off."""
  attribute: float = 1.0
  """Weight of the reward for attributes; 0: off."""
  relation: float = 1.0
  """Weight of the reward for relations; 0: off."""
  place: str = "clause"
  """Place of the rewards: "clause", at the end of each; "response", their sum at
  its end, the control."""
  soft: bool = False
  """Whether a reward is the expectation over the classes, in place of that of the
  likeliest class."""
  unfinished: float = 0.0
  """Cost of a response without an end of turn."""
  length_cost: float = 0.0
  """Cost of a response of `longest` tokens; shorter ones cost in proportion."""
  longest: int = 896
  """Tokens of a response that `length_cost` is the cost of."""
  scale: float = 1.0
  """Factor of rewards and KL together; after whitening it changes the critic
  alone."""
  whiten: bool = True
  """Advantages of mean 0 and variance 1 over a round."""
  kl: float = 0.1
  """Coefficient of the KL to the reference in the reward, k1; 0: no reference."""
  critic: str = "reward"
  """Critic: "reward", separate weights that start from the first reward model;
  "model", separate weights that start from the policy; "head", on the policy."""
  known: bool = False
  """Whether the problems' answers describe their scenes, so that errors can be
  counted exactly; nothing is learnt from the counts."""
  trials: str = ""
  """File of such problems that errors before and after are counted on, with
  `known`; "": none."""

  def __post_init__(self) -> None:
    check_choices(self, "fgaif", place=PLACES, critic=CRITICS)
    if len(self.rewards) not in (1, len(KINDS)):
      raise SophiaError(
        f"fgaif.rewards: {len(self.rewards)} stages; name one for all kinds, or "
        f"one each for {', '.join(KINDS)}"
      )
    if not any(self.weights.values()):
      raise SophiaError(
        "fgaif: object, attribute and relation are all 0; nothing is rewarded"
      )
    if self.trials and not self.known:
      raise SophiaError(
        "fgaif.trials: errors are counted where scenes are known; set known=true"
      )
    if self.longest < 1 or min(self.length_cost, self.unfinished) < 0:
      raise SophiaError(
        f"fgaif: longest={self.longest}, length_cost={self.length_cost}, "
        f"unfinished={self.unfinished}: use longest from 1, the costs from 0"
      )

  @property
  def weights(self) -> Mapping[str, float]:
    """Weight of each kind."""
    return {kind: float(getattr(self, kind)) for kind in KINDS}

  @property
  def rewarders(self) -> Mapping[str, tuple[str, ...]]:
    """Kinds that each reward model is read for."""
    paid = tuple(kind for kind, weight in self.weights.items() if weight)
    if len(self.rewards) == 1:
      return {self.rewards[0]: paid}
    pairs = zip(self.rewards, KINDS)
    found: dict[str, tuple[str, ...]] = {}
    for stage, kind in pairs:
      if kind in paid:
        found[stage] = (*found.get(stage, ()), kind)
    return found


def fgaif(c: Config) -> Algorithm:
  """Builds PPO's clipped surrogate on rewards of clauses, and the critic."""
  plain = labels.described(c.n)
  made = ppo.valued(
    c,
    described(c, reductions.named(c.reduction, "fgaif")),
    streams=("shaped", "ends", "last", "weights", "count", "mask"),
    in_loss=0.0,
    advantages=(
      rewarded(c),
      annotate.gae(c.gamma, c.lam, c.scale * c.kl),
      annotate.finite("rewards", f"the reward models {', '.join(c.rewarders)}"),
      *((annotate.whiten(),) if c.whiten else ()),
    ),
  )
  found = (_wrong(kind) for kinds in c.rewarders.values() for kind in kinds)
  return dataclasses.replace(
    made,
    sample=labels.counted(plain) if c.known else plain,
    check=facts.scene if c.known else None,
    example=clause_rewards.DESCRIBED if c.known else contract.EXAMPLE,
    trial=_trial(c),
    metrics=(*made.metrics, *found),
    rewarders=c.rewarders,
    critic_start=next(iter(c.rewarders)) if c.critic == "reward" else "",
  )


def _trial(c: Config) -> contract.Trial | None:
  if not c.trials:
    return None
  recipe = labels.counted(labels.described(1))
  return contract.Trial(recipe, c.trials, MEASURED)


def _wrong(kind: str) -> Term:
  """Returns the share of clauses that a reward model finds wrong."""
  return diagnostics.stream(f"rewards/{kind}_found", f"{kind}_found", "ends")


# ----------------------------------------------------------------------- credit
def described(c: Config, reduction: Reduction) -> Credit:
  """Marks the tokens that clauses end with, and puts the cost of the length on
  the last token.

  Streams, beside those of the reduction: "ends", "last" (1 on the response's last
  token) and "shaped", that cost as a reward.
  """

  def credit_of(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    del moment
    made: list[TokenSequence] = []
    for group, rollout in ((g, r) for g in groups for r in g.rollouts):
      bare = credit.sequences(rollout, group.problem, words)
      for s in credit.credited(bare, reduction):
        own = _placed(rollout, s, words, shaped(c, rollout))
        made.append(dataclasses.replace(s, streams={**s.streams, **own}))
    return credit.alike(made)

  return credit_of


def _placed(
  rollout: Rollout, sequence: TokenSequence, words: Words, cost: float
) -> dict[str, Float[np.ndarray, "L"]]:
  ends, last = np.zeros((2, len(sequence)), np.float32)
  ends[clause_rewards.ends(rollout, sequence, words)] = 1
  last[np.flatnonzero(credit.learnt(sequence.roles))[-1:]] = 1
  return {"ends": ends, "last": last, "shaped": cost * last}


def shaped(c: Config, rollout: Rollout) -> float:
  """Returns the reward of a response's length and end, 0 or less."""
  cut = rollout.completion.finish_reason is FinishReason.LENGTH
  share = rollout.length / c.longest
  return -c.unfinished * cut - c.length_cost * share


# ---------------------------------------------------------------------- rewards
def rewarded(c: Config) -> Annotator:
  """Makes "rewards" of what the reward models say of clauses.

    r_t = s (sum_k w_k u_k [token t ends a clause] + shaped_t)

  u_k is the reward of the likeliest class, or the expectation. A head is read
  after the clause's last token: at the place that predicts the next one. Also
  makes KIND_found, 1 where a clause is wrong to the model. What is not finite
  stays so.
  """
  values = np.asarray(VALUES, np.float32)

  def score(say: Score, batch: Batch) -> Streams:
    ends = batch.streams["ends"]
    paid = jnp.zeros_like(ends)
    made: dict[str, Float[Array, "B T"]] = {}
    for name, kinds in c.rewarders.items():
      heads = say(name, batch, kinds).heads
      for kind in kinds:
        # The state that has read token t lies one place after the one that
        # predicts it.
        logits = jnp.roll(heads[kind], -1, axis=1)
        best = jnp.argmax(logits, axis=-1)
        p = jax.nn.softmax(logits) if c.soft else jax.nn.one_hot(best, 3)
        seen = jnp.isfinite(logits).all(axis=-1)
        u = jnp.where(seen, jnp.sum(p * values, axis=-1), jnp.nan)
        paid += c.weights[kind] * jnp.where(ends > 0, u, 0.0)
        made[f"{kind}_found"] = ends * (best == len(VALUES) - 1)
    if c.place == "response":
      paid = segments.total(paid, batch.segment_ids) * batch.streams["last"]
    return {"rewards": c.scale * (paid + batch.streams["shaped"]), **made}

  found = (f"{kind}_found" for kinds in c.rewarders.values() for kind in kinds)
  return Annotator(
    streams=("rewards", *found), models=tuple(c.rewarders), score=score
  )
