"""Teachers: stored answers and servers that may be down."""

import asyncio
import dataclasses
import logging

import pytest

from sophia_jax.algorithms.sampling import with_teachers
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout import roles, teachers
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.sglang import SGLangChat
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.teachers import Tolerant, Traces
from sophia_jax.rollout.world import World
from sophia_jax.types import (
  Chat,
  Example,
  FinishReason,
  Request,
  Sampling,
  SophiaError,
)
from tests.rollout import lives
from tests.rollout.fake_server import Fake
from tests.rollout.lives import SIX, Scripted, Stepped, seats, words

ASKED = Request(
  id="w0/1:big", prompt=Chat(text="?"), sampling=Sampling(max_new_tokens=9)
)


def traces(strict=False, **texts):
  rows = [Example(id=k, question="?", response=v) for k, v in texts.items()]
  return Traces(rows, "t.jsonl (teacher 'big')", strict)


def sampled(store, problems, recipe, **engines):
  with Verifier(workers=1) as verifier:
    world = World(store, seats(**engines), lives.Counted(), verifier)
    return list(collect(problems, recipe, world))


def authors(groups):
  return [[r.author for r in g.rollouts] for g in groups]


# ----------------------------------------------------------------------- stored
def test_stored_answers_are_graded_and_their_absence_is_replayed(tmp_path):
  stored = traces(w0=f"<think>3 and 3</think> {SIX}", w2="<think>3 and")
  recipe = with_teachers(1, ("big",))
  with Store(tmp_path / "s", lives.META) as store:
    found = sampled(store, words(3), recipe, policy=Stepped(), big=stored)
  assert authors(found) == [
    ["policy", "big"],
    ["policy", "policy"],
    ["policy", "policy"],
  ]
  assert [g.absent for g in found] == [(), ("big/none",), ("big/cut",)]
  assert found[0].rollouts[1].rewards == {"accuracy": 1.0}
  assert found[0].rollouts[1].length == 4
  with Store(tmp_path / "s", read_only=True) as store:
    world = World(store, seats(policy={}, big={}), lives.Counted())
    again = list(collect(words(3), recipe, world))
  assert [g.absent for g in again] == [g.absent for g in found]
  assert lives.bare(again) == lives.bare(found)


@pytest.mark.parametrize(
  ("problem", "what"),
  [("w1", "no response"), ("w2", "a response that is cut off")],
)
def test_an_absent_answer_stops_the_run_where_it_may_not_be(problem, what):
  stored = traces(strict=True, w0=SIX, w2="<think>3 and")
  [asked] = [p for p in words(3) if p.id == problem]
  with pytest.raises(SophiaError) as error:
    stored.recorded(ASKED, asked)
  assert str(error.value) == (
    f"t.jsonl (teacher 'big'): {what} to problem '{problem}'; add it, or leave "
    'the place to the policy with absent="skip"'
  )


def test_a_response_is_cut_where_a_thought_has_no_end():
  assert teachers.is_cut("<think>a")
  assert teachers.is_cut("<think>a</think>b<think>c")
  assert not teachers.is_cut("<think>a</think>b")
  assert not teachers.is_cut("b")


# ------------------------------------------------------------------------- live
def test_a_server_that_fails_is_done_without_and_left_alone_for_a_while(
  caplog, monkeypatch
):
  class Failing(Scripted):
    async def ask(self, request):
      await super().ask(request)
      raise SophiaError("no rollout server")

  monkeypatch.setattr(logging.getLogger("sophia_jax"), "propagate", True)
  engine = Failing()
  tolerant = Tolerant(engine, "big")
  for _ in range(3):
    answer = asyncio.run(tolerant.ask(ASKED))
    assert answer.finish_reason is FinishReason.ABSENT
    assert (answer.text, answer.token_ids) == ("down", ())
  assert len(engine.asked) == 1
  assert [r.message for r in caplog.records] == [
    "teacher big does without: no rollout server"
  ]
  monkeypatch.setattr(teachers, "REST_S", -1.0)
  tolerant = Tolerant(engine, "big")
  for _ in range(2):
    asyncio.run(tolerant.ask(ASKED))
  assert len(engine.asked) == 3


def test_a_teacher_sees_the_problem_as_the_policy_does(tmp_path):
  small = lives.Little(tmp_path)
  made = roles.seats(small.words, small.prompts, asked=("policy", "big"))
  assert roles.teachers(("policy", "big", "caption")) == ("big",)
  assert not made["big"].own and made["policy"].own
  problem = small.problems[2]
  assert made["big"].prompt(problem) == Chat(
    text=problem.text, system="Look.", images=problem.images
  )
  policy = made["policy"].prompt(problem)
  # An engine of this process renders it by the words of its own model.
  small.policy.submit(dataclasses.replace(ASKED, prompt=policy))
  ours = small.policy._inbox[-1].prompt
  small.policy.submit(
    dataclasses.replace(ASKED, prompt=made["big"].prompt(problem))
  )
  theirs = small.policy._inbox[-1].prompt
  assert ours.token_ids.tolist() == theirs.token_ids.tolist()
  assert ours.images == theirs.images
  small.policy.clear()


def test_images_go_to_a_chat_server_as_data(tmp_path):
  small = lives.Little(tmp_path)
  path = small.problems[0].images[0]
  server = Fake(end_id=1)
  try:
    with SGLangChat([server.url], ClientConfig()) as engine:
      asked = dataclasses.replace(
        ASKED, prompt=Chat(text="How many?", system="Look.", images=(path,))
      )
      answer = asyncio.run(engine.ask(asked))
      assert answer.text == "Six."
      plain = asyncio.run(engine.ask(ASKED))
      assert plain.text == "Six."
  finally:
    server.stop()
  with_image, without = (body["messages"] for body in server.asked)
  [system, user] = with_image
  assert system == {"role": "system", "content": "Look."}
  [image, text] = user["content"]
  assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
  assert text == {"type": "text", "text": "How many?"}
  assert without == [{"role": "user", "content": "?"}]
