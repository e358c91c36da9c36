"""Answers as people write them, one a line of two files.

cases.jsonl: {"type", "gold", "response", "expected", "what", "choices"?};
kinds.jsonl has more of each kind, without "what". "not right" where wrong and
unparseable are both fine.
"""

import json
from pathlib import Path

import pytest

from sophia_jax.rewards.pool import Verifier
from sophia_jax.types import FinishReason, Problem, Status

FILES = [
  Path(__file__).with_name(name) for name in ("cases.jsonl", "kinds.jsonl")
]
CASES = [
  json.loads(line)
  for file in FILES
  for line in file.read_text(encoding="utf-8").splitlines()
]


@pytest.fixture(scope="module")
def verdicts():
  """Returns the verdicts of all cases, in order: workers start once."""
  items = [
    (
      case["response"],
      Problem(
        id=str(i),
        question="q",
        answer=case["gold"],
        answer_type=case["type"],
        choices=tuple(case.get("choices", ())),
      ),
      FinishReason.STOP,
    )
    for i, case in enumerate(CASES)
  ]
  with Verifier() as verifier:
    return verifier.verify(items)


@pytest.mark.parametrize(
  "index",
  range(len(CASES)),
  ids=lambda i: f"{i + 1}-{CASES[i].get('what', CASES[i]['gold'])[:40]}",
)
def test_case(verdicts, index):
  case, status = CASES[index], verdicts[index].status
  if case["expected"] == "right":
    assert status is Status.RIGHT, case
  else:
    assert status in (Status.WRONG, Status.UNPARSEABLE), case
