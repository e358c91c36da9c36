"""From groups to sequences with streams: what is learnt, and by how much.

What the policy sampled is learnt by its exact ids, with the log-probabilities
they were drawn with; only what others wrote is rendered from text.

Streams made here, 0 outside the learnt tokens:

  mask             1 on the learnt tokens
  weights, count   of the reduction
  advantages       of the rollout
  rewards          of the rollout, at its last token; or of each turn
  ends             1 on the last token of each turn
  behaviour_logps  log-probabilities under the sampler's weights; NaN on tokens
                   of another model beside the policy's own, where nobody knows
  source           0 on tokens of the policy, 1 on those of another model
  group, size      tag of the group's problem, and number of its rollouts
  sign, pair, answer, chosen    of preference pairs; see `paired`
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
import zlib
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int8

from sophia_jax.algorithms.advantages import Advantage
from sophia_jax.algorithms.contract import (
  Algorithm,
  Credit,
  Moment,
  Reward,
  Words,
)
from sophia_jax.algorithms.reductions import Reduction
from sophia_jax.algorithms.selection import part
from sophia_jax.types import (
  Group,
  Problem,
  Prompt,
  Role,
  Rollout,
  SophiaError,
  TokenSequence,
  Turn,
)

STREAMS = ("advantages", "weights", "count", "mask")
"""Streams of a policy gradient over groups."""
PAIRS = ("sign", "pair", "answer", "chosen", "mask")
"""Streams of preference pairs."""

Arrays = Mapping[str, Float[np.ndarray, "L"]]


def learn(
  algorithm: Algorithm, groups: Sequence[Group], words: Words, moment: Moment
) -> tuple[list[Group], list[TokenSequence]]:
  """Returns the groups that are learnt, and their sequences."""
  scored = rewarded(groups, algorithm.reward, moment)
  kept = list(algorithm.select(scored, moment))
  assert algorithm.credit is not None
  return kept, algorithm.credit(kept, words, moment)


def rewarded(
  groups: Iterable[Group], reward: Reward, moment: Moment
) -> list[Group]:
  """Returns the groups with each rollout's mixed reward as part "reward"."""

  def with_reward(rollout: Rollout) -> Rollout:
    parts = {**rollout.rewards, "reward": reward(rollout, moment)}
    return dataclasses.replace(rollout, rewards=parts)

  return [
    dataclasses.replace(g, rollouts=tuple(map(with_reward, g.rollouts)))
    for g in groups
  ]


# -------------------------------------------------------------------- sequences
def sequences(
  rollout: Rollout, problem: Problem, words: Words
) -> list[TokenSequence]:
  """Returns the sequences a rollout is learnt as, before any advantage.

  The policy's own turns make one sequence as long as each prompt continues the
  ids before it (what an environment adds is not learnt), otherwise several. An
  answer of another model is put under the prompt that the policy gets.

  Raises:
    SophiaError: the policy was asked in words, so its ids are not known.
  """
  if rollout.author != "policy":
    return [_rendered(rollout, problem, words)]
  runs: list[list[Turn]] = []
  for turn in rollout.turns:
    if not isinstance(turn.prompt, Prompt):
      raise SophiaError(
        f"{rollout.id}: the policy was asked by text, so there are no ids to "
        "learn; sample with a policy that takes token ids"
      )
    if runs and _continues(runs[-1][-1], turn.prompt):
      runs[-1].append(turn)
    else:
      runs.append([turn])
  names = [rollout.id, *(f"{rollout.id}#{i}" for i in range(1, len(runs)))]
  return [_joined(name, run) for name, run in zip(names, runs)]


def rollout_of(sequence: TokenSequence) -> str:
  """Returns the id of the rollout that a sequence is made of."""
  bundle = f"{sequence.bundle}:" if sequence.bundle else ""
  return re.sub(r"#\d+$", "", sequence.id.removeprefix(bundle))


def of_rollouts(
  sequences: Sequence[TokenSequence], ids: Container[str]
) -> list[TokenSequence]:
  """Keeps the sequences of the rollouts `ids`; a pair stays only as a whole."""
  lost = {s.bundle for s in sequences if s.bundle and rollout_of(s) not in ids}
  return [s for s in sequences if rollout_of(s) in ids and s.bundle not in lost]


def _continues(before: Turn, prompt: Prompt) -> bool:
  assert isinstance(before.prompt, Prompt)
  past = [*before.prompt.token_ids, *before.completion.token_ids]
  return np.array_equal(prompt.token_ids[: len(past)], past)


def _joined(name: str, turns: Sequence[Turn]) -> TokenSequence:
  """Joins turns of which each continues the last one's ids."""
  last = turns[-1]
  assert isinstance(last.prompt, Prompt)
  answer = np.asarray(last.completion.token_ids, np.int32)
  roles = np.append(last.prompt.roles, np.zeros(len(answer), np.int8))
  logps = np.zeros(len(roles), np.float32)
  for turn in turns:
    start = len(turn.prompt)  # type: ignore[arg-type]
    place = slice(start, start + len(turn.completion.token_ids))
    roles[place] = Role.RESPONSE
    logps[place] = turn.completion.logps or 0.0
  streams = {"source": np.zeros(len(roles), np.float32)}
  if all(turn.completion.logps is not None for turn in turns):
    streams["behaviour_logps"] = logps
  return TokenSequence(
    id=name,
    token_ids=np.append(last.prompt.token_ids, answer),
    roles=roles,
    images=last.prompt.images,
    tiles=last.prompt.tiles,
    streams=streams,
  )


def _rendered(
  rollout: Rollout, problem: Problem, words: Words
) -> TokenSequence:
  text = rollout.completion.text
  system: str | None = words.slow_thinking
  # A teacher stands beside the policy's answers, under the same prompt.
  if rollout.author == "reasoner":
    system = system_prompt(text, words.slow_thinking)
  prompt = words.prompt(problem.text, problem.images, system)
  return words.sequence(prompt, text, id=rollout.id, streams={"source": 1.0})


def system_prompt(response: str, slow_thinking: str) -> str | None:
  """Returns the system prompt a response is learnt under: the slow-thinking one
  where it thinks in tags, None for the model's default otherwise."""
  return slow_thinking if "<think>" in response else None


# ---------------------------------------------------------------------- streams
def learnt(roles: Int8[np.ndarray, "L"]) -> Float[np.ndarray, "L"]:
  """Returns 1 on the response tokens, 0 elsewhere."""
  return (roles == Role.RESPONSE).astype(np.float32)


def reduced(
  roles: Int8[np.ndarray, "L"],
  reduction: Reduction,
  tokens: int | None = None,
  **values: float,
) -> dict[str, Float[np.ndarray, "L"]]:
  """Returns "mask", "weights", "count" and one constant stream for each value.

  Args:
    roles: of the sequence.
    reduction: from token losses to one number.
    tokens: learnt tokens of the rollout; None: this sequence has all of them.
    values: numbers by stream, such as `advantages=1.0`.
  """
  mask = learnt(roles)
  weight, count = reduction(tokens or max(int(mask.sum()), 1))
  made = {"mask": mask, "weights": weight * mask, "count": count * mask}
  return {**made, **{name: value * mask for name, value in values.items()}}


def credited(
  bare: Sequence[TokenSequence], reduction: Reduction, **values: float
) -> list[TokenSequence]:
  """Returns the sequences of one rollout with its streams."""
  tokens = sum(int(learnt(s.roles).sum()) for s in bare)
  return [
    dataclasses.replace(
      s,
      streams={**s.streams, **reduced(s.roles, reduction, tokens, **values)},
    )
    for s in bare
  ]


def alike(made: Sequence[TokenSequence]) -> list[TokenSequence]:
  """Returns the sequences with the streams that all of them have.

  One unknown behaviour log-probability of the policy makes the stream useless:
  absent, it is refused where a method reads it. Tokens of another model have
  none: NaN, for a method that reads it at the policy's own tokens alone.
  """
  taught = [bool(s.streams["source"].any()) for s in made]
  if not all(taught):
    made = [_unknown(s) if t else s for s, t in zip(made, taught)]
  names = set.intersection(*(set(s.streams) for s in made)) if made else set()
  return [
    dataclasses.replace(
      s, streams={k: v for k, v in s.streams.items() if k in names}
    )
    for s in made
  ]


def _unknown(sequence: TokenSequence) -> TokenSequence:
  """Returns a sequence of another model with unknown log-probabilities."""
  unknown = np.where(learnt(sequence.roles) > 0, np.float32(np.nan), 0.0)
  streams = {**sequence.streams, "behaviour_logps": unknown}
  return dataclasses.replace(sequence, streams=streams)


# ----------------------------------------------------------------------- groups
def by_group(
  advantage: Advantage, reduction: Reduction, split: bool = False
) -> Credit:
  """Credits each rollout with its advantage within its group.

  Args:
    split: whether the baseline is of the policy's own rollouts alone, also for
      those of other models; `advantage` then takes `own`.
  """

  def credit(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    made: list[TokenSequence] = []
    for group in groups:
      rewards = np.array([r.rewards["reward"] for r in group.rollouts], float)
      own = np.array([r.author == "policy" for r in group.rollouts])
      measure = functools.partial(advantage, own=own) if split else advantage
      for rollout, a in zip(group.rollouts, measure(rewards)):
        made += credited(
          sequences(rollout, group.problem, words),
          reduction,
          advantages=float(a),
          group=tag(group.problem),
          size=float(len(rewards)),
        )
    return alike(made)

  return credit


def tag(problem: Problem) -> float:
  """Returns the number of a problem in a stream, one of 2^30 that fp32 holds."""
  digest = zlib.crc32(problem.id.encode())
  mantissa, exponent = digest & 0x7FFFFF, digest >> 23 & 0x7F
  return math.ldexp(mantissa + (1 << 23), exponent - 64)


def by_reward(reduction: Reduction) -> Credit:
  """Puts each rollout's reward on its last token, for GAE."""

  def credit(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    made: list[TokenSequence] = []
    for group, rollout in ((g, r) for g in groups for r in g.rollouts):
      bare = sequences(rollout, group.problem, words)
      *before, last = credited(bare, reduction, rewards=0.0)
      rewards = np.zeros(len(last), np.float32)
      rewards[np.flatnonzero(learnt(last.roles))[-1:]] = part(rollout, "reward")
      streams = {**last.streams, "rewards": rewards}
      made += [*before, dataclasses.replace(last, streams=streams)]
    return alike(made)

  return credit


def by_turns(reduction: Reduction, episodes: bool = False) -> Credit:
  """Puts rewards on the last tokens of turns, and marks these as "ends".

  Args:
    episodes: whether a turn's reward is 0 except for the last, which gets the
      rollout's; otherwise each gets its part of "turns".
  """

  def credit(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    made: list[TokenSequence] = []
    for group, rollout in ((g, r) for g in groups for r in g.rollouts):
      rewards = [0.0] * (len(rollout.turns) - 1) + [part(rollout, "reward")]
      if not episodes:
        rewards = [*np.ravel(rollout.rewards["turns"])]
      paid = iter(rewards)
      for s in credited(sequences(rollout, group.problem, words), reduction):
        ends = _ends(s.roles)
        amounts = np.zeros(len(s), np.float32)
        places = np.flatnonzero(ends)
        amounts[places] = [next(paid) for _ in places]
        streams = {**s.streams, "rewards": amounts, "ends": ends}
        made.append(dataclasses.replace(s, streams=streams))
    return alike(made)

  return credit


def _ends(roles: Int8[np.ndarray, "L"]) -> Float[np.ndarray, "L"]:
  """Returns 1 on the last token of each turn that the policy wrote."""
  own = roles == Role.RESPONSE
  return (own & ~np.append(own[1:], False)).astype(np.float32)


# ------------------------------------------------------------------------ pairs
def by_pairs(limit: int) -> Credit:
  """Pairs right rollouts of a group with wrong ones, at most `limit` pairs.

  Pairs use the rollouts evenly; an all-right or all-wrong group makes none.
  """

  def credit(
    groups: Sequence[Group], words: Words, moment: Moment
  ) -> list[TokenSequence]:
    made: list[TokenSequence] = []
    for group in groups:
      right = [r for r in group.rollouts if r.rewards["accuracy"] == 1]
      wrong = [r for r in group.rollouts if r.rewards["accuracy"] == 0]
      for a, b in itertools.islice(_spread(len(right), len(wrong)), limit):
        chosen, rejected = right[a], wrong[b]
        path = "/".join(map(str, rejected.path))
        made += paired(
          f"{chosen.id}>{path}",
          sequences(chosen, group.problem, words),
          sequences(rejected, group.problem, words),
        )
    return alike(made)

  return credit


def _spread(m: int, n: int) -> Iterable[tuple[int, int]]:
  """Yields all pairs of range(m) x range(n), using the indices evenly."""
  lap = math.lcm(m, n) or 1
  return ((i % m, (i + i // lap) % n) for i in range(m * n))


def paired(
  name: str, chosen: Sequence[TokenSequence], rejected: Sequence[TokenSequence]
) -> list[TokenSequence]:
  """Returns a preference pair as one bundle.

  Its streams, n being numbers of learnt tokens:
    sign     1 on the chosen response, -1 on the rejected one
    pair     1 / n of the pair: sums to 1 over it, the normaliser
    answer   1 / n of the response: sums to 1 over each
    chosen   1 / n of the response where chosen, otherwise 0
  """
  sides = ((1.0, chosen), (-1.0, rejected))
  counts = {
    s: sum(int(learnt(b.roles).sum()) for b in bare) for s, bare in sides
  }
  made = []
  for sign, bare in sides:
    each = 1.0 / max(counts[sign], 1)
    for sequence in bare:
      mask = learnt(sequence.roles)
      streams = {
        "mask": mask,
        "sign": sign * mask,
        "pair": mask / max(sum(counts.values()), 1),
        "answer": each * mask,
        "chosen": each * (sign > 0) * mask,
      }
      made.append(
        dataclasses.replace(
          sequence,
          id=f"{name}:{sequence.id}",
          bundle=name,
          streams={**sequence.streams, **streams},
        )
      )
  return made
