"""How one method differs from another: seven choices, made of shared parts.

  sample    how a problem becomes a group of rollouts    coroutine over `World`
  reward    named reward parts -> one number             (Rollout, Moment)
  select    which groups and rollouts are learnt         pure
  credit    groups -> sequences with per-token streams   numpy, on the host
  annotate  streams that only a model can make           once, before an update
  terms     the loss                                     jitted, pure, no `if`
  outputs   what the model must say for the terms        names of train.outputs

An `Algorithm` is built by a function of its config, composed from functions,
and never inherited. Everything per token is a stream of the batch: the trainer
does not know which algorithm runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import (
  Awaitable,
  Callable,
  Iterable,
  Mapping,
  Sequence,
)
from typing import Any, NamedTuple, Protocol

import flax.struct
import numpy as np
from jaxtyping import Array, Float, UInt8

from sophia_jax.algorithms.reductions import Reduction, token
from sophia_jax.types import (
  Batch,
  Chat,
  Completion,
  Example,
  Grade,
  Group,
  Problem,
  Prompt,
  Rollout,
  TokenSequence,
  host,
)

Streams = Mapping[str, Float[Array, "B T"]]


# --------------------------------------------------------------- what is passed
@host
class Moment:
  """A point of a run, for schedules."""

  round: int = 0
  step: int = 0
  """Updates made before."""
  metrics: Mapping[str, float] = dataclasses.field(
    default_factory=dict, hash=False
  )
  """Metrics of an update or round before; empty at the beginning."""


@flax.struct.dataclass
class Forward:
  """Outputs of the model at the targets of packed rows."""

  logps: Float[Array, "B T"]
  """log pi(target); 0 where no term weighs the target."""
  entropy: Float[Array, "B T"] | None = None
  """Entropy of the next-token distribution, nats."""
  heads: Mapping[str, Float[Array, "B T C"]] = flax.struct.field(
    default_factory=dict
  )
  """Outputs of the heads beside the vocabulary: "value" (C = 1), classes."""
  views: Mapping[str, Float[Array, "B T"]] = flax.struct.field(
    default_factory=dict
  )
  """log pi(target) under each of `Algorithm.views`, with its gradient."""


View = Callable[[Batch, int], Batch]
"""(batch, patch) -> the same tokens with other pixels; `patch` is the side of the
encoder's patches, pixels."""


class World(Protocol):
  """Answers and grades for a method that samples; remembers every answer.

  An answer that the store holds is not asked for again, so no recipe knows of
  resumption: a resumed run replays the same coroutines.
  """

  async def ask(
    self,
    role: str,
    problem: Problem,
    path: tuple[int, ...],
    prompt: Prompt | Chat,
    turn: int = 0,
  ) -> Completion:
    """Returns the answer of `role` at a place of the problem's tree.

    Args:
      role: who is asked, and how it samples: "policy", "caption" (the policy,
        describing), "reasoner", "teacher".
      path: place in the tree.
      prompt: what is asked.
      turn: number of the question at this place.
    """
    ...

  async def grade(
    self, problem: Problem, path: tuple[int, ...], completion: Completion
  ) -> Grade:
    """Returns the verdict on an answer, and its reward parts."""
    ...

  def prompt(
    self, template: str, problem: Problem, **context: str
  ) -> Prompt | Chat:
    """Renders the problem for a role.

    Args:
      template: the role: "policy", the problem as the policy answers it;
        "caption", the question for a description of its images; "reasoner",
        the problem with a caption in place of the images; "teacher".
      context: further texts that the role is shown, such as `caption`.
    """
    ...

  def extend(
    self,
    prompt: Prompt,
    completion: Completion,
    text: str,
    pictures: Sequence[str] = (),
  ) -> Prompt:
    """Returns the prompt of the turn after an answer: the ids of both as they
    are, then what the policy is shown next."""
    ...

  def picture(self, pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Stores a picture once, and returns its path."""
    ...

  def chance(self, problem: Problem, path: tuple[int, ...]) -> int:
    """Returns the seed of what chance does at a place of the problem's tree."""
    ...

  def length(self, completion: Completion) -> int:
    """Returns the tokens of an answer in the policy's vocabulary."""
    ...


class Words(Protocol):
  """Renders in the policy's vocabulary, as data.chat.Renderer does."""

  @property
  def slow_thinking(self) -> str:
    """System prompt of responses that think inside <think> tags."""
    ...

  def prompt(
    self,
    question: str,
    images: Sequence[str] = (),
    system: str | None = None,
  ) -> Prompt: ...

  def sequence(
    self,
    prompt: Prompt,
    response: str | Sequence[int],
    *,
    id: str,
    streams: Mapping[str, Any] = ...,
  ) -> TokenSequence: ...

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the end of the turn; leaves special tokens out."""
    ...


# ------------------------------------------------------------------ the choices
Sample = Callable[[World, Problem], Awaitable[Group]]
Reward = Callable[[Rollout, Moment], float]
Select = Callable[[Sequence[Group], Moment], Sequence[Group]]
Credit = Callable[[Sequence[Group], Words, Moment], list[TokenSequence]]
Files = Callable[
  [Iterable[Group], Words], Mapping[str, Sequence[Problem | Example]]
]
"""(groups, words) -> what each file holds, by the file's name."""
Loss = Callable[[Forward, Batch], Float[Array, "B T"]]
Coefficient = Callable[[Moment], float]


def constant(value: float) -> Coefficient:
  """Returns a schedule that never changes."""
  return lambda moment: value


class Trial(NamedTuple):
  """Episodes or descriptions that a model is measured by, beside pass@1."""

  sample: Sample
  """Recipe of one."""
  data: str
  """File of problems that are not learnt from."""
  parts: tuple[str, ...] = ()
  """Reward parts whose means are the measures, beside success; (): those of
  episodes."""


class Crossed(NamedTuple):
  """Answers of a round that are scored under the prompts of others, to see how
  much they depend on their own (`algorithms.information`)."""

  prompts: int
  """Different prompts, at most."""
  answers: int
  """Answers to each of them, at most."""


class Term(NamedTuple):
  """A term of the objective.

    c sum_t w_t loss_t / sum_t n_t     over the whole update

  `weights` (w) and `normaliser` (n) name streams. n is summed over every row of
  every microbatch on every device before the division, so the value depends on
  neither packing, accumulation nor mesh. The coefficient c is evaluated on the
  host and traced as a number: a schedule never recompiles.
  """

  name: str
  loss: Loss
  coefficient: Coefficient = constant(1.0)
  weights: str = "weights"
  normaliser: str = "count"


class Score(Protocol):
  """A model's outputs, teacher-forced and without a gradient."""

  def __call__(
    self,
    model: str,
    batch: Batch,
    names: tuple[str, ...],
    view: View | None = None,
  ) -> Forward:
    """Returns outputs of a model.

    Args:
      model: a name of `Annotator.models`.
      names: names of the outputs.
      view: what is shown to it; None: the batch itself.
    """
    ...


class Average(NamedTuple):
  """A copy m of the policy that follows it slowly.

  m <- decay m + (1 - decay) theta        after every so many updates
  """

  decay: float
  """Share that stays; 1: the copy never changes, 0: it is the policy."""
  every: int
  """Updates between two moves."""


class Hidden(NamedTuple):
  """Black squares in the images of sequences."""

  share: float
  """Probability that a square is black."""
  patch: int
  """Side of a square, pixels of the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Annotator:
  """Streams only a model can make, added to a whole round before an update.

  Annotators run in their order; each reads the streams of those before it.
  Those with `across` come last.
  """

  streams: tuple[str, ...]
  """Names of the streams it adds."""
  reads: tuple[str, ...] = ()
  """Names of the log-probabilities of other annotators that it reads."""
  models: tuple[str, ...] = ()
  """Models it scores with: "policy" (the weights at the start of the round),
  "reference" (those at the start of the stage), "critic", "average" (see
  `Algorithm.average`), or a name of `Algorithm.rewarders`."""
  score: Callable[[Score, Batch], Streams] | None = None
  """Makes the streams of one microbatch [B, T], jitted."""
  hidden: Hidden | None = None
  """Black squares in what its models see, made before images are resized; reads
  stream "draw". None: none."""
  across: (
    Callable[
      [Sequence[Mapping[str, np.ndarray]], Sequence[np.ndarray]],
      Sequence[Mapping[str, np.ndarray]],
    ]
    | None
  ) = None
  """Makes them from (streams, segment_ids) of all batches of the round at once,
  on the host, rows of every process included: whitening, sums over a group.
  Arrays are [..., T]."""


def accuracy(rollout: Rollout, moment: Moment) -> float:
  """Returns the reward part "accuracy", 1 where the answer is right."""
  del moment
  return float(rollout.rewards["accuracy"])  # type: ignore[arg-type]


def everything(groups: Sequence[Group], moment: Moment) -> Sequence[Group]:
  """Selects all groups as they are."""
  del moment
  return groups


EXAMPLE = Problem(id="0", question="", answer="0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Algorithm:
  """A method; see the module."""

  sample: Sample | None = None
  """Recipe of a group; None: learns from examples alone."""
  check: Callable[[Problem], Any] | None = None
  """Raises SophiaError for a problem that the recipe cannot sample for, before
  any is sampled. None: it can for all."""
  example: Problem = EXAMPLE
  """A problem that it can sample for; plans count the requests of its recipe."""
  context: int = 0
  """Largest prompt of a turn after the first, tokens; 0: there is one turn."""
  trial: Trial | None = None
  """Episodes or descriptions that its result is measured by; None: pass@1
  alone."""
  crossed: Crossed | None = None
  """Answers of a round that are scored to measure mutual information; None:
  none."""
  roles: tuple[str, ...] = ("policy",)
  """Roles that the recipe asks."""
  reward: Reward = accuracy
  """Mix of the reward parts; `credit.rewarded` adds it as part "reward"."""
  select: Select = everything
  compares: str = ""
  """Key of the method's config by which `select` compares the groups of a round
  with each other; "": it judges each group alone."""
  credit: Credit | None = None
  files: Files | None = None
  """Writes files from the groups, which later stages name as their data; such a
  method has no terms and learns nothing. None: it learns."""
  streams: tuple[str, ...] = ("weights", "count")
  """Names of the streams that the sequences bring, made by `credit`; those of
  the annotators come on top."""
  reduction: Reduction = token
  """Reduction of sequences that no rollout made: examples, mixed-in sources."""
  annotate: tuple[Annotator, ...] = ()
  terms: tuple[Term, ...]
  metrics: tuple[Term, ...] = ()
  """Terms that are reported and not learnt: clip fractions, KL, ratios."""
  maxima: tuple[Term, ...] = ()
  """Terms of which the largest value where w > 0 is reported."""
  numbers: Mapping[str, Coefficient] = dataclasses.field(default_factory=dict)
  """Numbers evaluated on the host before an update, as coefficients are; losses
  and metrics read each as a constant stream of its name."""
  outputs: tuple[str, ...] = ("logps",)
  views: Mapping[str, View] = dataclasses.field(default_factory=dict)
  """The views whose log-probabilities losses read with a gradient, by name: each
  costs a pass forward and back."""
  average: Average | None = None
  """Copy of the policy that annotators score with as "average"; it begins with the
  weights that the stage starts from. None: no such copy."""
  critic: Algorithm | None = None
  """Terms, metrics and outputs of a critic with separate weights, which
  learns from the same batches; None: no such critic."""
  critic_start: str = ""
  """Earlier stage whose weights the critic starts from; "": those that the policy
  starts from."""
  rewarders: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )
  """Earlier stages whose models annotators score with, and the heads that are
  read of each."""
  answers: bool = True
  """Whether its model answers problems. One that only scores is not evaluated,
  and a stage starts from it by name alone."""

  @property
  def models(self) -> tuple[str, ...]:
    """Models that the annotators score with."""
    names = {name for a in self.annotate for name in a.models}
    return tuple(sorted(names))

  @property
  def all_streams(self) -> tuple[str, ...]:
    """Names of the streams that the batches of an update hold."""
    made = (name for a in self.annotate for name in a.streams)
    return tuple(sorted({*self.streams, *made}))
