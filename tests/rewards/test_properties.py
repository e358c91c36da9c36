"""Properties of every answer type: no perturbed gold answer is right."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.rewards.verify import compare
from tests.rewards.perturb import CHOICES, GOLDS, perturbed

EQUAL_ALL_THE_SAME = {
  ("50\\%", "50"),
  ("1/2, 50%", "1/2, 50"),
}
"""(gold, perturbed): a percent sign may be forgotten above 1."""


def pairs(kind):
  for gold in GOLDS["math" if kind == "olympiad" else kind]:
    choices = CHOICES if kind == "choice" else ()
    for answer in perturbed(gold, choice=kind == "choice"):
      if (gold, answer) not in EQUAL_ALL_THE_SAME and answer != gold:
        yield gold, answer, choices


@pytest.mark.parametrize(
  "kind", ["number", "math", "olympiad", "list", "string", "choice"]
)
def test_a_perturbed_gold_is_never_right(kind):
  count = 0
  for gold, answer, choices in pairs(kind):
    assert compare(kind, gold, answer, choices) != "right", (gold, answer)
    if kind != "olympiad":  # the same judge as `math`
      assert compare("auto", gold, answer, choices) != "right", (gold, answer)
    count += 1
  assert count >= 20


@pytest.mark.parametrize("kind", GOLDS)
def test_every_gold_is_right_for_itself(kind):
  choices = CHOICES if kind == "choice" else ()
  for gold in GOLDS[kind]:
    for answer in (gold, f"${gold}$", f" {gold} ", f"\\boxed{{{gold}}}"):
      assert compare(kind, gold, answer, choices) == "right", (gold, answer)


WHOLE = st.integers(-(10**12), 10**12)


@given(WHOLE, st.integers(1, 10**6), st.sampled_from(["number", "auto"]))
def test_whole_numbers_are_exact(value, change, kind):
  assert compare(kind, str(value), str(value)) == "right"
  assert compare(kind, str(value), str(value + change)) == "wrong"


@given(st.decimals(0, 10**9, places=4), st.integers(0, 12))
def test_another_digit_is_another_decimal(value, place):
  text = f"{value:.4f}"
  digits = [i for i, c in enumerate(text) if c.isdigit()]
  i = digits[place % len(digits)]
  other = text[:i] + str((int(text[i]) + 1) % 10) + text[i + 1 :]
  assert compare("number", text, other) == "wrong"


@settings(max_examples=60, deadline=None)
@given(
  st.integers(-99, 99),
  st.integers(1, 99),
  st.integers(1, 99),
  st.sampled_from(["math", "olympiad"]),
)
def test_exact_fractions_powers_and_roots(a, b, c, kind):
  gold = rf"\frac{{{a}}}{{{b}}}+\sqrt{{{c}}}"
  same = rf"\sqrt{{{4 * c}}}/2+\frac{{{3 * a}}}{{{3 * b}}}"
  assert compare(kind, gold, same) == "right"
  other = rf"\sqrt{{{c + 1}}}+\frac{{{a}}}{{{b}}}"
  assert compare(kind, gold, other) == "wrong"
  power = f"2^{{{b + 40}}}"
  assert compare(kind, power, f"{power}-1") == "wrong"
  assert compare(kind, rf"\frac{{1}}{{{power}}}", f"2^{{-{b + 41}}}") == "wrong"


ENDS = st.lists(st.integers(-9, 9), min_size=2, max_size=2, unique=True)


@settings(max_examples=60, deadline=None)
@given(ENDS.map(sorted), st.booleans(), st.booleans())
def test_an_interval_is_a_chain_of_orders(ends, low_in, high_in):
  low, high = ends
  left, right = ("<", r"\le ")[low_in], ("<", r"\le ")[high_in]
  chain = f"{low}{left} x{right}{high}"
  interval = f"{'(['[low_in]}{low},{high}{')]'[high_in]}"
  other = f"{'(['[not low_in]}{low},{high}{')]'[high_in]}"
  assert compare("math", chain, interval) == "right"
  assert compare("math", chain, other) == "wrong"
  assert compare("math", chain, f"x \\in {interval}") == "right"
  assert compare("math", chain, f"y \\in {interval}") == "wrong"


POINTLESS = (
  *(r"\infty", r"-\infty", "∞", r"\frac{x}{0}", r"\frac{1}{0}", "1/0", "0/0"),
  *(r"10^{\infty}", "0^0", "0^{-1}", r"\log 0", r"\tan 90^\circ", "nan", "inf"),
  *(r"\frac{1}{\sin^2 x+\cos^2 x-1}", r"0 \cdot \frac{1}{0}", "(x-x)^0"),
  *(r"\frac{\infty}{\infty}", r"5+\frac{1}{\infty}", r"\lim_{x \to 0} 1/x"),
  *(r"(5,3]", r"[0,5)", r"(-\infty,\infty)", r"\{\frac{x}{0}\}", "(-1)!"),
  *(r"x=\frac{1}{0}", r"x>\frac{1}{0}", r"\binom{\infty}{2}", "1/(x-x)"),
)
FINITE = (
  *("7", r"\sqrt2", "yes", r"(-\infty,3]", r"[0,\infty)", "x^2+1", "0", "1"),
  *("x=5", "x>1", "1, 2", "(1,2)", "e^x", r"\{1,2\}", "3:2", "5 cm", "x=y"),
)


@pytest.mark.parametrize("kind", ["auto", "math", "olympiad", "number", "list"])
def test_what_is_infinite_or_undefined_is_never_right(kind):
  for gold in FINITE:
    for answer in POINTLESS:
      assert compare(kind, gold, answer) != "right", (gold, answer)


def test_infinity_is_right_where_the_gold_has_it():
  assert compare("math", r"\infty", r"+\infty") == "right"
  assert compare("math", r"\infty", r"-\infty") != "right"
  assert compare("math", r"x \ge 2", r"[2,\infty)") == "right"
  assert compare("math", r"x \ge 2", r"[2,\infty]") != "right"


JUDGE = """
import json, sys
from sophia_jax.rewards.verify import compare
asked = json.load(sys.stdin)
json.dump([[i, compare(*question)] for i, question in asked], sys.stdout)
"""


def test_verdicts_do_not_depend_on_the_process_or_the_order():
  rng = random.Random(0)
  questions = [("math", gold, answer) for gold, answer, _ in pairs("math")]
  questions += [("olympiad", g, a) for g in FINITE for a in POINTLESS]
  questions = rng.sample(questions, 480)
  questions += [
    ("math", rf"\sqrt{{{4 * i * i}}}", str(2 * i)) for i in range(20)
  ]
  asked = list(enumerate(questions))
  found = []
  for seed in ("1", "2"):
    rng.shuffle(asked)
    done = subprocess.run(
      [sys.executable, "-c", JUDGE],
      input=json.dumps(asked),
      stdout=subprocess.PIPE,
      check=True,
      text=True,
      cwd=Path(__file__).parents[2],
      env={**os.environ, "PYTHONHASHSEED": seed},
    )
    found.append(dict(json.loads(done.stdout)))
  assert len(found[0]) == 500
  assert found[0] == found[1]
  assert "right" in found[0].values() and "wrong" in found[0].values()
