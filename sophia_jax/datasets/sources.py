"""Names the sets that may be trained on, and those for evaluation only.

Every imported problem names its `source`, and its id starts with it, so one
table decides. Training calls `refuse_evaluation` first.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping

from sophia_jax.types import Example, Problem, SophiaError

EVALUATION_SOURCES: Mapping[str, str] = {
  "aime_2024": "AIME 2024 I and II",
  "dynamath": "DynaMath",
  "math_500": "MATH-500",
  "mathverse": "MathVerse",
  "mathvision": "MathVision",
  "mathvista": "MathVista",
  "mmmu": "MMMU",
  "mmmu_pro": "MMMU-Pro",
  "mv_math": "MV-MATH",
  "olympiadbench": "OlympiadBench",
  "seed_bench_r1": "SEED-Bench-R1's levels",
}
"""`source` -> benchmark; records of these sources are never trained on."""

# A few words of each problem of AIME 2024 I and II, chosen to be its own and
# to read the same in every edition. Collections that say neither year nor
# contest (NuminaMath does not) are recognised by their text alone.
_AIME_2024 = (
  "Every morning Aya goes for a 9-kilometer-long walk",
  "both greater than 1, such that log_x(y^x)=log_y(x^{4y})",
  "the player removes either 1 token or 4 tokens from the stack",
  "Jen enters a lottery by picking 4 distinct numbers",
  "Rectangles ABCD and EFGH are drawn such that D,E,C,F are collinear",
  "paths of length 16 that follow the lines from the lower left corner",
  "largest possible real part of (75+117i)z",
  "Eight circles of radius 34 are sequentially tangent",
  "is a rhombus whose diagonals intersect at the origin. Find the greatest",
  "If AB=5, BC=9, and AC=10, AP can be written",
  "Each vertex of a regular octagon is independently colored either red or",
  "intersections of the graphs of y=4g(f(sin(2pi x)))",
  "for which there exists a positive integer n such that n^4+1 is divisible",
  "be a tetrahedron such that AB=CD=sqrt{41}",
  "set of rectangular boxes with surface area 54 and volume 23",
  "Among the 900 residents of Aimeville",
  "The median of the list is a positive integer that does not appear in the",
  "grid so that the sum of the two numbers formed by reading left to right is",
  "log_2(x^4y^3z^2)",
  "convex equilateral hexagon in which all pairs of opposite sides are",
  "Bob lists all finite nonempty sets B of positive integers with the",
  "whenever one of its digits is changed to 1, the resulting number is",
  "Torus T is the surface produced by revolving a circle with radius 3",
  "25 indistinguishable white chips and 25 indistinguishable black chips",
  "circumradius 13, and inradius 6",
  "a^2b + a^2c + b^2a + b^2c + c^2a + c^2b = 6,000,000",
  "of unit length lying in the first quadrant with",
  "a 13th root of unity. Find the remainder when",
  "eautiful if it has exactly two digits when expressed in base b",
  "rectangles that can be formed inside a fixed regular dodecagon",
)
_LATEX = re.compile(r"\\(?:left|right|text\w*|math\w+|displaystyle)")
_OTHER = re.compile("[^a-z0-9]+")


def _squashed(text: str) -> str:
  """Letters and digits alone: spacing, $, braces and fonts do not matter."""
  return _OTHER.sub("", _LATEX.sub("", text).lower())


_AIME_2024_MARKS = tuple(map(_squashed, _AIME_2024))


def is_aime_2024(question: str) -> bool:
  """Tells by its text whether a question is one of AIME 2024's thirty."""
  text = _squashed(question)
  return any(mark in text for mark in _AIME_2024_MARKS)


def evaluation_source(record: Problem | Example) -> str | None:
  """Returns the evaluation set of a record, None if it may be trained on.

  A problem names its source; the ids of imported records start with it.
  """
  names = [record.id] if "/" in record.id else []
  if isinstance(record, Problem):
    names.append(record.source)
  for name in names:
    first = re.split("[/:]", name.lower().replace("-", "_"))[0]
    if first in EVALUATION_SOURCES:
      return first
  return "aime_2024" if is_aime_2024(record.question) else None


def refuse_evaluation(
  records: Iterable[Problem | Example], path: str = "training data"
) -> None:
  """Checks that no record belongs to an evaluation set.

  Args:
    records: records to be sampled from or trained on.
    path: the file they come from, for the message.

  Raises:
    SophiaError: a record belongs to an evaluation set.
  """
  found: collections.Counter[str] = collections.Counter()
  first = ""
  for record in records:
    source = evaluation_source(record)
    if source is not None:
      first = first or record.id
      found[source] += 1
  if found:
    sets = ", ".join(
      f"{n} of {EVALUATION_SOURCES[name]}" for name, n in found.items()
    )
    raise SophiaError(
      f"{path}: evaluation sets may not be trained on, and here are {sets} "
      f"(the first is {first!r}); remove them from the file"
    )
