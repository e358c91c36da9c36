import contextlib

import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.rewards.latex import Undefined, Unreadable, read
from sophia_jax.rewards.notation import spell, squeeze
from sophia_jax.rewards.number import parse_number
from sophia_jax.rewards.reading import (
  cut_qualifier,
  statement,
  unboxed,
  without_question,
)
from sophia_jax.rewards.regions import region
from sophia_jax.rewards.units import read_unit
from sophia_jax.rewards.verify import compare

x, y, n = sympy.symbols("x y n")


@pytest.mark.parametrize(
  "text, tree",
  [
    (r"\frac12", sympy.Rational(1, 2)),
    (r"\frac a b", sympy.Symbol("a") / sympy.Symbol("b")),
    (r"3\frac{1}{2}", sympy.Rational(7, 2)),
    ("0.1+0.2", sympy.Rational(3, 10)),
    ("√12", sympy.sqrt(12)),
    (r"\sqrt[3]{8}", sympy.Integer(2)),
    (r"\sin 2x", sympy.sin(2 * x)),
    (r"\sin^2 x \cos x", sympy.sin(x) ** 2 * sympy.cos(x)),
    (r"\sin^{-1} x", sympy.asin(x)),
    (r"\sin 30°", sympy.Rational(1, 2)),
    (r"\log_2 8", sympy.log(8) / sympy.log(2)),
    ("1/2x", 1 / (2 * x)),
    ("-x^2", -(x**2)),
    ("x^{-1}", 1 / x),
    ("x²y", x**2 * y),
    ("(n-1)!", sympy.factorial(n - 1)),
    ("||x|-1|", abs(abs(x) - 1)),
    ("v^2_0", sympy.Symbol("v_{0}") ** 2),
    (r"k_{\mathrm{B}}", sympy.Symbol("k_{B}")),
    (r"2+3\mathrm{i}", 2 + 3 * sympy.I),
    ("f(x)", sympy.Symbol("f(x)")),
    (r"x(y+1)", x * (y + 1)),
  ],
)
def test_a_formula_is_read(text, tree):
  assert read(spell(text)) - tree == 0


@pytest.mark.parametrize(
  "text", ["", "3+", r"\frac{1}", "2 3", "x^", ".", "52_8+1", "2^3^4", "__x"]
)
def test_what_is_no_formula(text):
  with pytest.raises(Unreadable):
    read(text)


@pytest.mark.parametrize(
  "text", ["1/0", "0^0", "(x-x)^{0}", r"\log 0", "x/(y-y)"]
)
def test_what_has_no_value(text):
  with pytest.raises(Undefined):
    read(text)


@given(st.text(alphabet=r"123xy+-*/^_(){}|\ \frac\sqrt.,=", max_size=30))
def test_reading_raises_nothing_else(text):
  if "^" in text or "!" in text:  # powers are bounded before
    return
  with contextlib.suppress(Unreadable, Undefined):
    read(spell(text))


@pytest.mark.parametrize(
  "text, line",
  [
    ("‒3", "-3"),
    (r"11\,111\,100", "11111100"),
    (r"\left( 3, 4 \right)", "( 3, 4 )"),
    ("x ≥ 2", r"x \ge 2"),
    ("x != 3", r"x \ne 3"),
    (r"3 \colon 2", "3 : 2"),
    (r"90^{\circ}", "90°"),
    (r"1 \text{ or } 2", r"1 \lor 2"),
    (r"\mathrm{e}^x", "e ^x"),
    (r"20 \mathrm{~cm}^{2}", r"20 \text{cm}^{2}"),
  ],
)
def test_one_spelling(text, line):
  assert spell(text) == line


@given(st.text(max_size=60))
def test_spelling_is_one_line_and_squeezing_keeps_numbers_apart(text):
  assert "\n" not in spell(text)
  assert squeeze("1 1/2") == "1 1/2" != squeeze("11/2")


@pytest.mark.parametrize(
  "text, unit",
  [
    ("cm", "cm"),
    (r"\text{ centimeters}", "cm"),
    ("厘米", "cm"),
    ("mph", "h^-1 mi"),
    ("miles per hour", "h^-1 mi"),
    (r"\text{m/s}^{2}", "m s^-2"),
    (r"\text{N} \cdot \text{m}", "N m"),
    ("square feet", "ft^2"),
    (r"°\text{C}", "°C"),
    ("μm", "μm"),
    ("", ""),
    ("degrees", "°"),
    ("degrees Celsius", "°C"),
    ("sq. ft", "ft^2"),
    ("cubic metres per second", "m^3 s^-1"),
    ("m/s^{-1}", "m s"),
    ("per hour", "h^-1"),
    ("m squared", "m^2"),
  ],
)
def test_units(text, unit):
  assert read_unit(spell(text)).name == unit


@pytest.mark.parametrize(
  "text",
  [
    *("tenths", "lakh", "million", "dozen", "万", "squared", "or 3", "x", "k"),
    *(
      "times",
      "-",
      "/",
      "cm-",
      "per",
      "cm per",
      "is wrong",
      "不对",
      "mod 7",
      "quadrillion",
    ),
  ],
)
def test_no_units(text):
  assert read_unit(text) is None


def test_statements():
  said = statement(r"S = \frac{22}{7} \approx 3.14")
  assert said.parts == ["S", r"\frac{22}{7}", "3.14"]
  assert said.name == "S"
  assert statement("x<5").has_order and not statement("x<5").name
  assert not statement("2x=5").name
  assert statement(r"S_{\text{max}} = 5").name == statement(r"S_\max=5").name


def test_what_the_question_asks_for_may_be_repeated():
  assert without_question("a+b=5", "Find $a+b$.") == "5"
  assert without_question("a+b=5", "Given a+b=7, find a.") == "a+b=5"
  assert without_question("2x=5", "Find x.") == "2x=5"
  asked = {"question": "What is $2x$ here?"}
  assert compare("number", "5", "2x=5", **asked) == "right"
  assert compare("math", "5", "2x=5", **asked) == "right"
  assert compare("math", "5", "3x=5", **asked) != "right"


@pytest.mark.parametrize(
  "gold, answer, question, outcome",
  [
    ("408", r"12 \times 34", "What is $12 \\times 34$?", "wrong"),
    ("3", r"\log_2 8", r"Evaluate $\log_{2} 8$.", "wrong"),
    ("(x-1)(x+1)", "x^2-1", "Factor $x^{2}-1$.", "wrong"),
    ("(x-1)(x+1)", "(x+1)(x-1)", "Factor $x^{2}-1$.", "right"),
    (r"\frac{1}{2}", r"\int_0^1 x dx", r"Compute $\int_0^1 x dx$.", "wrong"),
    ("x=2", "2x+1=5", "Solve $2x + 1 = 5$.", "wrong"),
    ("x>2", "2x+1>5", "Solve $2x+1>5$ for x.", "wrong"),
    ("x=2", "2x=4", "Solve $2x + 1 = 5$.", "right"),
    ("5", "x=5", "Is x=5? Find x.", "right"),
    (r"\text{Yes}", "yes", "Is x>2? Answer yes or no.", "right"),
    ("2^{10}", "2^10", "Compute the larger of 2^{10} and 10^3.", "right"),
    ("b+a", "a+b", "What are the sides of a square of area (a+b)^2?", "right"),
    ("5", "5", "Compute 5.", "right"),
    ("1, 2, 3", "3, 2, 1", "List 1, 3, 2 in ascending order.", "wrong"),
    ("1, 2, 3", "1, 2 and 3", "List 1, 3, 2 in ascending order.", "right"),
    ("1/2, 2", "2, 0.5", "Find a and b, respectively.", "wrong"),
    ("1, 2, 3", "3, 2, 1", "Find the roots, in any order.", "right"),
    ("1, 2", "2, 1", "D, E halve AB, AC respectively. Find x.", "right"),
  ],
)
def test_what_the_question_asks_for_counts(gold, answer, question, outcome):
  assert compare("auto", gold, answer, question=question) == outcome


def test_boxes():
  assert unboxed(r"\boxed{12}") == "12"
  assert unboxed(r"-\boxed{12}") == "-{12}"
  assert unboxed(r"The answer is \boxed{3}.") == "3"


def test_qualifiers():
  line, said = cut_qualifier(spell(r"cx \text{ for any real } c"))
  assert line == "cx" and said == ({"real"}, {"c"})
  line, said = cut_qualifier(spell(r"k\pi, k \in \mathbb{Z}"))
  assert line == r"k\pi" and said == ({"integer"}, {"k"})
  assert cut_qualifier("x where I mean 6")[0] == "x where I mean 6"


@pytest.mark.parametrize(
  "one, other",
  [
    (r"0 < x \le 5", r"x \in (0,5]"),
    (r"\mathbb{R}\setminus\{2\}", r"(-\infty,2)\cup(2,\infty)"),
    (r"x \ne 2", r"x<2 \lor x>2"),
    (r"[1,2]\cup[2,3]", "[1,3]"),
    (r"\{x | x > 1\}", r"x>1"),
    (r"(0,2)\cap(1,3)", "(1,2)"),
    (r"[0,1]\setminus\{0\}", "(0,1]"),
    (r"(0,\frac{1}{\sqrt{2}})", r"(0,\frac{\sqrt{2}}{2})"),
  ],
)
def test_one_set_in_two_spellings(one, other):
  assert region(one).pieces == region(other).pieces


@pytest.mark.parametrize(
  "text", ["(2,1)", "x=5", "1<x>0", r"[-\infty,2)", "(a,b)", "x<y", "(0,1,2)"]
)
def test_no_sets(text):
  assert region(text) is None


def test_numbers_in_words_bases_and_cycles():
  assert parse_number("twenty-one").value == 21
  assert parse_number("one twenty") is None
  assert parse_number("52_8").base == 8
  assert parse_number("58_8") is None
  assert parse_number(r"0.1\overline{6}").value == sympy.Rational(1, 6)
  assert parse_number("42ab") is None
