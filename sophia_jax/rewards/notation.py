r"""One spelling for what people and models write: Unicode, LaTeX, ASCII.

`spell` rewrites signs, spaces and fonts; it never changes a value. Everything
here is linear in the length of the answer and loads nothing but `re`.
"""

from __future__ import annotations

import re
import unicodedata

_DASHES = "−–—―‒‐‑﹣－"
_THIN_SPACES = (
  "\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f"
)
_GREEK = (
  ("αβγδεζηθικλμνξρστυφχψω", "alpha beta gamma delta epsilon zeta eta theta "
   "iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"),
  ("ΓΔΘΛΞΠΣΦΨΩ", "Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"),
)  # fmt: skip
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎", "0123456789+-()", strict=True))
_VULGAR = {
  "½": r"\frac{1}{2}",
  "⅓": r"\frac{1}{3}",
  "⅔": r"\frac{2}{3}",
  "¼": r"\frac{1}{4}",
  "¾": r"\frac{3}{4}",
  "⅕": r"\frac{1}{5}",
  "⅖": r"\frac{2}{5}",
  "⅗": r"\frac{3}{5}",
  "⅘": r"\frac{4}{5}",
  "⅙": r"\frac{1}{6}",
  "⅚": r"\frac{5}{6}",
  "⅛": r"\frac{1}{8}",
  "⅜": r"\frac{3}{8}",
  "⅝": r"\frac{5}{8}",
  "⅞": r"\frac{7}{8}",
}
_SIGNS = str.maketrans(
  {
    **dict.fromkeys(_DASHES, "-"),
    **dict.fromkeys(_THIN_SPACES, r"\,"),
    **{
      letter: f"\\{name} "
      for letters, names in _GREEK
      for letter, name in zip(letters, names.split(), strict=True)
    },
    **_VULGAR,
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **dict.fromkeys("≤⩽≦", r"\le "),
    **dict.fromkeys("≥⩾≧", r"\ge "),
    **dict.fromkeys("≈≃≒", r"\approx "),
    **dict.fromkeys("∶：", ":"),
    **dict.fromkeys("、；;", ", "),
    "，": ",",
    **dict.fromkeys("º˚", "°"),
    **dict.fromkeys("|∣｜", "|"),
    "×": r"\times ",
    "÷": r"\div ",
    "⁄": "/",
    "∕": "/",
    "π": r"\pi ",
    "∞": r"\infty ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "≠": r"\ne ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∈": r"\in ",
    "∖": r"\setminus ",
    "∅": r"\emptyset ",
    "∨": r"\lor ",
    "∧": r"\land ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3] ",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "′": "'",
    "’": "'",
    "…": r"\ldots ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "％": "%",
    "＝": "=",
    "（": "(",
    "）": ")",
    "［": "[",
    "］": "]",
    "℃": "°C",
    "℉": "°F",
    "`": " ",
    "\n": " ",
    "\t": " ",
  }
)
_SUPER = re.compile("[" + "".join(_SUPERSCRIPTS) + "]+")
_SUB = re.compile("[" + "".join(_SUBSCRIPTS) + "]+")

_MONEY = {"$": "dollars", "€": "euros", "£": "pounds", "¥": "yuan"}

_END = r"(?![A-Za-z])"
_COMMANDS = (
  (re.compile(rf"\\(?:left|right|[bB]igg?[lrm]?){_END}\.?"), ""),
  (re.compile(r"\\\s*!"), ""),
  (re.compile(r"\{,\}"), ","),
  (re.compile(r"(?<!\\)\\[()\[\]]"), " "),
  (re.compile(rf"\\langle{_END}"), "("),
  (re.compile(rf"\\rangle{_END}"), ")"),
  (re.compile(r"(?<![A-Za-z\\])inf(?:inity)?(?![A-Za-z])"), r"\\infty "),
  # Thin spaces group thousands as commas do.
  (
    re.compile(r"(?<![\d.,])\d{1,3}(?:(?:\\[, ]|~)\d{3})+(?![\d])"),
    lambda m: re.sub(r"\\[, ]|~", "", m[0]),
  ),
  (
    re.compile(
      r"\\(?:displaystyle|textstyle|tiny|small|normalsize|[lL]arge|LARGE|[hH]uge"
      rf"|quad|qquad|hspace\{{[^{{}}]*\}}){_END}"
      r"|(?<!\\)\\[,;:> ]|~"
    ),
    " ",
  ),
  (re.compile(rf"\\textdollar{_END}"), r"\\$"),
  # A sum of money alone keeps its currency, as a unit behind it.
  (
    re.compile(
      r"(\\?[£€¥]|\\\$|^\s*\$(?!.*\$)) ?(-?\d[\d,]*(?:\.\d+)?)"
      r"(?=\s*(?:$|,\s|\$))"
    ),
    lambda m: f"{m[2]} \\text{{{_MONEY[m[1].strip()[-1]]}}}",
  ),
  (
    re.compile(r"(?<=\d) ?\\?([£€¥])"),
    lambda m: f" \\text{{{_MONEY[m[1]]}}}",
  ),
  (re.compile(r"\\[£€$]|[$£€¥]"), " "),
  (re.compile(r"\\%"), "%"),
  (re.compile(rf"\\[dtc]frac{_END}"), r"\\frac"),
  (re.compile(r"\{([^{}]+)\\over(?![a-z])([^{}]+)\}"), r"\\frac{\1}{\2}"),
  (re.compile(rf"\\[dt]binom{_END}"), r"\\binom"),
  (re.compile(rf"\\(?:leqslant|leqq|leq|le){_END}|<=|=<"), r"\\le "),
  (re.compile(rf"\\(?:geqslant|geqq|geq|ge){_END}|>="), r"\\ge "),
  (re.compile(rf"\\(?:neq|ne){_END}|\\not\s*=|!="), r"\\ne "),
  (re.compile(rf"\\lt{_END}"), "<"),
  (re.compile(rf"\\gt{_END}"), ">"),
  (re.compile(rf"\\(?:approx|simeq|thickapprox|sim){_END}"), r"\\approx "),
  (re.compile(rf"\\(?:colon|ratio|mathbin:){_END}"), ":"),
  (re.compile(rf"\\(?:dots|cdots|dotsc){_END}|\.\.\."), r"\\ldots "),
  (re.compile(rf"\\(?:lvert|rvert|vert|mid){_END}"), "|"),
  (re.compile(rf"\\(?:lbrace){_END}"), r"\\{"),
  (re.compile(rf"\\(?:rbrace){_END}"), r"\\}"),
  (re.compile(rf"\\(?:backslash|smallsetminus){_END}"), r"\\setminus "),
  (re.compile(rf"\\varnothing{_END}"), r"\\emptyset "),
  (re.compile(rf"\\var(epsilon|phi|theta|rho|sigma){_END}"), r"\\\1"),
  (
    re.compile(
      rf"\s*\^\s*(?:\{{\s*\\circ\s*\}}|\\circ{_END})|\s*\\degrees?{_END}"
    ),
    "°",
  ),
  (re.compile(rf"\^\s*(?:\{{\s*\\prime\s*\}}|\\prime{_END})"), "'"),
  (re.compile(rf"\\R{_END}|\\mathbf\s*\{{R\}}|\\Reals{_END}"), r"\\mathbb{R}"),
  (re.compile(r"\\mathbb\s*([A-Z])"), r"\\mathbb{\1}"),
  (
    re.compile(r"\\(?:mathbf|mathit|boldsymbol|bm|mathcal)\s*\{([^{}]*)\}"),
    r"{\1}",
  ),
  (
    re.compile(
      r"\\(?:mathrm|text(?:bf|it|rm|sf|normal|up)?|mbox|hbox|operatorname|rm"
      r"|bf|emph|mathsf)\s*\{((?:[^{}]|\{[^{}]*\})*)\}"
    ),
    lambda m: _worded(m[1]),
  ),
  (re.compile(r"(?<=\d)\s*(?:\\text\{to\}|\bto\b)\s*(?=\d)"), ":"),
  (re.compile(r"^\s*(?:(?:negative|minus) |负)\s*(?=[\d.\\])"), "-"),
  (
    re.compile(r"^\s*(?:approximately|approx\.?|about|roughly|大?约)(?![a-z])"),
    r"\\approx ",
  ),
  (re.compile(r"(?<![A-Za-z\\{])or(?![A-Za-z}])|或"), r" \\lor "),
  (re.compile(r"(?<![A-Za-z\\{])and(?![A-Za-z}])|和|且|与"), r" \\land "),
)


def _worded(content: str) -> str:
  r"""Returns what `\text{content}` says: a connective, e, i, or a word."""
  word = content.strip(" ~,")
  if word.lower() in ("or", "或"):
    return r" \lor "
  if word.lower() in ("and", "和", "且"):
    return r" \land "
  if word in ("e", "i", "°", "°C", "°F") or not word:
    return f" {word} "
  if word in ("%", "-"):
    return word
  # A formula in an upright font, or a number with its unit.
  if re.search(r"[\\^_{}]|^[-+]?\d", word):
    return f" {word} "
  return f"\\text{{{' '.join(content.split())}}}"


def spell(text: str) -> str:
  """Returns `text` on one line in one spelling, its value unchanged."""
  text = "".join(c for c in text if unicodedata.category(c) != "Cf")
  text = _SUPER.sub(lambda m: f"^{{{_digits(m[0], _SUPERSCRIPTS)}}}", text)
  text = _SUB.sub(lambda m: f"_{{{_digits(m[0], _SUBSCRIPTS)}}}", text)
  text = text.translate(_SIGNS)
  for pattern, new in _COMMANDS:
    text = pattern.sub(new, text)
  return " ".join(text.split())


def _digits(run: str, table: dict[str, str]) -> str:
  return "".join(table[c] for c in run)


_SPACE = re.compile(r"(?<!\d) | (?!\d)")


def squeeze(text: str) -> str:
  """Returns `text` without spaces, except those between two digits.

  "1 1/2" is not "11/2".
  """
  return _SPACE.sub("", " ".join(text.split()))


def bare_words(text: str) -> str:
  r"""Returns spelled `text` with every \text{...} replaced by its content."""
  return re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
