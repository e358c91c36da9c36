"""A group from its records: the tree, what is selected and why, the advantages.

The method's own code does it: its recipe is run over the records, then its
reward, its selection and its credit. Nothing is asked, rendered or graded.
"""

from __future__ import annotations

import asyncio
import collections
import threading
from collections.abc import (
  Container,
  Coroutine,
  Iterable,
  Iterator,
  Mapping,
  Sequence,
)
from typing import Any, NamedTuple

import numpy as np

from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Algorithm, Moment
from sophia_jax.evals.browser.index import Catalogue
from sophia_jax.evals.browser.table import ACCURACY, STATUSES, Place, Table
from sophia_jax.rollout import taken
from sophia_jax.rollout.records import Answer, Graded, Record, identity
from sophia_jax.rollout.world import chance_of
from sophia_jax.types import (
  Completion,
  FinishReason,
  Grade,
  Group,
  Problem,
  Prompt,
  Role,
  Rollout,
  SophiaError,
  TokenSequence,
  Turn,
  host,
)

REMEMBERED = 256
"""Groups whose credit is kept in memory."""
SCORER = "scorer"
_TOKEN, _ROLES = np.zeros(1, np.int32), np.zeros(1, np.int8)
_PROMPT = Prompt(token_ids=_TOKEN, roles=_ROLES)

Path = tuple[int, ...]


@host
class Continued(Prompt):
  """A prompt that continues the tokens before it by what an episode shows."""

  shown: str = ""


class Credit(NamedTuple):
  """Reward, advantage and selection of a rollout by its method."""

  reward: float | None
  """Mix of its reward parts."""
  advantage: float | None
  """None: the method has none, or the rollout is not learnt."""
  selected: bool


class _Absent(SophiaError):
  """A record that a recipe asks for is not there yet."""


class _Shelf:
  """The records of one group as `algorithms.contract.World`."""

  def __init__(self, records: Iterable[Record], seed: int, round: int):
    self._seed, self._round = seed, round
    self.answers: dict[tuple[str, Path, int], Answer] = {}
    self.grades: dict[tuple[Path, str], Grade] = {}
    self.lengths: dict[str, int] = {}
    for record in records:
      if isinstance(record, Answer):
        key = record.role, record.path, record.turn
        self.answers.setdefault(key, record)
        self.lengths[record.completion.request_id] = record.length
      elif isinstance(record, Graded):
        self.grades[record.path, record.of] = record.grade

  async def ask(
    self, role: str, problem: Problem, path: Path, prompt: Any, turn: int = 0
  ) -> Completion:
    if (role, path, turn) not in self.answers:
      raise _Absent(f"{problem.id}: an answer is not there yet")
    return self.answers[role, path, turn].completion

  async def grade(
    self, problem: Problem, path: Path, completion: Completion
  ) -> Grade:
    grade = self.grades.get((path, identity(completion)))
    if grade is None:
      raise _Absent(f"{problem.id}: a grade is not there yet")
    return grade

  def prompt(self, template: str, problem: Problem, **context: str) -> Prompt:
    return _PROMPT

  def extend(
    self, prompt: Prompt, completion: Completion, text: str, pictures: Any = ()
  ) -> Prompt:
    return Continued(token_ids=_TOKEN, roles=_ROLES, shown=text)

  def picture(self, pixels: Any) -> str:
    return ""

  def chance(self, problem: Problem, path: Path) -> int:
    return chance_of(self._seed, problem.id, path, self._round)

  def length(self, completion: Completion) -> int:
    return self.lengths.get(completion.request_id, 0)


class _NoWords:
  """Words for credit that looks at tokens' places and not at their ids."""

  slow_thinking = ""

  def prompt(self, *args: Any, **kwargs: Any) -> Prompt:
    return _PROMPT

  def sequence(
    self,
    prompt: Prompt,
    response: Any,
    *,
    id: str,
    streams: Mapping[str, Any] = {},
  ) -> TokenSequence:
    roles = np.array([Role.PROMPT, Role.RESPONSE], np.int8)
    return TokenSequence(
      id=id,
      token_ids=np.zeros(2, np.int32),
      roles=roles,
      images=(),
      tiles=(),
      streams={k: v * credit.learnt(roles) for k, v in streams.items()},
    )

  def decode(self, ids: Iterable[int]) -> str:
    return ""


# ------------------------------------------------------------------------ a group
def read(
  records: Sequence[Record],
  problem: Problem,
  algorithm: Algorithm | None,
  seed: int = 0,
  round: int = 0,
) -> tuple[Group, bool]:
  """Returns the group of a problem, and whether it is complete.

  A group that is not complete has the rollouts that are there, without what
  the method would add to their rewards; so has one whose problem is not known,
  and one with an episode that the context ended.

  Args:
    seed: of the run; with the round it decides what chance did.
  """
  shelf = _Shelf(records, seed, round)
  if algorithm is not None and algorithm.sample is not None:
    try:
      return _run(_sampled(algorithm, shelf, problem)), True
    except (SophiaError, KeyError):  # KeyError: another method's records
      pass
  return Group(problem=problem, rollouts=tuple(_loose(shelf, problem))), False


def _run(recipe: Coroutine[Any, Any, Group]) -> Group:
  # asyncio.run would write out the whole group where it sets its signal handler.
  loop = asyncio.new_event_loop()
  try:
    return loop.run_until_complete(recipe)
  finally:
    loop.close()


async def _sampled(
  algorithm: Algorithm, shelf: _Shelf, problem: Problem
) -> Group:
  assert algorithm.sample is not None
  return await algorithm.sample(shelf, problem)


def _loose(shelf: _Shelf, problem: Problem) -> Iterator[Rollout]:
  """Yields the rollouts that answers make by their places alone."""
  places: dict[Path, list[Answer]] = collections.defaultdict(list)
  for answer in shelf.answers.values():
    if answer.role != SCORER:
      places[answer.path].append(answer)
  for path in sorted(places):
    absent = FinishReason.ABSENT
    # In place of an absent or cut answer of another model stands the policy's.
    answers = sorted(
      places[path],
      key=lambda a: (a.completion.finish_reason != absent, a.turn),
    )
    last = answers[-1]
    grade = shelf.grades.get((path, identity(last.completion)))
    own = [a for a in answers if a.role == last.role]
    yield Rollout(
      problem_id=problem.id,
      path=path,
      turns=tuple(Turn(prompt=_PROMPT, completion=a.completion) for a in own),
      rewards=grade.rewards if grade else {},
      author="policy" if last.role == "caption" else last.role,
      verdict=grade.verdict if grade else None,
      length=sum(a.length for a in own),
    )


# -------------------------------------------------------------------- what is learnt
def credits(
  algorithm: Algorithm,
  groups: Sequence[Group],
  round: int,
  ids: Container[str] | None = None,
) -> dict[str, dict[Path, Credit]]:
  """Returns what the method makes of each rollout, by problem and path.

  Empty where its reward needs a part that the rollouts do not have.

  Args:
    ids: of the problems whose groups the round takes, of those that pass the
      selection; None: all of them.
  """
  moment = Moment(round=round)
  try:
    scored = credit.rewarded(groups, algorithm.reward, moment)
  except (KeyError, StopIteration):
    # Captions have no reward in some methods; the selection says which count.
    scored = list(groups)
  try:
    passed = algorithm.select(scored, moment)
    kept = [g for g in passed if ids is None or g.problem.id in ids]
  except KeyError:
    return {}
  chosen = {
    (g.problem.id, r.path) for g in kept for r in g.rollouts if r.verdict
  }
  values = _advantages(algorithm, kept, moment)
  return {
    g.problem.id: {
      r.path: Credit(
        _number(r.rewards.get("reward")),
        values.get(r.id),
        (g.problem.id, r.path) in chosen,
      )
      for r in g.rollouts
    }
    for g in scored
  }


def _advantages(
  algorithm: Algorithm, kept: Sequence[Group], moment: Moment
) -> dict[str, float]:
  """Returns the advantage of each rollout by its id, where the method has one."""
  if algorithm.credit is None or "advantages" not in algorithm.streams:
    return {}
  try:
    made = algorithm.credit(kept, _NoWords(), moment)
  except (KeyError, SophiaError):
    return {}
  found = {}
  for sequence in made:
    values = sequence.streams.get("advantages")
    learnt = np.flatnonzero(credit.learnt(sequence.roles))
    if values is not None and len(learnt):
      found[credit.rollout_of(sequence)] = float(values[learnt[0]])
  return found


def _number(value: Any) -> float | None:
  return float(value) if isinstance(value, (int, float)) else None


def why(
  place: Place, group: Group, rollout: Rollout, made: Credit | None
) -> str:
  """Returns why a rollout is learnt or not, in a few words; "" where nothing is
  known."""
  if made is None or rollout.verdict is None:
    return ""
  if made.selected:
    return "selected"
  facts = dict(place.facts)
  accuracy = _number(rollout.rewards.get("accuracy")) or 0.0
  caption = next(
    (r for r in group.depth(1) if r.path == rollout.path[:-1]), None
  )
  if "alpha" in facts and caption is not None:
    alpha = float(facts["alpha"])
    value = _number(caption.rewards.get("accuracy")) or 0.0
    if facts.get("random") != "True" and accuracy < 1:
      return "not right"
    if facts.get("no_caption_reward") != "True" and not value > alpha:
      return f"R(c) = {value:.2f}, not above {alpha:g}"
    return f"right, and not among the {facts.get('keep_n', '?')} kept"
  values = {r.rewards.get("accuracy") for r in group.rollouts if r.verdict}
  if len(values) == 1:
    return "all rollouts of the group earn the same"
  return "left out by the selection, or the round had enough groups"


def _grades(group: Group) -> dict[Path, tuple[int, float]]:
  """Returns the index into STATUSES and the accuracy of graded rollouts."""
  return {
    r.path: (
      STATUSES.index(r.verdict.status),
      _number(r.rewards.get(ACCURACY)) or 0.0,
    )
    for r in group.rollouts
    if r.verdict
  }


class Credits:
  """Credits of the rollouts of a catalogue, remembered.

  A selection rule may concern all groups of a round, so those are read
  together; a store that is sampled once is judged group by group.

  Args:
    problems: the problem of a group.
  """

  def __init__(self, catalogue: Catalogue, problems: Any):
    self._catalogue, self._problems = catalogue, problems
    self._known: collections.OrderedDict[Any, dict[Path, Credit]] = (
      collections.OrderedDict()
    )
    self._selected: dict[tuple[int, int], tuple[int, frozenset[Path]]] = {}
    """(place, problem) -> number of its records, paths that are selected."""
    self.played: dict[tuple[int, int], dict[Path, tuple[int, float]]] = {}
    """(place, problem) -> status and accuracy of its episodes, which the store
    does not hold: they are played again."""
    self._lock = threading.Lock()

  def of_group(self, table: Table, g: int) -> dict[Path, Credit]:
    """Returns the credits of a group's rollouts by path; {}: not decided yet.

    Raises:
      SophiaError: a segment has changed since it was indexed.
    """
    key = self._key(table, g)
    with self._lock:
      if key not in self._known:
        self._remember(table, g)
      self._known.move_to_end(key)
      return self._known[key]

  def _key(self, table: Table, g: int) -> tuple[int, int, int]:
    count = int(table.records[g + 1] - table.records[g])
    return int(table.place[g]), int(table.problem[g]), count

  def _remember(self, table: Table, g: int) -> None:
    place = table.places[table.place[g]]
    together = [g]
    if place.rounds:
      bounds = np.searchsorted(
        table.place, [table.place[g], table.place[g] + 1]
      )
      together = list(range(*bounds.tolist()))
    groups, keys = [], {}
    for one in together:
      self._known[self._key(table, one)] = {}
      if place.algorithm is None:
        continue
      records = list(self._catalogue.records(table, one))
      group, complete = read(
        records,
        self._problems(table, one),
        place.algorithm,
        place.seed,
        place.round,
      )
      if complete:
        groups.append(group)
        key = keys[group.problem.id] = self._key(table, one)
        if not any(isinstance(record, Graded) for record in records):
          self.played[key[:2]] = _grades(group)
    if place.algorithm is not None and groups:
      ids = taken.read(place.directory) if place.rounds else None
      found = credits(place.algorithm, groups, place.round, ids)
      for name, made in found.items():
        self._known[keys[name]] = made
    for key in list(self._known)[: -max(REMEMBERED, len(together))]:
      del self._known[key]

  # ------------------------------------------------------------------- all of them
  def decide(self, table: Table, g: int) -> None:
    """Finds which rollouts of a group are selected, and remembers it."""
    place, problem, count = self._key(table, g)
    if self._selected.get((place, problem), (-1, ()))[0] != count:
      made = self.of_group(table, g)
      paths = frozenset(p for p, c in made.items() if c.selected)
      known = count if made else -1
      self._selected[place, problem] = known, paths

  def selected(self, table: Table) -> np.ndarray:
    """Returns 1 or 0 of each rollout, -1 where it is not decided."""
    found = np.full(table.rows, -1, np.int32)
    paths = {path: number for number, path in enumerate(table.paths)}
    graded = table.status >= 0
    keys = zip(table.place.tolist(), table.problem.tolist())
    for g, key in enumerate(keys):
      count, chosen = self._selected.get(key, (-1, frozenset()))
      if count < 0:
        continue
      rows = table.of_group(g)
      codes = [paths[path] for path in chosen if path in paths]
      found[rows] = np.where(graded[rows], np.isin(table.path[rows], codes), -1)
    return found
