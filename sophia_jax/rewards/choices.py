r"""Finds the options that an answer names: by letter, by text or by value.

`(B)`, `B. blue`, `\textbf{(B) } 12`, "option B" and "blue" all name option B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from sophia_jax.rewards.notation import bare_words, spell, squeeze
from sophia_jax.rewards.number import equal_numbers, parse_number
from sophia_jax.rewards.text import half_width, normalise, unwrap
from sophia_jax.status import Status

_LABEL = re.compile(
  r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])(?:[)\].:、]|\uff1a))\.?[ :、,]*(.*)"
  r"|([A-Z])(?:(?: -+|,| :) (.+)| ?\((.+)\)\.?)",
  re.DOTALL,
)
_ALONE = re.compile(r"[(\[]?([A-Za-z])[)\]]?[ .:、,)\]]*")
_LETTERS = re.compile(
  r"\(?[A-Z][).]?(?:\s*(?:,|、|and\b|or\b|&|和|或|/)\s*\(?[A-Z]\b[).]?)+"
)
_HEDGE = re.compile(r"(?:and|or|和|或|&|/)\s*\(?[A-Z]\)?(?![A-Za-z'])")
_ONLY_LETTERS = re.compile(r"(?:[(\[]?[A-Z][)\].,:;、]*\s*)+")
_LETTER_ALONE = re.compile(r"(?<![A-Za-z'])(?:[B-H]|A(?! [a-z]))(?![A-Za-z'])")
_OTHER_LABEL = re.compile(r"(?<![A-Za-z])\(?[A-H](?:[).:、]|\uff1a)\s*[^\s.]")
_DENIAL = re.compile(
  r"\b(?:is|are|was|be)(?: not\b|n't)|\b(?:incorrect|wrong)\b|不是|错",
  re.IGNORECASE,
)
_NEGATION = re.compile(
  r"\b(?:not?|never|neither|false|cannot|incorrect|wrong)\b|n't|[不非错]",
  re.IGNORECASE,
)
_NAMED = re.compile(r"[(\[]?([A-Za-z])[)\]]?\s*[=:.)]")
_RUN = re.compile(r"[A-Z]{2,}")
_SEPARATORS = re.compile(r"\s*(?:,|，|、|;|\band\b|&|和|\s)\s*")
_CHOICE_WORDS = ("option ", "choice ", "answer ", "options ", "选项", "选")
_LAST_OF_RUN = "H"
"""Letters run together name options up to this one: ABD does, ABSTRACT not."""


def compare_choice(gold: str, answer: str, choices: Sequence[str]) -> Status:
  """Compares the options that gold and answer name.

  A letter alone always names the option of that letter, also where another
  option's text is that letter. A text names every option that has it. Where
  the gold answer is several letters, the answer must name exactly these.
  """
  several = letter_set(gold)
  if several and not _by_text(_plain(gold), choices):
    found = letter_set(answer)
    if not found:
      single = which_choice(answer, choices)
      return Status.UNPARSEABLE if single is None else Status.WRONG
    return Status.RIGHT if found == several else Status.WRONG
  named, wanted = options_named(answer, choices), options_named(gold, choices)
  if not named:
    return Status.UNPARSEABLE
  return Status.RIGHT if named & wanted else Status.WRONG


def which_choice(text: str, choices: Sequence[str]) -> int | None:
  """Returns the index of the option that `text` names.

  None if it names none, or two. The first of several options with one text.
  """
  return min(options_named(text, choices), default=None)


def options_named(text: str, choices: Sequence[str]) -> frozenset[int]:
  """Returns the options that `text` names; several only if their texts agree.

  A label in front names its option, "(A) and so on", unless the rest names
  another one: "(A) and (B)", "(A) blue" where blue is option B.
  """
  text = _plain(text)
  alone = _ALONE.fullmatch(text)
  if alone and (named := _letter(alone[1], choices)):
    return named
  whole = _by_text(text, choices)
  if whole:
    return whole
  label = _LABEL.fullmatch(text)
  if label is None or _LETTERS.fullmatch(text):
    return _by_value(text, choices)
  found = _by_label(label, choices)
  return _by_value(text, choices) if found is None else found


def _by_label(
  label: re.Match[str], choices: Sequence[str]
) -> frozenset[int] | None:
  """Returns the option of a label in front, none if the rest names another.

  None: the label is no option's, "(x) and so on"; the whole may be a value.
  """
  letter = (label[1] or label[2] or label[3] or label[5]).upper()
  rest = label[4] or label[6] or label[7] or ""
  named = _letter(letter, choices)
  other = _by_text(rest, choices) or _by_value(rest, choices)
  if rest and other:
    return other & named and named
  if _ONLY_LETTERS.fullmatch(rest):
    return named if set(re.findall("[A-Z]", rest)) == {letter} else frozenset()
  bare = label[5] is not None
  # "A, b, c" lists letters, as "A, B, C" does.
  listed = rest.upper() if _ONLY_LETTERS.fullmatch(rest.upper()) else rest
  lists = (bare or choices) and {*_LETTER_ALONE.findall(listed)} - {letter}
  own = "".join(choices[i] for i in named if choices)
  if lists or _is_taken_back(rest, own):
    return frozenset()
  return named if named or bare else None


def _is_taken_back(rest: str, own: str) -> bool:
  """Returns whether what follows a label names more options, or says "not".

  Args:
    own: text of the label's option, whose own "not" does not count; "" where it
      is unknown, so that "No solution" may be it.
  """
  if _HEDGE.search(rest) or _OTHER_LABEL.search(rest):
    return True
  denied = _NEGATION if own else _DENIAL
  return bool(denied.search(rest)) and not denied.search(own)


def begins_with_label(text: str, choices: Sequence[str]) -> bool:
  """Returns whether an option's letter and "=" or the like begin `text`."""
  label = _NAMED.match(_plain(text))
  return label is not None and bool(_letter(label[1], choices))


def option_text(gold: str, choices: Sequence[str]) -> str:
  """Returns the text of the option that the gold answer names, "" if none."""
  index = which_choice(gold, choices)
  known = index is not None and index < len(choices)
  return choices[index] if index is not None and known else ""


def letter_set(text: str) -> frozenset[str]:
  """Returns the option letters that make up `text`, at least two, or none.

  ABD, or A, B and D; letters run together stand in order, or FACE were one.
  """
  text = _plain(text).strip("()[] .")
  if _RUN.fullmatch(text) and list(text) == sorted(text):
    letters: Iterable[str] = text
  else:
    parts = [part.strip("(). ") for part in _SEPARATORS.split(text)]
    letters = [part for part in parts if part]
    if not all(len(letter) == 1 for letter in letters):
      return frozenset()
  found = frozenset(letters)
  in_range = all("A" <= letter <= _LAST_OF_RUN for letter in found)
  is_set = len(found) == len(list(letters)) >= 2
  return found if in_range and is_set else frozenset()


def _plain(text: str) -> str:
  """Returns `text` without fonts, dollars and the word "option"."""
  text = unwrap(half_width(text))
  text = re.sub(
    r"\\(?:text(?:bf|it|rm|sf)?|mathrm|mathbf|mbox|bf|rm)\s*\{([^{}]*)\}",
    r"\1 ",
    text,
  )
  text = re.sub(r"\\[ ,;:!]|~|\$|\*\*", " ", text)
  text = re.sub("[–—−]", "-", " ".join(text.split()))
  for word in _CHOICE_WORDS:
    if text.lower().startswith(word):
      text = text[len(word) :].strip(" :：")
  return text.removesuffix("选项").removesuffix("项").strip()


def _letter(letter: str, choices: Sequence[str]) -> frozenset[int]:
  index = ord(letter.upper()) - ord("A")
  known = not choices or index < len(choices)
  return frozenset({index} if known else ())


def _by_text(text: str, choices: Sequence[str]) -> frozenset[int]:
  wanted = normalise(text)
  return frozenset(
    i
    for i, choice in enumerate(choices)
    if wanted in (normalise(choice), normalise(_unlabelled(choice, i)))
  )


def _unlabelled(choice: str, index: int) -> str:
  """Returns an option without its own letter in front: 8 cm of "C. 8 cm"."""
  letter = chr(ord("A") + index)
  return re.sub(rf"^\(?{letter}[).:、]\s*(?=\S)", "", choice.strip())


def _by_value(text: str, choices: Sequence[str]) -> frozenset[int]:
  """Returns the options of that value in another spelling.

  All of them must say the same: 8 names none of "8 cm" and "8 m".
  """
  if not text:
    return frozenset()
  found = [
    i for i, choice in enumerate(choices) if _same(_unlabelled(choice, i), text)
  ]
  texts = {
    squeeze(bare_words(spell(_unlabelled(choices[i], i)))) for i in found
  }
  return frozenset(found if len(texts) == 1 else ())


def _same(choice: str, text: str) -> bool:
  one, other = (spell(unwrap(half_width(t))) for t in (choice, text))
  if _lowered(one) == _lowered(other):
    return True
  numbers = parse_number(one), parse_number(other)
  if numbers[0] is None or numbers[1] is None:
    return False
  return equal_numbers(numbers[0], numbers[1])


def _lowered(text: str) -> str:
  """Returns text without spaces; H2O for H_2O, which has no other marks."""
  line = squeeze(bare_words(text))
  return line if re.search(r"[\\^]", line) else re.sub(r"[_{}]", "", line)
