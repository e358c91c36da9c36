"""Gold answers of every kind, and changes that make them wrong."""

import re

GOLDS = {
  "number": (
    *("5 cm", "-3", "1/3", r"\frac{7}{5}", "1,234", "1048576", "0.125"),
    *("3.14159265", "1234567.89", r"6.02 \times 10^{23}", "1.6e-19", r"50\%"),
    *(r"0.25\%", r"3\frac{1}{2}", "52_8", "f(2)=7", "10 mph", r"90^\circ"),
  ),
  "math": (
    *(r"\frac{1}{2^{99}}", "2^{2024}", "2^{20}", r"m \ge 2", r"x \ne 3"),
    *("x<5", r"-2 < x \le 7", "(0,5]", r"[1,2)\cup(3,\infty)", "5!"),
    *(r"\mathbb{R}\setminus\{2\}", r"\{1,2,3\}", "x=3, y=5", "(x,y)=(3,5)"),
    *("n=2, 3, 4", r"a=1 \text{ or } a=-2", "y=2x+1", "f(x)=x^2-3x+2"),
    *("x^2+y^2=25", "3:2", "1:2:3", "12:30", "1011_2", r"\frac{\pi}{6}"),
    *(r"\sqrt[3]{5}", r"\log_2 5", r"\sin 20^\circ", r"\tan(x+1)", "|x-5|"),
    *(r"\binom{n}{2}", "e^{2x}", r"\frac{a+b}{c}", "2x+4y-3=0", "2+3i"),
    *(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", "(1,2),(3,4)", r"1\pm\sqrt{2}"),
    *(r"k\pi, k\in\mathbb{Z}", "AB = 6 cm, BC = 8 cm", r"x \in (0,1)"),
    *(r"x>1 \text{ or } x<-1", "7x - 3 > 2y", r"\int_0^2 x dx", "4x^3y^2"),
    *(r"2\sqrt{3} \text{ cm}", r"20 \mathrm{~cm}^{2}", r"1, 2, \ldots, n"),
  ),
  "list": ("1, 2, 3", "[2, 4, 6]", "1/2, 50%", "1.5 cm, 2 cm", "a, b2"),
  "string": ("5!", "x²", "-3", "3.5", "x=2", "no. 7", "3:2", "f'"),
  "choice": ("B", "blue", "12", "ABD"),
}
"""Typical gold answers by answer type."""

CHOICES = ("red", "blue", "12", "13")

_TURNED = {
  "+": "-",
  "-": "+",
  "<": ">",
  ">": "<",
  "=": r"\ne ",
  "/": "+",
  "^": "+",
  ":": "+",
  "!": "",
  "'": "",
  "%": "",
  "²": "",
  r"\%": "",
  r"\ge": r"\le",
  r"\le": r"\ge",
  r"\ne": "=",
  r"\cup": r"\cap",
  r"\setminus": r"\cup",
  r"\times": "+",
  r"\pm": "+",
  r"\infty": "5",
  r"\sin": r"\cos",
  r"\log": r"\cos",
  r"\pi": "e",
  r"\sqrt": "",
}
_CLOSED = {
  "<": r"\le ",
  ">": r"\ge ",
  r"\le": "<",
  r"\ge": ">",
  "(": "[",
  ")": "]",
  "[": "(",
  "]": ")",
}


def perturbed(gold: str, choice: bool = False):
  """Yields `gold` with one number, sign, relation or operator changed."""
  for digits in re.finditer(r"\d+", gold):
    before, number, after = (
      gold[: digits.start()],
      digits[0],
      gold[digits.end() :],
    )
    # A longer decimal may round to the gold answer.
    longer = () if before.endswith(".") else (10 * int(number) + 1,)
    for other in (int(number) + 1, abs(int(number) - 1), *longer):
      yield f"{before}{other:0{len(number)}}{after}"
    for i, digit in enumerate(number):
      changed = f"{number[:i]}{(int(digit) + 1) % 10}{number[i + 1 :]}"
      yield before + changed + after
      # A point before any digit but where there is one, or nothing but zeros.
      if "." not in (before[-1:], after[:1]) and int(number):
        yield f"{before}{number[:i]}.{number[i:]}{after}"
  for sign in re.finditer(r"\\[A-Za-z%]+|[^\w\s]|²", gold):
    for table in (_TURNED, _CLOSED):
      if sign[0] in table:
        yield gold[: sign.start()] + table[sign[0]] + gold[sign.end() :]
  if choice:
    yield from ("A", "D", "AB", "A, D", "red", "13", "A or B")
  elif not gold.startswith((r"\begin", "[", "(", "-")):
    yield "-" + gold
