"""Problems in buckets of difficulty, source by source (arXiv 2503.17352, Table 4).

A source's difficulty is the mean of two z-scores, that of the policy's error rate
and that of a rating; one-dimensional k-means makes the buckets.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from sophia_jax.algorithms import sampling, selection
from sophia_jax.algorithms.contract import Algorithm, Files, Words
from sophia_jax.types import Example, Group, Problem, SophiaError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """Buckets of difficulty."""

  n: int = 1
  """Answers of the policy to each problem, for the error rates."""
  names: tuple[str, ...] = ("easy", "medium", "hard")
  """Names of the buckets, the easiest first; each is a file NAME.jsonl."""
  most: tuple[int, ...] = ()
  """Problems of each bucket at most, the sources in turn; 0: all."""
  ratings: tuple[str, ...] = ()
  """Ratings of the sources, "SOURCE=NUMBER", higher is harder; (): the error
  rates alone."""

  def __post_init__(self) -> None:
    if self.most and len(self.most) != len(self.names):
      raise SophiaError(
        f"buckets.most: {len(self.most)} numbers for {len(self.names)} names; "
        "give one each"
      )
    self.rated()

  def rated(self) -> dict[str, float]:
    """Returns the ratings by source.

    Raises:
      SophiaError: a rating is not SOURCE=NUMBER.
    """
    found = {}
    for text in self.ratings:
      source, _, number = text.rpartition("=")
      try:
        found[source] = float(number)
      except ValueError:
        source = ""
      if not source or not np.isfinite(found[source]):
        raise SophiaError(
          f"buckets.ratings: {text!r} is no rating; write SOURCE=NUMBER"
        )
    return found


def difficulties(
  errors: Mapping[str, float], ratings: Mapping[str, float]
) -> dict[str, float]:
  """Returns the difficulty of each source: the mean of its z-scores.

  Raises:
    SophiaError: there are ratings, and none of a source.
  """
  names = sorted(errors)
  scores = [_z(np.array([errors[name] for name in names]))]
  if ratings:
    missing = [name for name in names if name not in ratings]
    if missing:
      raise SophiaError(
        f"buckets.ratings: none for the source {missing[0]!r}; rate every "
        "source, or none"
      )
    scores.append(_z(np.array([ratings[name] for name in names])))
  return dict(zip(names, np.mean(scores, axis=0).tolist()))


def _z(values: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
  return (values - values.mean()) / (values.std() or 1.0)


def clustered(values: Float[np.ndarray, "N"], k: int) -> Int[np.ndarray, "N"]:
  """Returns the cluster of each value, 0 for the lowest: exact 1-d k-means.

  Clusters of the least sum of squares are intervals, so every way to cut the
  sorted distinct values is tried by dynamic programming. O(k N^2).

  Raises:
    SophiaError: there are fewer than k distinct values: a bucket would be empty.
  """
  known, counts = np.unique(values, return_counts=True)
  if len(known) < k:
    raise SophiaError(
      f"buckets: {k} buckets of {len(known)} sources of different difficulty: "
      "one would be empty; name fewer buckets, or sample more answers (n)"
    )
  cuts = _cuts(known, counts, k)
  return np.searchsorted(cuts, np.searchsorted(known, values), side="right")


def _cuts(
  known: Float[np.ndarray, "N"], counts: Int[np.ndarray, "N"], k: int
) -> list[int]:
  """Returns the index of the first value of every cluster except the lowest."""
  total = lambda x: np.concatenate([[0.0], np.cumsum(counts * x)])
  weight, first, second = (total(known**p) for p in (0, 1, 2))

  def squares(i: int, j: int) -> float:
    n, mean = weight[j] - weight[i], first[j] - first[i]
    return second[j] - second[i] - mean**2 / n

  # (values, clusters) -> (squares, cuts)
  best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [])}
  for c, j in itertools.product(range(1, k + 1), range(1, len(known) + 1)):
    before = [(i, best[i, c - 1]) for i in range(j) if (i, c - 1) in best]
    if before:
      cost, i = min((p[0] + squares(i, j), i) for i, p in before)
      best[j, c] = cost, [*best[i, c - 1][1], i]
  return best[len(known), k][1][1:]


def files(c: Config) -> Files:
  """Returns the writer of one file of problems for each bucket."""

  def write(
    groups: Iterable[Group], words: Words
  ) -> Mapping[str, Sequence[Problem | Example]]:
    problems: dict[str, list[Problem]] = collections.defaultdict(list)
    wrong: dict[str, list[float]] = collections.defaultdict(list)
    for group in groups:
      source = group.problem.source
      problems[source].append(group.problem)
      wrong[source] += [
        1.0 - selection.part(r, "accuracy") for r in group.rollouts
      ]
    errors = {source: float(np.mean(each)) for source, each in wrong.items()}
    ranked = difficulties(errors, c.rated())
    places = clustered(np.array(list(ranked.values())), len(c.names))
    return {
      f"{name}.jsonl": _in_turn(
        [problems[s] for s, place in zip(ranked, places) if place == i], most
      )
      for i, (name, most) in enumerate(
        zip(c.names, c.most or (0,) * len(c.names))
      )
    }

  return write


def _in_turn(sources: Sequence[Sequence[Problem]], most: int) -> list[Problem]:
  """Returns problems of the sources in turn, `most` of them; 0: all."""
  turns = itertools.chain.from_iterable(itertools.zip_longest(*sources))
  found = [problem for problem in turns if problem is not None]
  return found[: most or None]


def buckets(c: Config) -> Algorithm:
  """Builds the stage that answers its problems and sorts them by difficulty."""
  return Algorithm(sample=sampling.attempts(c.n), files=files(c), terms=())
