"""The world that a method asks while it samples; it remembers every answer.

A `World` implements algorithms.contract.World on a store, engines and the
verifier. An answer or a grade that the store holds is not asked for again, so a
coroutine that samples needs no notion of resumption: it runs again from its
beginning and continues where the records end. Reading a complete store is the
same replay, without engines.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import hashlib
import io
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from sophia_jax import files
from sophia_jax.data.chat import Renderer
from sophia_jax.data.problems import problem_digest
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.records import Answer, Graded, identity
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.ticks import Asked, Recorded, Ticking, Ticks
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Grade,
  Problem,
  Prompt,
  Request,
  Sampling,
  SophiaError,
  Status,
  Verdict,
)

_REMEMBERED = 1 << 16
"""Lengths of answers kept in memory."""
_NAMED_BY_PLACE = ("caption", "reasoner")
"""Roles whose requests need no role in their names: no two of them answer at one
place of a tree."""

Rewards = Callable[[Problem, Completion, Verdict], Mapping[str, float]]
"""Names and values of an answer's reward parts."""


class Missing(SophiaError):
  """An answer or a grade that the store lacks, where nothing else gives one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seat:
  """How a role is asked, and by whom it is played."""

  prompt: Callable[..., Prompt | Chat]
  """(problem, **context) -> what the role is asked."""
  sampling: Sampling = dataclasses.field(default_factory=Sampling)
  """Settings by which its tokens are drawn; each request has another seed."""
  engines: Mapping[str, Ticking | Asked | Recorded] = dataclasses.field(
    default_factory=dict
  )
  """The models that answer, by difficulty of the problem; one alone answers for
  every problem. Empty: only the store answers."""
  own: bool = True
  """Whether answers are in the policy's vocabulary."""

  def engine(self, problem: Problem) -> Ticking | Asked | Recorded:
    """Returns the model that answers for a problem.

    Raises:
      SophiaError: the problem's difficulty names none.
    """
    if len(self.engines) == 1:
      return next(iter(self.engines.values()))
    if problem.difficulty in self.engines:
      return self.engines[problem.difficulty]
    raise SophiaError(
      f"problem {problem.id}: difficulty {problem.difficulty!r} names no "
      f"reasoner; config.reasoners has {', '.join(sorted(self.engines))}"
    )


def accuracy(
  problem: Problem, completion: Completion, verdict: Verdict
) -> dict[str, float]:
  """Returns the outcome reward alone: 1 for a right answer (SOPHIA, Eq. 4)."""
  del problem, completion
  return {"accuracy": float(verdict.status is Status.RIGHT)}


class World:
  """Answers and grades of one store; see the module.

  Args:
    seats: by role.
    words: the policy's vocabulary, in which lengths are counted.
    verifier: None: only the store grades.
    seed: of the run.
    round: of the store; each round draws other tokens.
    rewards: the reward parts of a verified answer.
  """

  def __init__(
    self,
    store: Store,
    seats: Mapping[str, Seat],
    words: Renderer,
    verifier: Verifier | None = None,
    *,
    seed: int = 0,
    round: int = 0,
    rewards: Rewards = accuracy,
  ):
    self.store, self.seats, self.words = store, seats, words
    self._verifier, self._rewards = verifier, rewards
    self._seed, self._round = seed, round
    self.ticks = Ticks()
    self.sampled: collections.Counter[str] = collections.Counter()
    """Number of answers that engines gave, by role."""
    self.tokens: collections.Counter[str] = collections.Counter()
    """Number of their tokens, by role."""
    self._lengths: collections.OrderedDict[tuple[str, int], int] = (
      collections.OrderedDict()
    )
    self._in_flight: set[str] = set()
    engines = [e for seat in seats.values() for e in seat.engines.values()]
    self._ticking = not any(isinstance(engine, Asked) for engine in engines)
    """Whether no engine is a server, so that batches are deterministic."""
    self.digest = functools.lru_cache(4096)(problem_digest)
    """Identity of a problem's content."""

  def check(self, problems: Iterable[Problem]) -> None:
    """Finds problems that a role has no engine for, before any is asked.

    Raises:
      SophiaError: names the first of them.
    """
    seats = [seat for seat in self.seats.values() if seat.engines]
    for problem in problems:
      for seat in seats:
        seat.engine(problem)

  def complete(self, problem: Problem) -> bool:
    """Returns whether the store holds the problem's whole group."""
    return self.store.complete(problem)

  def finish(self, problem: Problem) -> None:
    """Marks the problem's group as complete, in a store that is written."""
    if self.store.writable:
      self.store.finish(problem.id, self.digest(problem))

  def stop(self, error: BaseException) -> None:
    """Makes `collect` raise `error` soon; may be called from any thread."""
    self.ticks.stop(error)

  # ------------------------------------------------ algorithms.contract.World
  async def ask(
    self,
    role: str,
    problem: Problem,
    path: tuple[int, ...],
    prompt: Prompt | Chat,
    turn: int = 0,
  ) -> Completion:
    """Returns the answer of `role` at a place of the problem's tree.

    Raises:
      SophiaError: the engine failed.
      Missing: there is no engine, and the store lacks it.
      ValueError: the same place is asked for a second time meanwhile.
    """
    digest = self.digest(problem)
    answer = self.store.answer(problem.id, digest, path, turn, role)
    if answer is None:
      completion = await self._asked(role, problem, path, prompt, turn)
      answer = Answer(
        problem_id=problem.id,
        digest=digest,
        path=path,
        turn=turn,
        role=role,
        completion=completion,
        length=self._count(role, completion),
      )
      self.store.append(answer)
      self.sampled[role] += 1
      self.tokens[role] += len(completion.token_ids) or answer.length
    self._lengths[_text_key(answer.completion)] = answer.length
    if len(self._lengths) > _REMEMBERED:
      self._lengths.popitem(last=False)
    return answer.completion

  async def grade(
    self, problem: Problem, path: tuple[int, ...], completion: Completion
  ) -> Grade:
    """Returns the verdict on an answer, and its reward parts.

    Raises:
      SophiaError: the verifier failed.
      Missing: there is no verifier, and the store lacks it.
    """
    digest = self.digest(problem)
    grade = self.store.grade(problem.id, digest, path, completion)
    if grade is not None:
      return grade
    if self._verifier is None:
      raise self._missing(f"the grade of {completion.request_id}")
    asked = self._verifier.submit(
      completion.text, problem, completion.finish_reason
    )
    verdict = await (
      self.ticks.grade(asked) if self._ticking else asyncio.wrap_future(asked)
    )
    grade = Grade(
      verdict=verdict, rewards=dict(self._rewards(problem, completion, verdict))
    )
    self.store.append(
      Graded(
        problem_id=problem.id,
        digest=digest,
        path=path,
        of=identity(completion),
        grade=grade,
      )
    )
    return grade

  def prompt(
    self, template: str, problem: Problem, **context: str
  ) -> Prompt | Chat:
    """Renders the problem as a role is asked it.

    Args:
      template: the role.
      context: further texts that the role is shown, such as `caption`.
    """
    return self._seat(template).prompt(problem, **context)

  def extend(
    self,
    prompt: Prompt,
    completion: Completion,
    text: str,
    pictures: Sequence[str] = (),
  ) -> Prompt:
    """Returns the prompt of the turn after an answer: the ids of both as they
    are, then what the policy is shown next."""
    return self.words.extend(prompt, completion.token_ids, text, pictures)

  def picture(self, pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Stores a picture beside the answers, once, and returns its path.

    Raises:
      SophiaError: it is missing from a store that is only read.
    """
    name = hashlib.blake2b(pixels.tobytes(), digest_size=12).hexdigest()
    shape = "x".join(map(str, pixels.shape[:2]))
    path = self.store.path / "pictures" / f"{name}-{shape}.png"
    if not path.exists():
      if not self.store.writable:
        raise self._missing(f"the picture {path.name}")
      buffer = io.BytesIO()
      Image.fromarray(pixels).save(buffer, "png", compress_level=1)
      path.parent.mkdir(exist_ok=True)
      files.write_bytes(path, buffer.getvalue())
    return str(path)

  def chance(self, problem: Problem, path: tuple[int, ...]) -> int:
    """Returns the seed of what chance does at a place of the problem's tree."""
    return chance_of(self._seed, problem.id, path, self._round)

  def length(self, completion: Completion) -> int:
    """Returns the tokens of an answer in the policy's vocabulary."""
    known = self._lengths.get(_text_key(completion))
    return self.words.count(completion.text) if known is None else known

  # ----------------------------------------------------------------- internals
  async def _asked(
    self,
    role: str,
    problem: Problem,
    path: tuple[int, ...],
    prompt: Prompt | Chat,
    turn: int,
  ) -> Completion:
    """Asks the role's engine."""
    name, seat = request_name(role, problem.id, path, turn), self._seat(role)
    if not seat.engines:
      raise self._missing(f"the answer {name}")
    if name in self._in_flight:
      raise ValueError(f"{name} is asked twice at the same time")
    seed = seed_of(self._seed, name, self._round)
    request = Request(
      id=name,
      prompt=prompt,
      sampling=dataclasses.replace(seat.sampling, seed=seed),
    )
    engine = seat.engine(problem)
    if isinstance(engine, Recorded):
      return engine.recorded(request, problem)
    self._in_flight.add(name)
    try:
      if isinstance(engine, Ticking):
        return await self.ticks.ask(engine, request)
      return await engine.ask(request)
    finally:
      self._in_flight.discard(name)

  def _count(self, role: str, completion: Completion) -> int:
    if completion.finish_reason is FinishReason.ABSENT:
      return 0
    ids = completion.token_ids
    if ids and self._seat(role).own:
      return len(ids) - (ids[-1] == self.words.end_id)
    return self.words.count(completion.text)

  def _seat(self, role: str) -> Seat:
    if role not in self.seats:
      raise SophiaError(
        f"role {role!r} is not one of {', '.join(sorted(self.seats))}"
      )
    return self.seats[role]

  def _missing(self, what: str) -> Missing:
    return Missing(f"{self.store.path}: {what} is missing; sample it again")


def request_name(
  role: str, problem_id: str, path: tuple[int, ...], turn: int = 0
) -> str:
  """Returns the name of a request: "mv-17/0/3", "mv-17/2:policy", "...:policy.1"."""
  name = "/".join((problem_id, *map(str, path)))
  if turn:
    return f"{name}:{role}.{turn}"
  return name if role in _NAMED_BY_PLACE else f"{name}:{role}"


def seed_of(seed: int, name: str, round: int = 0) -> int:
  """Returns a request's seed: 63 bits of a hash of run, round and name."""
  run = f"{seed}.{round}" if round else f"{seed}"
  digest = hashlib.blake2b(f"{run}/{name}".encode(), digest_size=8)
  return int.from_bytes(digest.digest(), "big") >> 1


def chance_of(
  seed: int, problem_id: str, path: tuple[int, ...], round: int
) -> int:
  """Returns the seed of what chance does at a place of a problem's tree."""
  return seed_of(seed, request_name("chance", problem_id, path), round)


def _text_key(completion: Completion) -> tuple[str, int]:
  text = completion.text.encode(errors="surrogatepass")
  return completion.request_id, zlib.crc32(text)
