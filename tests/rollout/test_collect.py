"""Collecting: whatever happens, every trajectory is sampled once and the same."""

import dataclasses
import errno
import queue
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pytest

from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.records import Reasoning
from sophia_jax.rollout.requests import (
  Asking,
  caption_request,
  reasoning_request,
  seed_of,
)
from sophia_jax.rollout.store import Store
from sophia_jax.types import (
  Caption,
  Chat,
  Completion,
  FinishReason,
  Problem,
  Role,
  Sampling,
  SophiaError,
  Status,
  Trajectory,
)
from tests.rollout import little

META = {"K": 2, "N": 3}


class Recorded:
  """An engine, and the ids of what it was asked."""

  def __init__(self, engine):
    self.engine, self.asked = engine, []

  def generate(self, requests):
    def noted():
      for request in requests:
        self.asked.append(request.id)
        yield request

    yield from self.engine.generate(noted())


class Unsteady(Recorded):
  """One that is now quick and now slow."""

  def __init__(self, engine, seed):
    super().__init__(engine)
    self.rng = random.Random(seed)

  def generate(self, requests):
    for completion in super().generate(requests):
      time.sleep(self.rng.choice([0, 0, 0.01, 0.03]))
      yield completion


class World:
  def __init__(self, directory):
    policy = little.renderer(str(directory / "policy"), True)
    reasoner = little.renderer(str(directory / "reasoner"), False)
    config = dataclasses.replace(little.ENGINE, length=160)
    self.policy = little.engine(little.model(policy), policy, config=config)
    self.reasoner = little.engine(
      little.model(reasoner), reasoner, config=config
    )
    self.asking = Asking(
      policy=policy,
      caption="What do you see",
      reason=lambda question, caption: f"{caption}\n{question}",
      captioning=Sampling(max_new_tokens=6),
      reasoning=Sampling(temperature=0.8, max_new_tokens=9),
      seed=5,
    )
    self.problems = [
      Problem(
        id=f"p/{i}",
        question=f"Is it red{'?' * i}",
        answer="6",
        answer_type="number",
        images=(path,),
        difficulty=("easy", "hard")[i == 1],
      )
      for i, path in enumerate(little.pictures(directory))
    ]

  def collect(self, store, verifier, policy=None, **reasoners):
    return collect(
      self.problems,
      policy or self.policy,
      {"easy": self.reasoner, "hard": self.reasoner} | reasoners,
      self.asking,
      verifier,
      store,
    )

  def life(self, directory, stop=None, policy=None):
    """Collects until `stop` records; (yielded, asked, store) of this life."""
    policy = policy or Recorded(self.policy)
    reasoner = Recorded(self.reasoner)
    with Verifier(workers=1) as verifier, Store(directory, META) as store:
      generator = self.collect(
        store, verifier, policy, easy=reasoner, hard=reasoner
      )
      yielded = list(islice(generator, stop))
      generator.close()
    return yielded, (policy.asked, reasoner.asked), store


@pytest.fixture(scope="module")
def world(tmp_path_factory, quick_to_compile):
  return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
  return world.life(tmp_path_factory.mktemp("undisturbed"))


def every_key(world):
  return {
    (p.id, k, n)
    for p in world.problems
    for k in range(META["K"])
    for n in range(META["N"])
  }


def test_everything_is_sampled_once(world, undisturbed):
  yielded, (captions, trajectories), store = undisturbed
  found = [r for r in yielded if isinstance(r, Trajectory)]
  keys = [(t.problem_id, t.k, t.n) for t in found]
  assert len(keys) == len(set(keys)) and set(keys) == every_key(world)
  assert dict(zip(keys, found)) == store.trajectories
  described = [r for r in yielded if isinstance(r, Caption)]
  assert {(c.problem_id, c.k): c for c in described} == store.captions
  assert len(yielded) == store.position == len(found) + len(described)
  assert sorted(captions) == sorted({f"{p}/{k}" for p, k, _ in keys})
  assert sorted(trajectories) == sorted(f"{p}/{k}/{n}" for p, k, n in keys)
  texts = {t.completion.text for t in found}
  assert len(texts) == len(found), "each has a seed of its own"


def test_what_is_stored_is_what_was_said(world, undisturbed):
  _, _, store = undisturbed
  words = world.asking.policy
  for t in store.trajectories.values():
    assert t.length == words.count(t.completion.text)
    cut = t.completion.finish_reason is FinishReason.LENGTH
    assert t.verdict.status is (Status.TRUNCATED if cut else Status.UNPARSEABLE)
    assert t.completion.request_id == t.id
  # Prompts of the reasoner hold the caption that is stored.
  easy = world.problems[0]
  caption = store.captions[easy.id, 1]
  request = reasoning_request(world.asking, easy, caption, 2)
  assert caption.completion.text in request.prompt.text
  assert easy.question in request.prompt.text


def test_what_comes_out_does_not_depend_on_how_fast_anything_is(
  world, undisturbed, tmp_path
):
  """To the last bit: the same requests are decoded together."""
  _, _, want = undisturbed
  for seed in (0, 1):
    policy = Unsteady(world.policy, seed)
    *_, store = world.life(tmp_path / str(seed), policy=policy)
    assert store.captions == want.captions
    assert store.trajectories == want.trajectories


def assert_same_records(found, want):
  """The same but for the last bits of log-probabilities."""
  assert found.keys() == want.keys()
  for key, record in found.items():
    logps, other = record.completion.logps, want[key].completion.logps
    np.testing.assert_allclose(logps, other, atol=1e-5)
    completion = dataclasses.replace(record.completion, logps=other)
    assert dataclasses.replace(record, completion=completion) == want[key]


@pytest.mark.parametrize("stop", [0, 1, 4, 11, 23])
def test_a_killed_life_is_gone_on_with(world, undisturbed, tmp_path, stop):
  first, _, store = world.life(tmp_path, stop)
  assert len(first) == stop
  before = Store(tmp_path, read_only=True)
  for record in first:
    known = before.captions if isinstance(record, Caption) else None
    key = (record.problem_id, record.k)
    if known is None:
      known, key = before.trajectories, (*key, record.n)
    assert known[key] == record
  assert stop or not before.position
  _, (captions, trajectories), store = world.life(tmp_path)
  # Nothing is asked that was there, verified or not, and nothing twice.
  assert sorted(trajectories) == sorted(
    f"{p}/{k}/{n}" for p, k, n in every_key(world) if not before.holds(p, k, n)
  )
  assert sorted(captions) == sorted(
    {f"{p}/{k}" for p, k, _ in every_key(world) if not before.holds(p, k)}
  )
  # And it comes out as if it had never been killed.
  _, _, want = undisturbed
  assert_same_records(store.captions, want.captions)
  assert_same_records(store.trajectories, want.trajectories)
  # A third life has nothing to do.
  assert world.life(tmp_path)[:2] == ([], ([], []))


def test_a_difficulty_without_a_reasoner(world, tmp_path):
  policy = Recorded(world.policy)
  reasoners = {"easy": world.reasoner}
  with Verifier(workers=1) as verifier, Store(tmp_path, META) as store:
    with pytest.raises(SophiaError) as error:
      next(
        collect(
          world.problems, policy, reasoners, world.asking, verifier, store
        )
      )
    assert not store.captions and not policy.asked
  assert str(error.value) == (
    "problem p/1: difficulty 'hard' names no reasoner; config.reasoners has "
    "easy"
  )


# -------------------------------------------- who waits for whom: scripted engines
class Scripted:
  """Answers what `answer` makes of the request's id, some at the same time.

  It draws like a server's client: never more than `capacity` at once, in a
  thread of its own.
  """

  def __init__(self, answer, capacity=4):
    self.answer, self.capacity, self.asked = answer, capacity, []

  def generate(self, requests):
    finished, room = queue.SimpleQueue(), threading.Semaphore(self.capacity)
    closed = threading.Event()

    def draw():
      drawn = 0
      for request in requests:
        room.acquire()
        if closed.is_set():
          break
        self.asked.append(request.id)
        pool.submit(self._one, request).add_done_callback(finished.put)
        drawn += 1
      return drawn

    pool = ThreadPoolExecutor(self.capacity + 1)
    drawing, yielded = pool.submit(draw), 0
    drawing.add_done_callback(finished.put)
    try:
      while not drawing.done() or yielded < drawing.result():
        future = finished.get()
        if future is not drawing:
          yielded += 1
          room.release()
          yield future.result()
    finally:
      closed.set()
      room.release()
      pool.shutdown(wait=False)

  def _one(self, request):
    return Completion(
      request_id=request.id,
      text=self.answer(request.id),
      token_ids=(1,),
      logps=None,
      finish_reason=FinishReason.STOP,
    )


SIX = "\\boxed{6}"


def words(count, difficulty="easy", answer_type="number"):
  return [
    Problem(
      id=f"w{i}",
      question="?",
      answer="6",
      answer_type=answer_type,
      difficulty=difficulty,
    )
    for i in range(count)
  ]


@pytest.fixture
def scene(world, tmp_path):
  """scene(problems, policy, reasoners): a generator, on a store of META."""
  with (
    Verifier(
      workers=2,
      timeout_s=3.0,
      comparer="tests.rewards.pool_comparers:naughty",
    ) as verifier,
    Store(tmp_path, META) as store,
  ):

    def start(problems, policy, reasoners):
      return collect(problems, policy, reasoners, world.asking, verifier, store)

    start.store, start.verifier = store, verifier
    yield start


def test_reasoners_work_at_the_same_time(scene):
  """Each answers only while the other one is asked as well."""
  both = threading.Barrier(2, timeout=30)
  meeting = Scripted(lambda _: (both.wait(), SIX)[1], capacity=1)
  again = Scripted(lambda _: (both.wait(), SIX)[1], capacity=1)
  problems = words(3, "easy") + [
    dataclasses.replace(p, id=f"h{p.id}") for p in words(3, "hard")
  ]
  policy = Scripted(lambda _: "red")
  found = list(scene(problems, policy, {"easy": meeting, "hard": again}))
  assert len(found) == 6 * (2 + 6)
  assert all(i.startswith("w") for i in meeting.asked)
  assert all(i.startswith("hw") for i in again.asked)


def test_a_caption_that_takes_long_holds_up_nobody(scene):
  """w0/0 is not described before everything else is thought about."""
  rest = threading.Semaphore(0)

  def describe(name):
    if name == "w0/0":
      for _ in range(3 * 2 * 3 - 3):
        assert rest.acquire(timeout=30)
    return "red"

  def think(name):
    rest.release()
    return SIX

  found = list(
    scene(words(3), Scripted(describe, 2), {"easy": Scripted(think)})
  )
  last = [t.id for t in found if isinstance(t, Trajectory)][-3:]
  assert {i.rpartition("/")[0] for i in last} == {"w0/0"}


def test_a_text_is_stored_at_once_and_little_is_held(
  scene, tmp_path, monkeypatch
):
  """Captions are not kept waiting for a reasoner, nor written without end."""
  monkeypatch.setattr("sophia_jax.rollout.collect.AHEAD", 10)
  go, drawn = threading.Event(), []

  class Problems:
    def __iter__(self):
      for problem in words(1000):
        if threading.current_thread() is not threading.main_thread():
          drawn.append(problem)
        yield problem

  def think(_):
    assert go.wait(30)
    return SIX

  policy, reasoner = Scripted(lambda _: "red"), Scripted(think)
  records = scene(Problems(), policy, {"easy": reasoner})
  next(records)
  deadline = time.monotonic() + 20
  # 2 captions with the reasoner, 10 ahead, and what was begun before that.
  while len(scene.store.captions) < 12 and time.monotonic() < deadline:
    time.sleep(0.01)
  time.sleep(0.2)
  assert 12 <= len(scene.store.captions) == len(policy.asked) <= 12 + 4 + 1
  assert len(drawn) <= 12
  assert Store(tmp_path, read_only=True).captions == scene.store.captions
  go.set()
  records.close()


def test_a_formula_that_hangs_holds_up_nobody(scene):
  """The first answer of all hangs; its verdict is the last."""
  problems = words(40, answer_type="math")
  think = lambda name: "\\boxed{\\hang}" if name == "w0/0/0" else SIX
  *rest, last = (
    t
    for t in scene(
      problems, Scripted(lambda _: "red"), {"easy": Scripted(think)}
    )
    if isinstance(t, Trajectory)
  )
  assert (last.id, last.verdict.status) == ("w0/0/0", Status.TIMED_OUT)
  assert len(rest) == 239
  assert {t.verdict.status for t in rest} == {Status.RIGHT}


def test_what_was_not_verified_is_verified_and_not_asked_again(
  scene, world, tmp_path
):
  problem = words(1)[0]
  for k in range(2):
    for n in range(3):
      completion = Completion(
        request_id=f"w0/{k}/{n}",
        text=SIX,
        token_ids=(1,),
        logps=None,
        finish_reason=FinishReason.STOP,
      )
      scene.store.append(
        Caption(problem_id="w0", k=k, completion=completion),
        Reasoning(problem_id="w0", k=k, n=n, completion=completion, length=1),
      )
  engine = Scripted(lambda _: SIX)
  found = list(scene([problem], engine, {"easy": engine}))
  assert len(found) == 6 and all(t.reward == 1 for t in found)
  assert not engine.asked
  assert len(list(scene.store.groups([problem]))) == 1


# ------------------------------------------------------------------------- errors
def failing(at):
  def answer(name):
    if name == at:
      raise SophiaError(f"cannot do {name}")
    return SIX

  return Scripted(answer)


def fine():
  return Scripted(lambda _: SIX)


@pytest.mark.parametrize(
  ("policy", "easy", "hard", "said"),
  [
    (failing("w3/1"), fine(), fine(), "cannot do w3/1"),
    (fine(), failing("w2/0/1"), fine(), "cannot do w2/0/1"),
    (fine(), fine(), failing("hw0/1/2"), "cannot do hw0/1/2"),
  ],
  ids=["policy", "easy", "hard"],
)
def test_an_engine_s_error_is_the_run_s(scene, policy, easy, hard, said):
  problems = words(5) + [
    dataclasses.replace(p, id=f"h{p.id}") for p in words(5, "hard")
  ]
  with pytest.raises(SophiaError, match=said):
    list(scene(problems, policy, {"easy": easy, "hard": hard}))
  assert_no_thread_is_left()


def test_a_request_that_cannot_be_made(world, tmp_path):
  """A picture went away: the embedded engine's own error, and no deadlock."""
  gone = dataclasses.replace(world.problems[0], images=("/nowhere/1.png",))
  with (
    Verifier(workers=1) as verifier,
    Store(tmp_path, META) as store,
    pytest.raises(SophiaError, match=r"/nowhere/1\.png"),
  ):
    list(
      collect(
        [gone],
        world.policy,
        {"easy": world.reasoner},
        world.asking,
        verifier,
        store,
      )
    )
  assert_no_thread_is_left()


def test_a_verifier_that_does_not_work(scene):
  scene.verifier.close()
  formula = Scripted(lambda _: "\\boxed{\\frac{12}{2}}")
  problems = words(3, answer_type="math")
  with pytest.raises(SophiaError, match="closed"):
    list(scene(problems, fine(), {"easy": formula}))
  assert_no_thread_is_left()


def test_a_store_that_is_full(scene, monkeypatch):
  def full(_, line):
    raise OSError(errno.ENOSPC, "No space left on device")

  records = scene(words(50), fine(), {"easy": fine()})
  next(records)
  monkeypatch.setattr("sophia_jax.rollout.store.os.write", full)
  with pytest.raises(SophiaError, match="No space left on device; free"):
    list(records)
  monkeypatch.undo()
  assert_no_thread_is_left()


def test_an_early_end_ends_every_thread(scene):
  records = scene(words(1000), fine(), {"easy": fine()})
  for _ in islice(records, 20):
    pass
  records.close()
  assert_no_thread_is_left()
  assert scene.store.position < 1000


def test_an_engine_that_hangs_is_left_behind(scene, monkeypatch):
  monkeypatch.setattr("sophia_jax.rollout.collect.GRACE_S", 0.3)
  wake = threading.Event()
  stuck = Scripted(lambda _: (wake.wait(30), SIX)[1])
  records = scene(words(3), fine(), {"easy": stuck})
  next(records)
  start = time.monotonic()
  records.close()
  assert time.monotonic() - start < 10
  wake.set()
  assert_no_thread_is_left()


def assert_no_thread_is_left():
  deadline = time.monotonic() + 20
  while left := [t for t in threading.enumerate() if "sample-" in t.name]:
    assert time.monotonic() < deadline, left
    time.sleep(0.01)


# ---------------------------------------------------------------------- requests
def test_a_caption_cannot_know_the_question(world):
  problem = world.problems[0]
  other = dataclasses.replace(problem, question="How blue?", choices=("a", "b"))
  one, two = (caption_request(world.asking, p, 0) for p in (problem, other))
  assert one.prompt.token_ids.tolist() == two.prompt.token_ids.tolist()
  assert one.prompt.images == problem.images
  assert (one.prompt.roles == Role.IMAGE).sum() == 4
  assert one.sampling == two.sampling


def test_a_reasoner_never_sees_the_image(world, undisturbed):
  _, _, store = undisturbed
  problem = world.problems[0]
  caption = store.captions[problem.id, 0]
  request = reasoning_request(world.asking, problem, caption, 0)
  assert isinstance(request.prompt, Chat)


def test_seeds_are_of_the_request_alone():
  assert seed_of(0, "a/1") == seed_of(0, "a/1")
  seeds = {seed_of(s, f"{p}/{k}") for s in (0, 1) for p in "ab" for k in (1, 2)}
  assert len(seeds) == 8
  assert all(0 <= seed < 2**63 for seed in seeds)
