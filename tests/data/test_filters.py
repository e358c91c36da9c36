"""Filters: what passes, what does not, and that everything is counted."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.data.filters import (
  REASONS,
  RUN,
  FilterConfig,
  compression,
  keep,
  language_share,
  repetition,
  scripts,
)
from sophia_jax.types import Example


def example(i=0, question="How many apples are there?", response="Six.", **kw):
  return Example(id=f"e{i}", question=question, response=response, **kw)


def words(texts):
  return [len(text.split()) for text in texts]


def kept(examples, **config):
  return [e.id for e in keep(examples, FilterConfig(**config), words)[0]]


ENGLISH = (
  "We know that the sum of the angles of a triangle is 180 degrees. Since the "
  "first angle is 90 degrees and the second one is 35 degrees, the third angle "
  "must be 180 - 90 - 35 = 55 degrees. Let us check this once more by adding "
  "all three of them: 90 + 35 + 55 = 180, which is what it should be."
)
CHINESE = (
  "我们知道三角形的内角和是一百八十度。因为第一个角是九十度，第二个角是三十五度，"
  "所以第三个角等于五十五度。再验算一次：三个角相加正好是一百八十度，结果正确。"
)
JAPANESE = (
  "三角形の内角の和は百八十度です。最初の角は九十度で、二番目の角は三十五度なので、"
  "三番目の角は五十五度になります。もう一度、確かめてみましょう。"
)
RUSSIAN = (
  "Сумма углов треугольника равна ста восьмидесяти градусам, поэтому третий "
  "угол равен пятидесяти пяти градусам."
)
KOREAN = "삼각형의 내각의 합은 백팔십 도이므로 세 번째 각은 오십오 도입니다."
TEXTS = {
  "latin": ENGLISH,
  "chinese": CHINESE,
  "japanese": JAPANESE,
  "cyrillic": RUSSIAN,
  "hangul": KOREAN,
}


# ------------------------------------------------------------------------- counts
texts = st.text(st.sampled_from("ab 你の\n$x\\{}"), max_size=30)


@given(st.lists(st.tuples(texts, texts), max_size=20))
def test_by_default_everything_passes(pairs):
  examples = [example(i, *pair) for i, pair in enumerate(pairs)]
  passed, counts = keep(examples, FilterConfig(), pytest.fail)
  assert passed == examples
  assert counts["examples"] == counts["kept"] == len(pairs)
  assert not any(counts[reason] for reason in REASONS)


@given(st.lists(st.tuples(texts, texts), max_size=20))
def test_the_counts_add_up(pairs):
  config = FilterConfig(
    deduplicate=True,
    min_tokens=2,
    max_tokens=4,
    language=0.9,
    max_repetition=0.2,
    min_compression=0.5,
  )
  examples = [example(i, *pair) for i, pair in enumerate(pairs)]
  passed, counts = keep(examples, config, words)
  assert counts["kept"] == len(passed)
  assert counts["examples"] == len(pairs)
  assert sum(counts[r] for r in REASONS) + len(passed) == len(pairs)
  assert [e for e in examples if e in passed] == passed
  again, twice = keep(passed, config, words)
  assert again == passed and not any(twice[r] for r in REASONS)


def test_each_is_counted_under_what_objects_first():
  examples = [
    example(0),
    example(1),
    example(2, response="no"),
    example(3, response="six " * 9),
    example(4, response=CHINESE),
    example(5, response="wait, let me think again. " * 40),
  ]
  config = FilterConfig(
    deduplicate=True,
    min_tokens=1,
    language=0.8,
    max_repetition=0.5,
  )
  counted = lambda **kw: keep(
    examples, dataclasses.replace(config, **kw), words
  )[1]
  assert counted() == {
    "examples": 6,
    "duplicate": 1,
    "short": 0,
    "long": 0,
    "language": 1,
    "repetition": 1,
    "kept": 3,
  }
  long = counted(max_tokens=20)
  assert (long["long"], long["repetition"], long["kept"]) == (1, 0, 3)
  assert counted(min_tokens=2)["short"] == 4


# ----------------------------------------------------------------- deduplication
def test_duplicates_are_of_images_question_and_response():
  base = dict(question="Ask  me", response="ｔｅｌｌ You", images=("a.png",))
  examples = [
    example(0, **base),
    example(1, **{**base, "response": "tell  you\n"}),
    example(2, **{**base, "question": "ask me"}, weight=2.0),
    example(3, **{**base, "images": ("b.png",)}),
    example(4, **{**base, "question": "ask him"}),
    example(5, **{**base, "response": "tell him"}),
  ]
  assert kept(examples, deduplicate=True) == ["e0", "e3", "e4", "e5"]


def test_what_another_filter_leaves_out_is_no_first():
  examples = [example(0, response="Six"), example(1, response="six")]
  assert kept(examples, deduplicate=True) == ["e0"]
  assert kept(examples, deduplicate=True, min_tokens=2) == []


# ------------------------------------------------------------------------ lengths
def test_lengths_are_inclusive():
  examples = [example(i, response="w " * i) for i in range(1, 6)]
  assert kept(examples, min_tokens=2, max_tokens=4) == ["e2", "e3", "e4"]
  assert kept(examples, min_tokens=2) == ["e2", "e3", "e4", "e5"]


# ----------------------------------------------------------------------- language
@pytest.mark.parametrize("name", TEXTS)
def test_scripts_are_distinguished(name):
  found = scripts(TEXTS[name])
  assert max(found, key=found.get) == name
  for other, text in TEXTS.items():
    share = language_share(TEXTS[name], text)
    assert share > 0.95 if other == name else share < 0.05


def test_formulas_code_and_tags_belong_to_no_language():
  formulas = (
    "<think> $\\text{area} = \\frac{ab}{2}$, \\[ x = \\sin\\alpha \\] "
    "\\begin{align} y &= \\sqrt{z} \\end{align} `print(total)` "
    "```python\nfor item in items: total += item\n``` https://example.org/a "
    "</think>"
  )
  assert sum(scripts(formulas).values()) == 0
  assert language_share(CHINESE, CHINESE + formulas) == 1
  # Points, variables and units stand alone.
  assert language_share(CHINESE, CHINESE + " A B C x y, 5 m") == 1


def test_a_response_that_changes_its_language_is_found():
  mixed = ENGLISH + CHINESE
  assert 0.4 < language_share(ENGLISH, mixed) < 0.8
  examples = [example(0, ENGLISH, ENGLISH), example(1, ENGLISH, mixed)]
  assert kept(examples, language=0.9) == ["e0"]
  # A word or two of another is no change.
  assert language_share(ENGLISH, ENGLISH * 3 + " 你好") > 0.9


def test_too_little_text_is_not_judged():
  assert language_share("2 + 2 = ?", CHINESE) == 1
  assert language_share(CHINESE, "$x = 5$, \\boxed{12}") == 1
  assert language_share(CHINESE, "") == 1


# --------------------------------------------------------------------- repetition
def test_loops_are_found_and_prose_is_not():
  loop = "Wait, let me check the second angle once more. "
  for text in (ENGLISH, CHINESE, RUSSIAN):
    assert repetition(text) == 0
    assert compression(text) > 0.4
  assert repetition(loop * 30) > 0.9
  assert compression(loop * 200) < 0.05
  assert repetition("再检查一次。" * 50) > 0.9
  assert repetition("0" * 9 + " = x + " * 99) > 0.9
  # Prose that ends in a loop repeats as much as the loop takes.
  share = len(loop) * 30 / len(ENGLISH + loop * 30)
  assert repetition(ENGLISH + loop * 30) == pytest.approx(share, abs=0.07)


def test_a_loop_longer_than_a_deflate_window_is_found_too():
  long = " ".join(str(i * 7919 % 65537) for i in range(9000))
  assert len(long) > 1 << 15
  assert repetition(f"{long} {long}") == pytest.approx(0.5, abs=0.01)
  assert compression(long * 2) > 0.3


def covered(text):
  """The share by definition, run by run."""
  units = re.findall(r"\w+|[^\w\s]", text)
  seen, repeated = set(), set()
  for start in range(len(units) - RUN + 1):
    run = tuple(units[start : start + RUN])
    if run in seen:
      repeated.update(range(start, start + RUN))
    seen.add(run)
  return len(repeated) / max(len(units), 1)


@given(st.lists(st.sampled_from("ab."), max_size=120))
def test_repetition_by_definition(units):
  text = " ".join(units)
  assert repetition(text) == pytest.approx(covered(text))


@pytest.mark.parametrize(
  "piece", ["\\(", "```", "$$", "$", "`", "<a", "\\[", "a", "你", "\ud800"]
)
def test_a_long_text_of_anything_is_measured(piece):
  """In quadratic time this would not end."""
  text = piece * (200_000 // len(piece))
  # DEFLATE makes a thousandth of it, and all of it but the first run is a repeat.
  assert compression(text) < 0.01
  assert repetition(text) > 0.99 or len(re.findall(r"\w+", text)) == 1
  assert 0 <= language_share(ENGLISH, text) <= 1


@given(st.text(max_size=300))
def test_measures_are_shares(text):
  for value in (repetition(text), compression(text)):
    assert 0 <= value <= 1
  assert 0 <= language_share(text, text) <= 1


def test_both_count_as_repetition():
  looped = example(0, response="so it is and " * 300)
  for off, on in ((0, {}), (1, {"max_repetition": 0.5})):
    assert keep([looped], FilterConfig(**on), words)[1]["repetition"] == off
  counts = keep([looped], FilterConfig(min_compression=0.1), words)[1]
  assert counts["repetition"] == 1


@pytest.mark.parametrize(
  "values", [{"min_tokens": -1}, {"language": 90}, {"max_repetition": -0.1}]
)
def test_config_is_checked(values):
  with pytest.raises(ValueError, match=next(iter(values))):
    FilterConfig(**values)
