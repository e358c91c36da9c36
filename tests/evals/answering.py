"""Problems and grades made by hand."""

from sophia_jax.evals.benchmarks.base import Grade, Scored
from sophia_jax.evals.evaluate import grade_each
from sophia_jax.types import FinishReason, Problem, Status


def problem(name="1", answer="6", **fields):
  return Problem(id=name, question="?", answer=answer, **fields)


def scored(name, rights, **fields):
  """rights: "10": the first sample is right, the second is wrong."""
  outcomes = {"1": Status.RIGHT, "0": Status.WRONG}
  return Scored(
    problem=problem(name, **fields),
    grades=tuple(Grade(status=outcomes[right]) for right in rights),
  )


def statuses(rule, answered):
  """Returns the status of each (problem, response) by a rule."""
  answered = ((asked, text, FinishReason.STOP) for asked, text in answered)
  with rule.verifier(workers=1, timeout_s=30.0) as verifier:
    return [
      grade.status.value for grade in grade_each(answered, rule, verifier)
    ]
