"""Answers with known verdicts, which `Verifier.self_check` demands."""

from __future__ import annotations

KNOWN_ANSWERS: tuple[tuple[str, tuple[str, ...], str, str, str], ...] = (
  ("number", (), "1250", "1,250.0", "right"),
  ("number", (), "0.5", r"\frac{1}{2}", "right"),
  ("number", (), "6", "7", "wrong"),
  ("number", (), "6", "nan", "unparseable"),
  ("choice", ("red", "blue"), "B", "(B)", "right"),
  ("choice", ("red", "blue"), "B", "blue", "right"),
  ("choice", ("red", "blue"), "B", "A", "wrong"),
  ("list", (), "1, 2, 3", "[1, 2.0, 3]", "right"),
  ("list", (), "1, 2, 3", "1, 3, 2", "wrong"),
  ("string", (), "New York", r"\text{new york}", "right"),
  ("string", (), "New York", "York", "wrong"),
  ("math", (), r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", "right"),
  ("math", (), "x^2+2x+1", "(x+1)^2", "right"),
  ("math", (), "x^2+2x+1", "(x-1)^2", "wrong"),
  ("math", (), "9", "9^{9^{9^{9}}}", "unparseable"),
  ("olympiad", (), "x^2+y^2=1", "2x^2 = 2-2y^2", "right"),
  ("olympiad", (), "(2,1), [3,4]", "[3, 4.0], (2,1)", "right"),
  ("olympiad", (), "(2,1), [3,4]", "(3,4), (2,1)", "wrong"),
  ("olympiad", (), "50", "0.5", "wrong"),
  ("auto", (), "42", "42", "right"),
  ("auto", (), "4", r"\sqrt{16}", "right"),
  ("auto", (), "4", r"\sqrt{17}", "wrong"),
  ("auto", ("red", "blue"), "A", "red", "right"),
  ("auto", (), "isosceles", "Isosceles", "right"),
  ("auto", (), "isosceles", "scalene", "wrong"),
)
