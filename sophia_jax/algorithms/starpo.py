"""StarPO and StarPO-S: whole episodes are learnt (RAGEN, arXiv 2504.20073).

The loss covers what the policy wrote in all turns of an episode, never what the
environment answered. StarPO-S keeps the starts whose returns differ most, has no
KL and clips higher.
"""

from __future__ import annotations

import dataclasses

from sophia_jax.algorithms import (
  advantages,
  annotate,
  contract,
  credit,
  episodes,
  grpo,
  ppo,
  reductions,
  selection,
)
from sophia_jax.algorithms.contract import Algorithm, Annotator
from sophia_jax.algorithms.reductions import Reduction
from sophia_jax.config import check_choices, free
from sophia_jax.envs import registry
from sophia_jax.envs.episode import Limits
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.types import Problem, SophiaError

EXAMPLE = Problem(
  id="0", question="", answer=registry.written(FrozenLake(rows=("SF", "FG")))
)
ADVANTAGES = ("group", "gae", "bilevel")
FILTERS = ("none", "share", "mass", "softmax", "ratio")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(ppo.CriticConfig):
  """State-thinking-actions-reward policy optimisation."""

  n: int = 16
  """Episodes of a start."""
  turns: int = 5
  """Answers of an episode, at most."""
  actions: int = 10
  """Actions of an episode, at most."""
  actions_per_turn: int = 5
  """Actions of an answer that are taken."""
  penalty: float = 0.1
  """Cost of an answer without the form, or with something that is no action."""
  form: str = "think"
  """Form of an answer: "think", a thought and actions in tags; "answer", actions
  in tags; "plain", actions."""
  context: int = 3200
  """Largest prompt of a turn, tokens: an episode that would need more ends."""
  crossed: int = free(0)
  """Prompts of a round whose first answers are scored under each other's, for
  their mutual information; 0: it is not measured. Costs crossed^2 times
  `crossed_answers` more sequences of a turn in a pass without gradients."""
  crossed_answers: int = free(4)
  """Answers to each of these prompts that are scored."""
  trials: str = ""
  """File of starts that success before and after is measured on; "": none."""
  advantage: str = "group"
  """Advantage of a token: "group", GRPO's; "gae", of a critic; "bilevel", of a
  critic from turn to turn, then from token to token."""
  rewards: str = "episode"
  """Place of the reward with a critic: "episode", the sum at the last token;
  "turn", each at the end of its turn."""
  gamma_turn: float = 0.95
  """Discount of a turn, of "bilevel"."""
  lam_turn: float = 1.0
  """Decay of the advantage from turn to turn, of "bilevel"."""
  value_clip: float = 0.5
  """Largest change of a value per round that the loss sees."""
  filter: str = "none"
  """Starts that are learnt, by the deviation of their returns: "none", all;
  "share", the largest; "mass", those with this share of the sum; "softmax",
  those with this share of the softmax; "ratio", those with this ratio of the
  largest."""
  kept: float = 0.25
  """Share, mass or ratio of the filter."""
  kl: float = 0.001
  """Coefficient of the KL to the reference in the loss; 0: no reference."""
  entropy: float = 0.001
  """Coefficient of the entropy bonus; 0: off."""
  reduction: str = "sequence"
  """Key of reductions.REDUCTIONS; the paper's is "sequence"."""

  def __post_init__(self) -> None:
    check_choices(
      self,
      "starpo",
      advantage=ADVANTAGES,
      rewards=("episode", "turn"),
      critic=ppo.CRITICS,
      filter=FILTERS,
    )
    if not 0 < self.kept <= 1:
      raise SophiaError(
        f"starpo.kept: {self.kept} is no share; use one above 0, at most 1"
      )
    if self.crossed == 1 or self.crossed < 0 or self.crossed_answers < 1:
      raise SophiaError(
        f"starpo.crossed: {self.crossed} x {self.crossed_answers}: two prompts or "
        "more and one answer or more, or crossed=0"
      )
    if self.context < 1:
      raise SophiaError(f"starpo.context: {self.context}; use 1 or more")

  @property
  def limits(self) -> Limits:
    """The form of an episode."""
    names = (f.name for f in dataclasses.fields(Limits))
    return Limits(**{name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfigS(Config):
  """Stabilised: filtered starts, no KL, a higher upper bound."""

  filter: str = "share"
  """Starts that are learnt, as in StarPO."""
  high: float = 0.28
  """Distance of the ratio's upper bound from 1."""
  kl: float = 0.0
  """Coefficient of the KL to the reference in the loss; 0: no reference."""


def starpo(c: Config) -> Algorithm:
  """Builds -1/G sum_i 1/|tau_i| sum_t min(rho A, clip(rho) A) on episodes.

  tau_i are the tokens that the policy wrote in all turns of episode i.
  """
  reduction = reductions.named(c.reduction, "starpo")
  if c.advantage == "group":
    made = _of_groups(c, reduction)
  else:
    made = _of_critic(c, reduction)
  trial = contract.Trial(
    sample=episodes.episodes(1, c.limits, c.context), data=c.trials
  )
  crossed = contract.Crossed(c.crossed, c.crossed_answers)
  return dataclasses.replace(
    made,
    sample=episodes.episodes(c.n, c.limits, c.context),
    check=registry.of,
    example=EXAMPLE,
    context=c.context,
    crossed=crossed if c.crossed else None,
    trial=trial if c.trials else None,
    reward=episodes.returned,
    select=_filter(c),
    compares="" if c.filter == "none" else "filter",
  )


def _filter(c: Config) -> contract.Select:
  """Returns the rule that chooses starts, by raw returns."""
  return {
    "none": contract.everything,
    "share": selection.most_varied(c.kept),
    "mass": selection.most_of_deviation(c.kept),
    "softmax": selection.most_of_deviation(c.kept, softmax=True),
    "ratio": selection.least_deviation(c.kept),
  }[c.filter]


def _of_groups(c: Config, reduction: Reduction) -> Algorithm:
  """Builds the flavour of GRPO: a start's episodes are their own baseline."""
  shared = grpo.ClipConfig(
    n=c.n,
    kl=c.kl,
    kl_estimator=c.kl_estimator,
    entropy=c.entropy,
    low=c.low,
    high=c.high,
  )
  credited = credit.by_group(advantages.normalised, reduction)
  return grpo.clipped(shared, "starpo", credited)


def _of_critic(c: Config, reduction: Reduction) -> Algorithm:
  """Builds the flavour of PPO: a critic values every token."""
  return ppo.valued(
    c,
    credit.by_turns(reduction, episodes=c.rewards == "episode"),
    streams=("rewards", "ends", "weights", "count", "mask"),
    in_loss=c.kl,
    advantages=(_gae(c), annotate.whiten()),
  )


def _gae(c: Config) -> Annotator:
  if c.advantage == "gae":
    return annotate.gae(c.gamma, c.lam)
  return annotate.bilevel_gae((c.gamma_turn, c.lam_turn), (c.gamma, c.lam))
