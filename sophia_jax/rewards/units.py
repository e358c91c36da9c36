r"""Units behind a number or a formula, in one spelling each.

"5 cm", `5\text{ centimeters}` and 5厘米 carry the same unit. Units are never
converted: 5 cm is not 0.05 m. A word that scales the number (dozen, tenths,
lakh, 万) or computes with it (times, squared, mod) is no unit.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from typing import NamedTuple

from sophia_jax.rewards.notation import bare_words


class Unit(NamedTuple):
  """Example: Unit("m s^-1") for "m/s" and "metres per second"."""

  name: str
  """Factors in alphabetical order; "" for "units" and for no unit."""
  is_sure: bool = True
  """False for one or two letters without \\text that may be variables: m, mg."""


_PREFIXES = {
  "nano": "n", "micro": "μ", "milli": "m", "centi": "c", "deci": "d",
  "kilo": "k", "mega": "M", "giga": "G",
}  # fmt: skip
_BASES = {
  "meter": "m", "metre": "m", "gram": "g", "gramme": "g", "liter": "L",
  "litre": "L", "second": "s", "watt": "W", "joule": "J", "newton": "N",
  "volt": "V", "ampere": "A", "amp": "A", "ohm": "Ω", "pascal": "Pa",
  "hertz": "Hz", "coulomb": "C", "farad": "F", "tesla": "T", "henry": "H",
  "mole": "mol", "byte": "B", "kelvin": "K", "calorie": "cal",
}  # fmt: skip
_WORDS = {
  **_BASES,
  **{p + b: s + u for p, s in _PREFIXES.items() for b, u in _BASES.items()},
  "sec": "s", "secs": "s", "minute": "min", "mins": "min", "hour": "h",
  "hr": "h", "hrs": "h", "day": "day", "week": "week", "wk": "week",
  "month": "month", "year": "year", "yr": "year", "yrs": "year",
  "inch": "in", "inche": "in", "foot": "ft", "feet": "ft", "yard": "yd",
  "yd": "yd", "mile": "mi", "pound": "lb", "lbs": "lb", "ounce": "oz",
  "gallon": "gal", "ton": "t", "tonne": "t", "dollar": "dollar",
  "usd": "dollar", "cent": "cent", "euro": "euro", "kmh": "km h^-1",
  "yuan": "元", "rmb": "元", "kph": "km h^-1", "kmph": "km h^-1",
  "mph": "h^-1 mi", "mps": "m s^-1", "cc": "cm^3", "kgs": "kg", "cms": "cm",
  "radian": "rad", "people": "person", "men": "man", "women": "woman",
  "children": "child", "percent": "%", "%": "%", "degree": "°", "deg": "°",
  "unit": "",
  "celsius": "°C", "fahrenheit": "°F",
}  # fmt: skip
_SYMBOLS = {
  p + u: p + u
  for u in ("m", "g", "L", "s", "W", "J", "N", "V", "A", "Pa", "Hz", "C", "F",
            "T", "H", "mol", "eV", "Ω", "cal", "B")
  for p in ("", "n", "μ", "m", "c", "d", "k", "M", "G")
} | {
  "l": "L", "ml": "mL", "dl": "dL", "cl": "cL", "h": "h", "min": "min",
  "in": "in", "ft": "ft", "yd": "yd", "mi": "mi", "lb": "lb", "oz": "oz",
  "t": "t", "ha": "ha", "rad": "rad", "K": "K", "°C": "°C", "°F": "°F",
  "°": "°", "d": "day", "kJ": "kJ", "KG": "kg", "Kg": "kg", "CM": "cm",
  "KM": "km", "Km": "km", "dB": "dB", "rpm": "rpm", "atm": "atm",
}  # fmt: skip
_CHINESE = {
  "毫米": "mm", "厘米": "cm", "分米": "dm", "千米": "km", "公里": "km",
  "米": "m", "毫克": "mg", "千克": "kg", "公斤": "kg", "克": "g", "吨": "t",
  "毫升": "mL", "升": "L", "秒": "s", "分钟": "min", "小时": "h", "时": "h",
  "天": "day", "日": "day", "周": "week", "月": "month", "个月": "month",
  "年": "year", "度": "°", "元": "元", "块": "元", "公顷": "ha", "牛": "N",
  "焦": "J", "瓦": "W", "伏": "V", "安": "A", "欧": "Ω", "帕": "Pa",
}  # fmt: skip
_CHINESE_SCALES = re.compile(
  "[万亿千百十兆半折打成分之零一二三四五六七八九不没非无是或和与等约至到对错否吗]"
)
_NO_UNITS = re.compile(
  r"pi|e|i|k|m?bn|mn|mil|dozens?|scores?|gross|tens|hundreds?|thousands?"
  r"|[a-z]*illions?|lakhs?|lacs?|crores?|myriads?|hal(?:f|ves)|thirds?"
  r"|quarters?|[a-z]{3,}ths?|percentage|permille|permil|ppm|ppb|bps?"
  r"|squared|cubed|factorial|root|roots|power|powers|negative|minus|plus"
  r"|times|fold|or|over|and|to|by|of|out|mod|modulo|base|than|less|more|not"
  r"|no|never|is|are|was|isn|wrong|incorrect|if|then|when|divided|multiplied"
  r"|reciprocal|inverse|binary|octal|hex|hexadecimal|about|but|approximately"
)
_MONTHS = ("month", "months")
_SURE_NAMES = "cm mm km dm kg ft yd mi lb oz Hz kJ kW kN MW eV in"
_SURE = frozenset(_SURE_NAMES.split())
"""Units of two letters that are no product of variables."""
_ONE_LETTER = frozenset("mgsLlNJWVACKFhHTtd")
_TOKEN = re.compile(
  r"\^\{?-?\d\}?|\^-?\d|°[CF]?|[A-Za-zμΩ%]+|[\u4e00-\u9fff]+|\\[a-z]+|\S"
)
_JOINS = {r"\cdot", r"\times", "*", "-"}
_PER = {"/", "每", "per"}
_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_AFTER = {"squared": 2, "cubed": 3}
_TEMPERATURES = frozenset({"°C", "°F"})
"""Units that may lack their letter: 25 degrees."""


def same_unit(one: str, other: str) -> bool:
  """Returns whether two names of units are no contradiction; "" is none."""
  if not one or not other or one == other:
    return True
  return "°" in (one, other) and bool(_TEMPERATURES & {one, other})


def read_unit(text: str, always_a_unit: bool = True) -> Unit | None:
  r"""Returns the unit that spelled `text` is, None if it is none.

  Args:
    always_a_unit: also an unknown word counts (42 apples); False: only known
      units and words in \text{...}.
  """
  marked = r"\text{" in text
  text = bare_words(text).replace("per cent", "percent")
  text = re.sub(r"(?<=[A-Za-z\d}])\.(?=\s|$)", "", text.strip()).strip()
  text = re.sub(r"°\s+([CF])(?![A-Za-z])", r"°\1", text)
  text = re.sub(r"\\mu\s*(?=[A-Za-z])", "μ", text).replace(r"\Omega", "Ω")
  if text.startswith("(") and text.endswith(")"):
    text = text[1:-1].strip()
  tokens = _TOKEN.findall(text)
  if not tokens:
    return Unit("")
  if len(tokens) > 12 or not _is_joined(tokens):
    return None
  factors = _factors(tokens, always_a_unit or marked)
  if factors is None:
    return None
  letters = len(text) <= 2 and text.isascii() and text.isalpha()
  if len(text) == 1 and letters and not marked and text not in _ONE_LETTER:
    return None
  name = " ".join(
    unit if power == 1 else f"{unit}^{power}"
    for unit, power in sorted(factors.items())
    if unit and power
  )
  return Unit(name, is_sure=marked or not letters or text in _SURE)


def _is_joined(tokens: list[str]) -> bool:
  """Returns whether every joint has a unit on both sides, "/" one behind it."""
  words = [token.lower() for token in tokens]
  joints = [word in _JOINS or word in _PER for word in words]
  apart = not any(a and b for a, b in itertools.pairwise(joints))
  return apart and not joints[-1] and (not joints[0] or words[0] in _PER)


def _factors(tokens: list[str], unknown: bool) -> dict[str, int] | None:
  """Returns the power of each unit; None where a token is no part of one."""
  powers: list[tuple[str, int]] = []
  sign, power = 1, 1
  for token, behind in zip(tokens, [*tokens[1:], ""], strict=True):
    word = token.lower()
    if word in _PER:
      sign = -1
    elif word in _BEFORE and behind:
      power = _BEFORE[word]
    elif powers and (raised := _exponent(word)):
      unit, times = powers[-1]
      powers[-1] = unit, times * raised
    elif word not in _JOINS:
      found = _one(token, unknown)
      if found is None:
        return None
      powers += [(unit, sign * power * times) for unit, times in found]
      power = 1
  factors: Counter[str] = Counter()
  for unit, times in powers:
    factors[unit] += times
  if _TEMPERATURES & factors.keys():
    del factors["°"]
  return factors


def _exponent(word: str) -> int:
  """Returns the exponent that "^2" or "squared" is, 0 for what is none."""
  raised = re.fullmatch(r"\^\{?(-?\d)\}?", word)
  return int(raised[1]) if raised else _AFTER.get(word, 0)


def _one(token: str, unknown: bool) -> list[tuple[str, int]] | None:
  """Returns the factors of one word or symbol."""
  if token in _SYMBOLS:
    return [(_SYMBOLS[token], 1)]
  if "\u4e00" <= token[0] <= "\u9fff":
    return _chinese(token)
  word = token.lower()
  singular = word[:-1] if word.endswith("s") and len(word) > 3 else word
  for name in (word, singular):
    if name in _WORDS:
      parts = (part.partition("^") for part in _WORDS[name].split())
      return [(unit, int(p or 1)) for unit, _, p in parts] or [("", 1)]
  if not token.isalpha() or not unknown:
    return None
  if _NO_UNITS.fullmatch(word) and word not in _MONTHS:
    return None
  if len(word) == 1 and token not in _ONE_LETTER:
    return None
  return [(singular, 1)]


def _chinese(token: str) -> list[tuple[str, int]] | None:
  """Returns the factors of a Chinese unit; counting words name themselves."""
  power, rest = 1, token
  for prefix, times in (("平方", 2), ("立方", 3)):
    if token.startswith(prefix):
      power, rest = times, token[2:]
  top, per, bottom = rest.partition("每")
  if per:
    above, below = _chinese(top), _chinese(bottom)
    if above is None or below is None:
      return None
    return above + [(unit, -p) for unit, p in below]
  if rest in _CHINESE:
    return [(_CHINESE[rest], power)]
  if len(rest) > 4 or _CHINESE_SCALES.search(rest):
    return None
  return [(rest, power)]
