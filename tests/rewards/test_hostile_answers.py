"""Hostile answers: nothing is run, nothing hangs, each gets a status."""

import itertools
import time
from pathlib import Path

import pytest
from hostile import CANARY, GOLDS, HAND_MADE, made

from sophia_jax.rewards.extract import ANSWER_CHARS
from sophia_jax.rewards.pool import Verifier
from sophia_jax.types import ANSWER_TYPES, FinishReason, Problem, Status

MEMORY_MB = 512
TIMEOUT_S = 1.0


def problem(gold, kind):
  choices = ("red", "blue", "5") if kind == "choice" else ()
  return Problem(
    id=gold, question="q", answer=gold, answer_type=kind, choices=choices
  )


def memory_mb(pid):
  """Returns the peak memory of a process, MiB."""
  status = Path(f"/proc/{pid}/status").read_text()
  return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def workers_of(verifier):
  return {worker.process.pid for worker in verifier._pool._workers}


@pytest.fixture
def here(tmp_path, monkeypatch):
  """Starts workers in an empty directory."""
  monkeypatch.chdir(tmp_path)
  return tmp_path


def check(items, here, capfd, **arguments):
  """Verifies all items and checks that nothing else has happened."""
  items = list(items)
  before = {worker for worker in here.iterdir()}
  with Verifier(timeout_s=TIMEOUT_S, memory_mb=MEMORY_MB, **arguments) as v:
    verdicts = v.verify(items)
    # What the imports need, and the limit.
    assert all(memory_mb(pid) < MEMORY_MB + 300 for pid in workers_of(v))
    slowest = max(s.seconds for s in v.report().slowest)
  assert len(verdicts) == len(items)
  assert all(isinstance(verdict.status, Status) for verdict in verdicts)
  assert max(len(verdict.extracted) for verdict in verdicts) <= ANSWER_CHARS
  # A worker that was killed late was waited for, not missed.
  assert slowest < 20 * TIMEOUT_S
  assert set(here.iterdir()) == before
  assert not (here / CANARY).exists()
  assert "refused to" not in capfd.readouterr().err
  return verdicts


def test_there_are_enough():
  assert len(set(HAND_MADE)) >= 200
  assert len(set(made(2000))) > 1900


@pytest.mark.parametrize("upstream", [False, True])
def test_hand_made(here, capfd, upstream):
  kinds = itertools.cycle(("olympiad",) if upstream else ANSWER_TYPES)
  texts = HAND_MADE[:: 4 if upstream else 1]
  items = [
    (text, problem(gold, kind), FinishReason.STOP)
    for text, gold, kind in zip(texts, itertools.cycle(GOLDS), kinds)
  ]
  check(items, here, capfd, upstream_compatible=upstream)


@pytest.mark.parametrize(
  "count, seed", [(2_000, 0), pytest.param(20_000, 1, marks=pytest.mark.slow)]
)
def test_made(here, capfd, count, seed):
  kinds = itertools.cycle(ANSWER_TYPES)
  items = [
    (text, problem(gold, kind), FinishReason.STOP)
    for kind, (gold, text) in zip(kinds, made(count, seed), strict=False)
  ]
  verdicts = check(items, here, capfd)
  assert {v.status for v in verdicts} >= {
    Status.RIGHT,
    Status.WRONG,
    Status.UNPARSEABLE,
  }


def test_a_library_that_evaluates_has_no_effect(here, capfd):
  """Checks the last defence, with a comparer that runs its input."""
  spells = [
    f"__import__('os').mkdir('{CANARY}')",
    f"open('{CANARY}', 'w')",
    f"__import__('os').open('{CANARY}', 65)",
    f"__import__('subprocess').run(['touch', '{CANARY}'])",
    f"__import__('os').system('touch {CANARY}')",
    "__import__('socket').create_connection(('localhost', 1))",
  ]
  items = [
    ("\\boxed{x}", problem(spell, "olympiad"), FinishReason.STOP)
    for spell in (*spells, "'right'")
  ]
  # The one judge whose gold answers are not bounded: they reach the workers.
  judge = {"comparer": "pool_comparers:evaluates", "upstream_compatible": True}
  with Verifier(**judge) as verifier:
    verdicts = verifier.verify(items)
  assert [v.status for v in verdicts] == [Status.TIMED_OUT] * 6 + [Status.RIGHT]
  assert not list(here.iterdir())
  assert capfd.readouterr().err.count("refused to") == 6


def test_time_does_not_grow_with_a_megabyte():
  item = (
    "So " * 400_000 + "\\boxed{5}",
    problem("5", "number"),
    FinishReason.STOP,
  )
  with Verifier() as verifier:
    start = time.perf_counter()
    assert verifier.verify([item] * 50)[0].status is Status.RIGHT
    # 50 ms here; the whole text is never scanned by a pattern.
    assert time.perf_counter() - start < 10
