"""Facts of three kinds that a description states, and whether a scene has them.

The language is that of the world of digits, where the scene is known, so a fact
is right or wrong without a judge: "The ink is red. The left digit is 3, the right
digit is 5. The left digit is smaller than the right digit."
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from sophia_jax.types import Problem, SophiaError, quoted

KINDS = ("object", "attribute", "relation")
"""Kinds of facts, and of hallucinations: existence of an object, an attribute of
it, a relation between two."""
ABSENT, RIGHT, WRONG, UNKNOWN = -1, 0, 1, -2
"""Labels of a clause and a kind: it states no such fact; all that it states are
right; one is wrong; nobody knows."""

_PLACE = "(left|middle|right)"
_ORDER = {"larger than": 1, "smaller than": -1, "equal to": 0}
_SURE = r"\b(?!\.\d|[-/]|,?\s{1,4}or\b)"
"""End of a value: "3 or 5" and "red-orange" state nothing."""
_DIGIT = re.compile(
  rf"\bthe {_PLACE} digit is (\d|unclear){_SURE}", re.IGNORECASE
)
_COLOUR = re.compile(
  rf"\bthe (ink|paper) is ([a-z]{{1,20}}){_SURE}", re.IGNORECASE
)
_COMPARED = re.compile(
  rf"\bthe {_PLACE} digit is ({'|'.join(_ORDER)}) the {_PLACE}\b",
  re.IGNORECASE,
)


class Fact(NamedTuple):
  """Example: Fact("object", ("left",), "3")."""

  kind: str
  about: tuple[str, ...]
  """Place of a digit, thing with a colour, or the two places compared."""
  value: str


class Scene(NamedTuple):
  """The contents of an image.

  Example: Scene({"left": "3", "right": "5"}, {"ink": "red", "paper": "white"})
  """

  digits: Mapping[str, str]
  colours: Mapping[str, str]


def stated(text: str) -> tuple[Fact, ...]:
  """Returns the facts that a text states, in no order; () for any other text."""
  lower = text.lower()
  return (
    *(Fact("object", (m[1],), m[2]) for m in _DIGIT.finditer(lower)),
    *(Fact("attribute", (m[1],), m[2]) for m in _COLOUR.finditer(lower)),
    *(Fact("relation", (m[1], m[3]), m[2]) for m in _COMPARED.finditer(lower)),
  )


def scene(problem: Problem) -> Scene:
  """Returns the scene that a problem's answer describes.

  Raises:
    SophiaError: the answer names no digit, so nothing could be checked.
  """
  facts = stated(problem.answer)
  pick = lambda kind: {f.about[0]: f.value for f in facts if f.kind == kind}
  found = Scene(pick("object"), pick("attribute"))
  if not found.digits:
    raise SophiaError(
      f"problem {problem.id}: its answer {quoted(problem.answer)} describes no "
      'scene; write "The left digit is 3, ...", or take labels="models"'
    )
  return found


def holds(fact: Fact, scene: Scene) -> bool:
  """Returns whether a scene has a fact."""
  if fact.kind == "object":
    return scene.digits.get(fact.about[0]) == fact.value
  if fact.kind == "attribute":
    return scene.colours.get(fact.about[0]) == fact.value
  one, other = (scene.digits.get(place, "") for place in fact.about)
  if not (one.isdecimal() and other.isdecimal()):
    return False
  order = (int(one) > int(other)) - (int(one) < int(other))
  return order == _ORDER[fact.value]


def labels(text: str, scene: Scene) -> tuple[int, ...]:
  """Returns the label of a clause for each of KINDS."""
  facts = stated(text)

  def label(kind: str) -> int:
    found = [holds(fact, scene) for fact in facts if fact.kind == kind]
    return ABSENT if not found else RIGHT if all(found) else WRONG

  return tuple(map(label, KINDS))


def missing(text: str, scene: Scene) -> int:
  """Returns the number of digits of a scene that a description leaves out."""
  named = {fact.about[0] for fact in stated(text) if fact.kind == "object"}
  return len(scene.digits.keys() - named)
