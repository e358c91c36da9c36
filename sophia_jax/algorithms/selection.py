"""Rules that choose which groups and which rollouts are learnt.

A rule is pure and maps (groups, moment) to groups. Rules see raw reward parts,
compose from left to right with `then`, and never depend on the order in which
samples came back. A rule on rollouts concerns one depth of the tree; the others
stay, so that trajectories keep the caption they were built on. A method whose
rule compares groups says so in `Algorithm.compares`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from sophia_jax.algorithms.contract import Moment, Select
from sophia_jax.types import Group, Rollout

Rollouts = tuple[Rollout, ...]


def part(rollout: Rollout, key: str) -> float:
  """Returns the reward part `key` as a number."""
  return float(rollout.rewards[key])  # type: ignore[arg-type]


def then(*rules: Select) -> Select:
  """Applies rules one after the other."""

  def rule(groups: Sequence[Group], moment: Moment) -> Sequence[Group]:
    for each in rules:
      groups = each(groups, moment)
    return groups

  return rule


# ----------------------------------------------------------------------- groups
def where(keep: Callable[[Group], bool]) -> Select:
  """Keeps the groups that satisfy `keep`."""
  return lambda groups, moment: [g for g in groups if keep(g)]


def varied(key: str = "accuracy") -> Select:
  """Drops groups in which all rollouts earn the same: DAPO's dynamic sampling
  (arXiv 2503.14476, Eq. 11)."""
  return where(lambda g: len({part(r, key) for r in g.rollouts}) > 1)


def window(low: float, high: float, key: str = "accuracy") -> Select:
  """Keeps groups with a mean reward in [low, high]: a window of pass rates."""

  def keep(group: Group) -> bool:
    rewards = [part(r, key) for r in group.rollouts]
    return bool(rewards) and low <= sum(rewards) / len(rewards) <= high

  return where(keep)


def deviation(group: Group, key: str = "reward") -> float:
  """Returns the unbiased standard deviation of a raw reward part in a group; 0
  for a group of one."""
  rewards = [part(r, key) for r in group.rollouts]
  return float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0


def most_varied(share: float, key: str = "reward") -> Select:
  """Keeps the share of the groups whose rewards differ most (StarPO-S, arXiv
  2504.20073), at least one; ties go to the first."""

  def rule(groups: Sequence[Group], moment: Moment) -> Sequence[Group]:
    order = _falling([deviation(g, key) for g in groups])
    kept = sorted(order[: max(1, round(share * len(groups)))])
    return [groups[i] for i in kept]

  return rule


def most_of_deviation(
  mass: float, key: str = "reward", softmax: bool = False
) -> Select:
  """Keeps the groups whose rewards differ most until their deviations sum to a
  share of all (RAGEN's top-p filter).

    the first n by falling s with sum_{i<n} s_i >= mass sum s - 0.01

  A group without deviation is never kept; where none has any, no group is left
  and the round makes no update. Ties go to the first.

  Args:
    mass: share of the sum.
    softmax: whether the shares are those of softmax(s), as in RAGEN's main
      scripts. They depend on the scale of the reward: deviations up to 0.5 keep
      nearly every group, those of several units one or two.
  """

  def rule(groups: Sequence[Group], moment: Moment) -> Sequence[Group]:
    spread = np.array([deviation(g, key) for g in groups])
    if not spread.any():
      return []
    weights = np.exp(spread - spread.max()) if softmax else spread
    scale = weights.sum() if softmax else 1.0
    order = _falling(spread)
    before = np.cumsum(weights[order] / scale) - weights[order] / scale
    enough = mass * weights.sum() / scale - 0.01
    kept = [i for i, b in zip(order, before) if b < enough and spread[i] > 0]
    return [groups[i] for i in sorted(kept)]

  return rule


def least_deviation(ratio: float, key: str = "reward") -> Select:
  """Keeps the groups with at least `ratio` of the largest deviation (RAGEN's
  min-p filter), none without any."""

  def rule(groups: Sequence[Group], moment: Moment) -> Sequence[Group]:
    spread = [deviation(g, key) for g in groups]
    least = ratio * max(spread, default=0.0)
    return [g for g, s in zip(groups, spread) if s > 0 and s >= least]

  return rule


def _falling(values: Sequence[float] | np.ndarray) -> list[int]:
  """Returns the places of values, the largest first; ties keep their order."""
  return np.argsort([-v for v in values], kind="stable").tolist()


def fresh(bound: int) -> Select:
  """Drops groups with a rollout of a policy over `bound` rounds old.

  Version n is the policy that round n - 1 begins with; 0 is not known.
  """

  def rule(groups: Sequence[Group], moment: Moment) -> Sequence[Group]:
    def keep(group: Group) -> bool:
      own = (r for r in group.rollouts if r.author == "policy" and r.version)
      return all(moment.round + 1 - r.version <= bound for r in own)

    return [g for g in groups if keep(g)]

  return rule


# --------------------------------------------------------------------- rollouts
def rollouts(
  keep: Callable[[Group, Rollouts], Iterable[Rollout]], depth: int = 1
) -> Select:
  """Keeps the rollouts that `keep` returns of each group's at `depth`."""

  def one(group: Group) -> Group:
    kept = {r.path for r in keep(group, group.depth(depth))}
    left = (r for r in group.rollouts if len(r.path) != depth or r.path in kept)
    return dataclasses.replace(
      group, rollouts=tuple(sorted(left, key=lambda r: r.path))
    )

  return lambda groups, moment: [one(g) for g in groups]


def correct(depth: int = 1, key: str = "accuracy") -> Select:
  """Keeps the rollouts with full reward."""
  return rollouts(lambda g, rs: (r for r in rs if part(r, key) >= 1), depth)


def above(alpha: float, key: str = "accuracy") -> Select:
  """Keeps trajectories on captions with R(c) > alpha (SOPHIA, Eq. 6)."""

  def keep(group: Group, trajectories: Rollouts) -> Iterable[Rollout]:
    good = {c.path for c in group.depth(1) if part(c, key) > alpha}
    return (t for t in trajectories if t.path[:-1] in good)

  return rollouts(keep, depth=2)


def shortest(n: int, depth: int = 1) -> Select:
  """Keeps the n shortest rollouts; ties go to the lowest path."""

  def keep(group: Group, rs: Rollouts) -> Iterable[Rollout]:
    return sorted(rs, key=lambda r: (r.length, r.path))[:n]

  return rollouts(keep, depth)


def best(
  n: int, key: str = "reward", depth: int = 1, worst: bool = False
) -> Select:
  """Keeps the n rollouts of the highest reward (Vision-EKIPL); ties go to the
  lowest path.

  Args:
    worst: whether the worst of all takes the place of the last where the n have
      equal rewards, which would teach nothing.
  """

  def keep(group: Group, rs: Rollouts) -> Iterable[Rollout]:
    ranked = sorted(rs, key=lambda r: (-part(r, key), r.path))
    kept = ranked[:n]
    if worst and len({part(r, key) for r in kept}) == 1:
      return [*kept[:-1], ranked[-1]]
    return kept

  return rollouts(keep, depth)


def drawn(n: int, seed: int, depth: int = 1) -> Select:
  """Keeps n rollouts at random, by the seed and the problem's id alone."""

  def keep(group: Group, rs: Rollouts) -> Iterable[Rollout]:
    candidates = sorted(rs, key=lambda r: r.path)
    entropy = [seed, *group.problem.id.encode()]
    np.random.default_rng(entropy).shuffle(candidates)  # type: ignore[arg-type]
    return candidates[:n]

  return rollouts(keep, depth)


# ----------------------------------------------------------------------- values
def with_values(group: Group, key: str = "accuracy") -> Group:
  """Returns the group with R(c) = 1/N sum_n R(y_n) on each parent c (Eq. 5)."""

  def valued(rollout: Rollout) -> Rollout:
    children = group.children(rollout.path)
    if not children:
      return rollout
    mean = sum(part(c, key) for c in children) / len(children)
    return dataclasses.replace(rollout, rewards={**rollout.rewards, key: mean})

  return dataclasses.replace(group, rollouts=tuple(map(valued, group.rollouts)))
