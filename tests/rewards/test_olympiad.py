import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.rewards import openbmb, openbmb_text
from sophia_jax.rewards.judge import judge, same_value
from sophia_jax.rewards.openbmb_text import extract_upstream
from sophia_jax.rewards.reading import boxed, is_name, prepare, readings, split
from sophia_jax.rewards.verify import compare

# Pairs of answers from OpenBMB/OlympiadBench, eval/scoring_examples.json (MIT).
EXAMPLES = [
  json.loads(line)
  for line in Path(__file__)
  .with_name("openbmb.jsonl")
  .read_text(encoding="utf-8")
  .splitlines()
]

# What their judge said of these, run with sympy 1.14 and ANTLR 4.11.1, where it
# differs from ours: one line for each quirk and some more.
PROBED = [
  (r"\sqrt{2}", "1.41421356", True),
  (r"\sqrt2", "1.41421356", False),
  ("2^{2000}", "2^{2000}+0", False),
  ("2^{999}", r"2^{999}\cdot 1", True),
  ("", "=", True),
  ("(1,2)", "(1,2]", False),
  ("0.0005x", "0", False),
  ("x", "x=1", False),
  ("2x=2", "x=1", True),
  ("1/2", "0.5", True),
  (r"\boxed{1}\boxed{2}", "2,1", True),
  (r"\boxed{1", "1", False),
  ("$1$ and $2$", "1,2", True),
  ("1 and 2", "1,2", False),
  ("a=b=c", "c", False),
  ("a+b=c", "c-a=b", True),
  (r"\int_0^1 x dx", "0.5", False),
  ("x-x", "0", False),
  ("2:3", "4:6", True),
  (r"x^{\prime}", "x'", True),
  ("1e5", "100000", True),
  ("nan", "nan+0", True),
  (",1", "1", True),
  ("1,,2", "1,2", False),
  ("1，2", "2,1", True),
  ("$x=1$\n$x=2$", "x=2", True),
  ("0.03", "3.00000001", True),
  ("0", "0.000000001", True),
  ("10^{10^{10}}", "1", False),
]


@pytest.mark.parametrize("upstream", [True, False])
@pytest.mark.parametrize("case", EXAMPLES, ids=lambda c: c["answer"][:30])
def test_the_published_examples(case, upstream):
  outcome = compare(
    "olympiad",
    case["gold"],
    case["answer"],
    tolerance=tuple(case["tolerance"]),
    upstream_compatible=upstream,
  )
  assert (outcome == "right") is case["equal"]


def test_there_are_36_of_them():
  assert len(EXAMPLES) == 36


@pytest.mark.parametrize("gold, answer, equal", PROBED)
def test_as_openbmbs_judge_says(gold, answer, equal):
  outcome = openbmb.judge(gold, answer)
  assert (outcome == "right") is equal


@pytest.mark.parametrize(
  "response, answer",
  [
    (
      "So the final answer is 1.\nSo the final answer is \\boxed{2}.",
      " \\boxed{2}.",
    ),
    ("所以最终答案是$3$。", "$3$。"),
    ("\\boxed{1} and \\boxed{2}", "1,2"),
    ("Let $a$.\nThen $x=1$ or $x=2$.", "x=1,x=2"),
    ("5", "5"),
    ("x" * 2000, None),
    ("\\boxed{1", None),
    ("", None),
  ],
)
def test_extraction_upstream(response, answer):
  assert extract_upstream(response) == answer


@pytest.mark.parametrize(
  "text, line",
  [
    (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
    (r"c \in \left(0, 1\right]", r"c \in (0, 1]"),
    ("（１，２）", "(1,2)"),
    (r"\dfrac12", r"\frac12"),
    (r"90^{\circ}", "90°"),
    ("4\u200b2", "42"),
    (r"x\approx 2.", r"x\approx 2"),
    (r"\boxed{", None),
  ],
)
def test_prepare(text, line):
  assert prepare(text) == line


def test_items():
  assert split(r"(1,2),\{3,4\}") == ["(1,2)", r"\{3,4\}"]
  assert split(r"\{3,4\}") == ["3", "4"]
  assert split(r"1 \pm a \mp b") == ["1 + a - b", "1 - a + b"]
  assert readings("1,000") == [["1", "000"], ["1000"]]
  assert readings("1,00") == [["1", "00"]]
  assert openbmb_text.split("能1,2") == ["1", "2"]
  assert openbmb_text.split("能") == []
  assert boxed(r"\boxed{a{b}}\boxed{c}") == ["a{b}", "c"]


@pytest.mark.parametrize(
  "text", ["x", "S_{max}", r"\theta", "f(x)", "a_n", "y'"]
)
def test_names(text):
  assert is_name(text)


@pytest.mark.parametrize("text", ["2x", "x+1", "x^2", "", "f(x)+1"])
def test_no_names(text):
  assert not is_name(text)


def test_a_tuple_is_no_number():
  assert judge("0", "(0.000,0.000)") == "wrong"
  assert openbmb.judge("0", "(0.000,0.000)") == "wrong"


def test_a_unit_may_be_added_but_not_dropped():
  assert same_value("5", "5 cm")
  assert not same_value("2m", "2")
  assert same_value("2m", "2.0 m")
  assert not same_value("x", "2")


NUMBER = st.decimals(-999, 999, places=3, allow_nan=False).map(str)
ITEM = st.one_of(
  NUMBER,
  st.tuples(NUMBER, NUMBER).map(lambda t: f"({t[0]},{t[1]})"),
  st.sampled_from(["x+1", r"\sqrt{2}", r"\frac{a}{b}", "[0,1)"]),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(ITEM, min_size=1, max_size=4, unique=True), st.randoms())
def test_order_does_not_matter_and_everything_equals_itself(items, random):
  shuffled = random.sample(items, len(items))
  gold, answer = ", ".join(items), ", ".join(shuffled)
  assert judge(gold, answer) == "right"
  assert judge(gold, answer + ", 1234.5") == "wrong"


@given(st.text(alphabet="{}\\boxed$%能,.= \u202eＡ１", max_size=80))
def test_whatever_is_read_is_one_line(text):
  line = prepare(text)
  assert line is None or "\n" not in line
  openbmb_text.prepare(text)
