"""Sampling from servers: the same coroutines, awaited instead of ticked."""

import time
from contextlib import closing

import pytest

from sophia_jax.algorithms.sampling import described
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.types import Problem, Sampling, SophiaError, Status
from tests.rollout import lives
from tests.rollout.fake_server import status

PROMPTS = Prompts(caption="What do you see", reasoning="{caption}\n{question}")


@pytest.fixture
def problems(pictures):
  return [
    Problem(
      id=f"p{i}",
      question="What is it",
      answer="6",
      answer_type="number",
      images=(pictures[i % 3],),
    )
    for i in range(6)
  ]


@pytest.fixture
def scene(start, client, words, tmp_path):
  """scene(problems): the generator; with the servers of both roles."""
  policy, reasoner = start(), start()
  reasoner.text = "It is \\boxed{6}."
  sampling = dict.fromkeys(("caption", "reasoner"), Sampling(max_new_tokens=8))
  engines = {
    "caption": {"": client(policy)},
    "reasoner": {"easy": client(reasoner, renderer=None)},
  }
  seats = roles.seats(words, PROMPTS, sampling, engines)
  with Verifier(workers=1) as verifier, Store(tmp_path, lives.META) as store:

    def run(problems):
      run.world = World(store, seats, words, verifier)
      return collect(problems, described(2, 3), run.world)

    run.policy, run.reasoner, run.store = policy, reasoner, store
    yield run


def test_two_servers_and_what_each_is_asked(scene, problems):
  groups = list(scene(problems))
  assert [g.problem.id for g in groups] == [p.id for p in problems]
  assert len(scene.policy.asked) == 12 and len(scene.reasoner.asked) == 36
  for group in groups:
    for t in group.depth(2):
      assert t.verdict.status is Status.RIGHT and t.completion.logps is None
      assert t.length > 0
    for c in group.depth(1):
      assert c.completion.token_ids == tuple(scene.policy.ids)
  asked = str(scene.reasoner.asked[0]["messages"])
  assert groups[0].rollouts[0].completion.text in asked
  assert not list(scene([])) and len(list(scene(problems))) == 6
  assert len(scene.policy.asked) == 12  # nothing is asked again


def test_a_refusal_ends_the_run_and_loses_nothing(scene, problems):
  scene.reasoner.faults = [status(400, "no")]
  with pytest.raises(SophiaError, match="answered 400"):
    list(scene(problems))
  stored = scene.store.index.answers
  list(scene(problems))
  assert scene.store.index.answers == 48 > stored
  answered = len(scene.policy.asked) + len(scene.reasoner.asked)
  assert answered >= 48


def test_an_early_end_aborts_what_is_in_flight(scene, problems):
  scene.reasoner.gate.clear()
  groups = scene(problems)
  with closing(groups):

    def stop():
      while not scene.reasoner.running:
        time.sleep(0.01)
      scene.world.stop(SophiaError("enough"))

    lives.in_background(stop)
    with pytest.raises(SophiaError, match="enough"):
      next(groups)
  deadline = time.monotonic() + 20
  while not scene.reasoner.aborted and time.monotonic() < deadline:
    time.sleep(0.01)
  assert scene.reasoner.aborted
  assert 0 < scene.store.index.answers <= 12  # captions
