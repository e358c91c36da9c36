"""Every value that crosses a module boundary, in the order the data flows.

Problem -> Prompt -> Request -> Completion -> Rollout -> Group -> TokenSequence
        -> Batch

Everything before `Batch` is plain host data: images are references (paths),
never pixels, so that a million of them fit in memory and in a text file.

Dimension letters, the same everywhere: B rows, T tokens of a row, L tokens of
one sequence, I tiles, S tile side in pixels, P image tokens of a tile, D model
width, N heads, H head width, V vocabulary, K captions, N trajectories.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar, dataclass_transform

import flax.struct
import numpy as np
from jaxtyping import Array, Float, Int, Int8, Int32, UInt8

from sophia_jax.status import ANSWER_TYPES as ANSWER_TYPES
from sophia_jax.status import Status as Status

C = TypeVar("C", bound=type)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def host(cls: C) -> C:
  """Declares a value on the host: frozen, keyword-only, without more fields."""
  return dataclasses.dataclass(frozen=True, kw_only=True, slots=True)(cls)  # type: ignore[return-value]


class SophiaError(Exception):
  """An error that the user can fix: printed as one line, never as a traceback."""


def quoted(value: object, limit: int = 80) -> str:
  """Returns the repr of a value for an error's line, of `limit` characters."""
  text = repr(value[: 2 * limit] if isinstance(value, str) else value)
  return text if len(text) <= limit else f"{text[: limit - 3]}..."


# ------------------------------------------------------------------- problems
@host
class Problem:
  """A verifiable question about zero or more images.

  Example: Problem(id="mv-17", question="How many apples?", answer="6",
    images=("/data/images/17.jpg",), answer_type="number")
  """

  id: str
  question: str
  answer: str
  images: tuple[str, ...] = ()
  """Absolute paths, in the order the question shows them."""
  answer_type: str = "auto"
  """One of ANSWER_TYPES."""
  choices: tuple[str, ...] = ()
  """Texts of options A, B, C, ..."""
  tolerance: tuple[float, ...] = ()
  """Largest error of a number: one for all answers, or one for each of
  several. None, or 0: as exact as the verifier asks for."""
  accepted: tuple[str, ...] = ()
  """Further answers that are right, each of them alone."""
  hint: str = ""
  difficulty: str = "easy"
  """Names the reasoner that thinks about it."""
  source: str = ""
  tags: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
  """Labels that scores are split by: {"subject": "algebra", "level": "3"}."""

  @property
  def text(self) -> str:
    """The question as every model is asked it: hint, question, options.

    Sampling, training and evaluation all use this and nothing else.
    """
    return "\n".join(filter(None, (self.hint, self.bare)))

  @property
  def bare(self) -> str:
    """The question without its hint: question and options."""
    options = [f"{chr(65 + i)}. {c}" for i, c in enumerate(self.choices)]
    return "\n".join(filter(None, (self.question, *options)))

  def described(self, views: Sequence[str]) -> Problem:
    """Returns the problem with descriptions as its hint, in place of its images."""
    lines = [f"View {i}: {' '.join(v.split())}" for i, v in enumerate(views, 1)]
    question = "\n".join(filter(None, (self.hint, self.question)))
    return dataclasses.replace(
      self, images=(), hint="\n".join(lines), question=question
    )


@host
class Example:
  """A question with the response to learn (or to score).

  Example: Example(id="vqa-3", question="What is shown?", response="A cat.",
    images=("/data/images/3.jpg",), system=None, weight=1.0)
  """

  id: str
  question: str
  response: str
  images: tuple[str, ...] = ()
  system: str | None = None
  """None: the model's default system prompt. "": none at all."""
  weight: float = 1.0


# ----------------------------------------------------------------- generation
class Role(enum.IntEnum):
  """Kind of a token of a sequence."""

  PROMPT = 0
  IMAGE = 1  # an image token, replaced by a vision embedding
  RESPONSE = 2  # written by a model; the end-of-turn token included


@host
class Prompt:
  """A rendered prompt: exact ids and therefore an exact length.

  The j-th IMAGE token takes the j-th vision embedding of `images`, tile by
  tile in the order of `data.images.tile`.

  Example: Prompt(token_ids=[1, 7, 9, 9, 9, 9, 8, 5], images=("a.png",),
    tiles=(1,), roles=[0, 0, 1, 1, 1, 1, 0, 0])
  """

  token_ids: Int32[np.ndarray, "L"]
  roles: Int8[np.ndarray, "L"]
  images: tuple[str, ...] = ()
  tiles: tuple[int, ...] = ()
  """Tiles of each image, thumbnail included."""

  def __len__(self) -> int:
    return len(self.token_ids)


@host
class Chat:
  """A question in words: the model that answers it renders it as its own.

  For a model whose vocabulary is not ours to know.

  Example: Chat(text="Visual information: Two apples.\\nHow many?")
  """

  text: str
  system: str | None = None
  """None: whatever the model's own template says."""
  images: tuple[str, ...] = ()
  """Absolute paths of the images that are shown before the text."""


def check_drawing(temperature: float, top_p: float) -> None:
  """Refuses settings by which no tokens can be drawn.

  Raises:
    ValueError: names the setting.
  """
  if not 0 <= temperature < math.inf:
    raise ValueError(f"temperature is {temperature}; use 0 (greedy) or more")
  if not 0 < top_p <= 1:
    raise ValueError(f"top_p is {top_p}; use more than 0, and at most 1")


@host
class Sampling:
  """How to draw tokens. temperature 0 is greedy.

  Example: Sampling(temperature=1.0, max_new_tokens=1024, seed=7)
  """

  temperature: float = 1.0
  """Sampling temperature; 0: greedy."""
  top_p: float = 1.0
  """Probability mass of the likeliest tokens that are drawn from."""
  top_k: int = 0
  """0: off."""
  max_new_tokens: int = 1024
  """Largest completion, tokens."""
  seed: int = 0
  """Seed of the draws."""

  def __post_init__(self) -> None:
    check_drawing(self.temperature, self.top_p)


@host
class Request:
  """One generation. Its tokens depend on nothing but itself and the weights."""

  id: str
  prompt: Prompt | Chat
  sampling: Sampling


class FinishReason(enum.StrEnum):
  """How an answer ended."""

  STOP = "stop"
  LENGTH = "length"
  ABSENT = "absent"
  """No answer; the text says why in one word: none, cut, down."""


@host
class Completion:
  """An engine's answer to a request.

  Example: Completion(request_id="mv-17/0", text="A red apple.",
    token_ids=(31, 8, 90, 2), logps=(-0.1, -0.3, -1.2, -0.01),
    finish_reason=FinishReason.STOP)
  """

  request_id: str
  text: str
  token_ids: tuple[int, ...]
  """Ids in the vocabulary of the model that wrote them, end of turn included."""
  logps: tuple[float, ...] | None
  """log p(token) under that model at temperature 1, or None if not known."""
  finish_reason: FinishReason
  versions: tuple[tuple[int, int], ...] = ()
  """(policy version, tokens) of each stretch of `token_ids`, in order; () where
  the weights never change."""

  @property
  def version(self) -> int:
    """The oldest policy version that drew any of the tokens.

    Version n are the weights that round n - 1 begins with; 0: not known.
    """
    return min((version for version, _ in self.versions), default=0)


class Engine(Protocol):
  """Generates; the embedded engine and the SGLang client are such."""

  def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
    """Yields completions as they finish; draws requests as capacity frees."""
    ...


# ------------------------------------------------------------ rollout, reward
@host
class Verdict:
  """Example: Verdict(status=Status.RIGHT, extracted="42")."""

  status: Status
  extracted: str = ""


@host
class Grade:
  """A verified answer: its verdict and named reward parts."""

  verdict: Verdict
  rewards: Mapping[str, float] = dataclasses.field(
    default_factory=dict, hash=False
  )
  """Example: {"accuracy": 1.0, "format": 0.5}."""


@host
class Turn:
  """One question to a model, and its answer."""

  prompt: Prompt | Chat
  completion: Completion


@host
class Rollout:
  """One sample of a problem's tree: a caption, a trajectory, an episode.

  Its place in the tree is its path: (k,) is a caption and (k, n) the n-th
  trajectory on it; (i,) is the i-th sample of a flat group.

  Example: Rollout(problem_id="mv-17", path=(0, 3), author="reasoner",
    turns=(Turn(prompt=Chat(...), completion=Completion(...)),),
    rewards={"accuracy": 1.0}, length=211,
    verdict=Verdict(status=Status.RIGHT, extracted="6"))
  """

  problem_id: str
  path: tuple[int, ...]
  turns: tuple[Turn, ...]
  rewards: Mapping[str, float | tuple[float, ...]] = dataclasses.field(
    default_factory=dict, hash=False
  )
  """Named reward parts; a tuple holds one value a turn or segment."""
  author: str = "policy"
  """Role that wrote it: "policy", "reasoner", "teacher", ..."""
  verdict: Verdict | None = None
  length: int = 0
  """Tokens that the author wrote, counted in the policy's vocabulary."""

  @property
  def id(self) -> str:
    return "/".join((self.problem_id, *map(str, self.path)))

  @property
  def completion(self) -> Completion:
    """The last turn's answer."""
    return self.turns[-1].completion

  @property
  def version(self) -> int:
    """The oldest policy version that drew any of its tokens."""
    return min(turn.completion.version for turn in self.turns)


@host
class Group:
  """Every rollout of one problem, in the order of their paths."""

  problem: Problem
  rollouts: tuple[Rollout, ...]
  absent: tuple[str, ...] = ()
  """Answers of other models that are not there, as ROLE/WHY: "teacher/cut"."""

  def children(self, path: tuple[int, ...]) -> tuple[Rollout, ...]:
    """Returns the rollouts whose parent is at `path`."""
    return tuple(r for r in self.rollouts if r.path[:-1] == path)

  def depth(self, depth: int) -> tuple[Rollout, ...]:
    """Returns the rollouts whose path has `depth` steps."""
    return tuple(r for r in self.rollouts if len(r.path) == depth)


# ------------------------------------------------------------------- training
@host
class TokenSequence:
  """One training sequence with its per-token streams.

  `streams[name][t]` belongs to token t itself (packing shifts it to the place
  that predicts token t); it is 0 wherever nothing is to be learnt.

  Example: TokenSequence(id="mv-17/0/3", token_ids=[...], roles=[...],
    images=("a.png",), tiles=(1,), streams={"weights": [0, 0, 1, 1]})
  """

  id: str
  token_ids: Int32[np.ndarray, "L"]
  roles: Int8[np.ndarray, "L"]
  images: tuple[str, ...]
  tiles: tuple[int, ...]
  streams: Mapping[str, Float[np.ndarray, "L"]]
  bundle: str = ""
  """Name shared by sequences that are judged together, such as a preference
  pair; they lie in one row. "": judged alone."""

  def __len__(self) -> int:
    return len(self.token_ids)


@flax.struct.dataclass
class Batch:
  """Packed rows of fixed shape; the trainer's only input.

  With gradient accumulation every field has a leading microbatch axis.
  """

  tokens: Int[Array, "B T"]
  targets: Int[Array, "B T"]
  """tokens shifted left by one inside a segment; 0 at its last token."""
  segment_ids: Int[Array, "B T"]
  """1, 2, ... in a row; 0 is padding."""
  bundle_ids: Int[Array, "B T"]
  """1, 2, ... in a row: sequences that are judged together share one; 0 is
  padding."""
  positions: Int[Array, "B T"]
  """0, 1, ... in a segment."""
  tile_slots: Int[Array, "B T"]
  """Index into the I*P image tokens, -1 for text."""
  tiles: UInt8[Array, "I S S C"]
  """Pixels, three channels a frame; unused places are zero and no slot points at
  them."""
  tile_places: Int[Array, "I 4"]
  """Number of the picture that a tile is part of, its row and column there, and
  the milliseconds after which a video shows the picture. InternVL's tiles are a
  picture each; -1, 0, 0, 0 where no tile is."""
  streams: Mapping[str, Float[Array, "B T"]]
  """At t: the value of targets[t]."""
