"""Every rule of extraction and comparison: golden.jsonl, one case a line.

{"type", "gold", "response", "status", "why", "choices"?, "tolerance"?,
"reason"?, "upstream"?}
"""

import collections
import json
from pathlib import Path

import pytest

from sophia_jax.rewards.pool import Verifier
from sophia_jax.types import ANSWER_TYPES, FinishReason, Problem, Status

LINES = Path(__file__).with_name("golden.jsonl").read_text(encoding="utf-8")
CASES = [json.loads(line) for line in LINES.splitlines()]


def item(case):
  problem = Problem(
    id="p",
    question="q",
    answer=case["gold"],
    answer_type=case["type"],
    choices=tuple(case.get("choices", ())),
    tolerance=tuple(case.get("tolerance", ())),
  )
  return case["response"], problem, FinishReason(case.get("reason", "stop"))


@pytest.fixture(scope="module")
def verdicts():
  """Returns the verdicts of all cases, in order: workers start once."""
  found = {}
  for upstream in (False, True):
    chosen = [
      i for i, c in enumerate(CASES) if c.get("upstream", False) is upstream
    ]
    with Verifier(timeout_s=3, upstream_compatible=upstream) as verifier:
      found |= zip(chosen, verifier.verify(item(CASES[i]) for i in chosen))
  return found


@pytest.mark.parametrize(
  "index", range(len(CASES)), ids=lambda i: f"{i + 1}-{CASES[i]['why'][:40]}"
)
def test_golden(verdicts, index):
  assert verdicts[index].status == CASES[index]["status"], CASES[index]


def test_the_table_covers_every_type_and_status():
  pairs = collections.Counter((c["type"], c["status"]) for c in CASES)
  for kind in ANSWER_TYPES:
    assert pairs[kind, "right"] and pairs[kind, "wrong"], kind
  assert {status for _, status in pairs} == {s.value for s in Status}
  assert len(CASES) >= 150
  assert all(case["why"] for case in CASES)
