"""Evaluation sets are recognised by name, AIME 2024 also by text."""

import pytest

from sophia_jax.datasets.sources import (
  evaluation_source,
  is_aime_2024,
  refuse_evaluation,
)
from sophia_jax.types import Example, Problem, SophiaError


def problem(**changes):
  return Problem(**{"id": "1", "question": "Q", "answer": "A", **changes})


@pytest.mark.parametrize(
  ("record", "source"),
  [
    (problem(), None),
    (problem(source="mathv360k", id="mathv360k/3"), None),
    (problem(source="mathvision"), "mathvision"),
    (problem(source="MMMU-Pro"), "mmmu_pro"),
    (problem(id="mv_math/17"), "mv_math"),
    (problem(id="mmmu"), None),
    (Example(id="dynamath/t/1", question="Q", response="R"), "dynamath"),
    (Example(id="internvl/mmmu/1", question="Q", response="R"), None),
    (problem(question="Among the $900$ residents of Aimeville,"), "aime_2024"),
  ],
)
def test_what_a_record_is_of(record, source):
  assert evaluation_source(record) == source


def test_the_refusal_counts_and_names():
  right = [problem(), Example(id="2", question="Q", response="R")]
  refuse_evaluation(right)
  wrong = [
    problem(id="mmmu/1"),
    problem(source="mmmu"),
    problem(id="dynamath/"),
  ]
  with pytest.raises(SophiaError) as e:
    refuse_evaluation([*right, *wrong], "p.jsonl")
  assert str(e.value) == (
    "p.jsonl: evaluation sets may not be trained on, and here are 2 of MMMU, "
    "1 of DynaMath (the first is 'mmmu/1'); remove them from the file"
  )


@pytest.mark.parametrize(
  "question",
  [
    r"There exist real numbers $x$ and $y$, both greater than 1, such that "
    r"$\log_x\left(y^x\right)=\log_y\left(x^{4y}\right)=10$. Find $xy$.",
    r"Find the largest possible real part of \[(75+117i)z+\frac{96+144i}{z}\]",
    r"Then the value of $\left|\log_2(x^4y^3z^2)\right|$ is $\tfrac{m}{n}$",
    r"$n$ $b$-\textit{eautiful} if it has exactly two digits when expressed "
    r"in base $b$",
    r"\(a + b + c = 300\) and $a^2b+a^2c+b^2a+b^2c+c^2a+c^2b = 6{,}000{,}000$",
    r"Let $ABCD$ be a tetrahedron such that $AB = CD = \sqrt{41}$",
  ],
)
def test_aime_2024_in_any_typesetting(question):
  assert is_aime_2024(question)


@pytest.mark.parametrize(
  "question",
  [
    "Find the number of ordered pairs (x,y) with log_x(y^x)=10.",
    "Each vertex of a regular octagon is colored red.",
    "Let ABC be a triangle with circumradius 13 and inradius 5.",
    "A list of positive integers has the unique mode 9.",
    "",
  ],
)
def test_other_problems_are_not(question):
  assert not is_aime_2024(question)
