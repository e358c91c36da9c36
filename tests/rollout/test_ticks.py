"""Who waits for whom: engines and verdicts that hang, fail or are slow."""

import dataclasses
import errno
import threading
import time
from contextlib import closing
from itertools import islice

import pytest

from sophia_jax import files
from sophia_jax.algorithms.sampling import attempts, described
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import ticks
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.types import SophiaError, Status
from tests.rollout import lives
from tests.rollout.lives import SIX, Scripted, Stepped, seats, words


@pytest.fixture
def scene(tmp_path):
  """scene(problems, recipe, **engines): the generator, on a new store."""
  with (
    Verifier(
      workers=2,
      timeout_s=3.0,
      comparer="tests.rewards.pool_comparers:naughty",
    ) as verifier,
    Store(tmp_path, lives.META) as store,
  ):

    def start(problems, recipe, ahead=256, **engines):
      start.world = World(store, seats(**engines), lives.Counted(), verifier)
      return collect(problems, recipe, start.world, ahead)

    start.store, start.verifier = store, verifier
    yield start


# ------------------------------------------------------------------ in parallel
def test_engines_of_different_roles_tick_side_by_side(scene):
  """Each ticks only while the other one does."""
  both = threading.Barrier(2, timeout=30)

  class Meeting(Stepped):
    def tick(self):
      both.wait()
      return super().tick()

  easy, hard = Meeting(), Meeting()
  problems = words(2) + words(2, difficulty="hard")
  problems = [
    p if p.difficulty == "easy" else dataclasses.replace(p, id=f"h{p.id}")
    for p in problems
  ]
  recipe = described(1, 2)
  groups = scene(
    problems, recipe, caption=Stepped(), reasoner={"easy": easy, "hard": hard}
  )
  assert len(list(groups)) == 4
  assert easy.ticks == [["w0/0/0", "w0/0/1", "w1/0/0", "w1/0/1"]]


def test_a_slow_problem_holds_up_no_other(scene):
  """w0's first caption is answered after everything else."""
  rest = threading.Semaphore(0)

  def describe(name):
    if name == "w0/0":
      for _ in range(3 * 2 * 3 - 3):
        assert rest.acquire(timeout=30)
    return "red"

  def think(name):
    rest.release()
    return SIX

  engines = {"caption": Scripted(describe), "reasoner": Scripted(think)}
  groups = list(scene(words(3), described(2, 3), **engines))
  assert [g.problem.id for g in groups] == ["w0", "w1", "w2"]
  last = engines["reasoner"].asked[-3:]
  assert {name.rpartition("/")[0] for name in last} == {"w0/0"}


def test_little_is_in_flight_and_new_problems_start_together(scene):
  drawn, engine = [], Stepped()

  def problems():
    for problem in words(1000):
      drawn.append(problem.id)
      yield problem

  with closing(scene(problems(), attempts(2), 10, policy=engine)) as groups:
    assert len(list(islice(groups, 30))) == 30
  assert len(drawn) <= 30 + 40
  assert [len(asked) for asked in engine.ticks[:2]] == [20, 20]


# --------------------------------------------------------------------- verdicts
def formula(name):
  return "\\boxed{\\hang}" if name == "w0/0:policy" else SIX


def test_a_formula_that_hangs_holds_up_no_server(scene):
  engine, problems = Scripted(formula), words(40, answer_type="math")
  groups = list(scene(problems, attempts(3), policy=engine))
  statuses = [r.verdict.status for g in groups for r in g.rollouts]
  assert statuses == [Status.TIMED_OUT] + [Status.RIGHT] * 119
  assert scene.store.index.statuses[Status.TIMED_OUT] == 1


def test_what_an_embedded_engine_is_asked_does_not_depend_on_verdicts(
  tmp_path,
):
  """However long they take: what follows a grade is asked at the same tick."""

  async def twice(world, problem):
    await attempts(1)(world, problem)
    prompt = world.prompt("policy", problem)
    said = await world.ask("policy", problem, (9,), prompt)
    await world.grade(problem, (9,), said)
    return await attempts(1)(world, problem)

  found = []
  for name, answer in (("slow", formula), ("quick", lambda name: SIX)):
    engine = Stepped(answer)
    with (
      Verifier(
        workers=2,
        timeout_s=1.0,
        comparer="tests.rewards.pool_comparers:naughty",
      ) as verifier,
      Store(tmp_path / name, lives.META) as store,
    ):
      world = World(store, seats(policy=engine), lives.Counted(), verifier)
      problems = words(12, answer_type="math")
      assert len(list(collect(problems, twice, world, 4))) == 12
    found.append(engine.ticks)
  assert found[0] == found[1]


# ----------------------------------------------------------------------- errors
def failing(at):
  def answer(name):
    if name == at:
      raise SophiaError(f"cannot do {name}")
    return SIX

  return answer


@pytest.mark.parametrize("kind", [Scripted, Stepped])
@pytest.mark.parametrize(
  ("role", "at"), [("caption", "w3/1"), ("reasoner", "w2/0/1")]
)
def test_an_engine_s_error_is_the_run_s(scene, kind, role, at):
  engines = {"caption": kind(), "reasoner": kind()}
  engines[role] = kind(failing(at))
  with pytest.raises(SophiaError, match=f"cannot do {at}"):
    list(scene(words(5), described(2, 3), **engines))
  assert lives.no_thread_is_left()


@pytest.mark.parametrize("kind", [Scripted, Stepped])
def test_a_verifier_that_does_not_work(scene, kind):
  scene.verifier.close()
  engine = kind(lambda name: "\\boxed{\\frac{12}{2}}")
  with pytest.raises(SophiaError, match="closed"):
    list(scene(words(3, "math"), attempts(2), policy=engine))
  assert lives.no_thread_is_left()


def test_a_store_that_is_full(scene, monkeypatch):
  def full(_, line):
    raise OSError(errno.ENOSPC, "No space left on device")

  groups = scene(words(50), attempts(2), 4, policy=Stepped())
  next(groups)
  monkeypatch.setattr(files.os, "write", full)
  with pytest.raises(SophiaError, match="No space left on device; free"):
    list(groups)
  monkeypatch.undo()
  assert lives.no_thread_is_left()


def test_a_mistake_in_the_problems(scene):
  def problems():
    yield from words(7)
    raise SophiaError("problems.jsonl:8: not JSON")

  with pytest.raises(SophiaError, match=r"jsonl:8"):
    list(scene(problems(), attempts(2), 4, policy=Stepped()))


# ----------------------------------------------------------------- an early end
@pytest.mark.parametrize("kind", [Scripted, Stepped])
def test_an_early_end_drops_what_is_in_flight(scene, kind):
  engine = kind()
  groups = scene(words(1000), attempts(3), 8, policy=engine)
  assert len(list(islice(groups, 20))) == 20
  groups.close()
  assert lives.no_thread_is_left()
  assert scene.store.index.answers < 400
  if kind is Stepped:
    assert not engine.inbox


@pytest.mark.parametrize("kind", [Scripted, Stepped])
def test_stopping_from_outside(scene, kind):
  """As SIGTERM does: what has finished is stored, then its error is raised."""
  engine = kind(lambda name: (time.sleep(0.001), SIX)[1])
  groups = scene(words(5000), attempts(3), 8, policy=engine)
  next(groups)
  timer = threading.Timer(0.2, scene.world.stop, [SophiaError("enough")])
  timer.start()
  with pytest.raises(SophiaError, match="enough"):
    list(groups)
  assert lives.no_thread_is_left()
  assert 0 < scene.store.index.answers < 15000


def test_an_engine_that_hangs_is_left_behind(scene, monkeypatch):
  monkeypatch.setattr(ticks, "GRACE_S", 0.3)
  wake = threading.Event()

  class Stuck(Stepped):
    def tick(self):
      wake.wait(30)
      return super().tick()

    def clear(self):
      raise AssertionError("it holds its lock")

  groups = scene(words(3), attempts(2), policy=Stuck())
  timer = threading.Timer(0.1, lambda: scene.world.stop(SophiaError("end")))
  timer.start()
  start = time.monotonic()
  with pytest.raises(SophiaError, match="end"):
    next(groups)
  assert time.monotonic() - start < 10
  wake.set()
  assert lives.no_thread_is_left()


def test_a_server_that_hangs_is_left_behind(scene, monkeypatch):
  monkeypatch.setattr(ticks, "GRACE_S", 0.3)
  wake = threading.Event()
  engine = Scripted(lambda name: (wake.wait(30), SIX)[1])
  groups = scene(words(3), attempts(2), policy=engine)
  timer = threading.Timer(0.1, lambda: scene.world.stop(SophiaError("end")))
  timer.start()
  start = time.monotonic()
  with pytest.raises(SophiaError, match="end"):
    next(groups)
  assert time.monotonic() - start < 10
  wake.set()
