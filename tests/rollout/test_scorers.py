"""Scorers: words in common, and a reward model behind HTTP that may be bad."""

import asyncio
import json

import pytest

from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.scorers import CommonWords, ScoreClient, words_f1
from sophia_jax.types import Chat, Problem, Request, Sampling, SophiaError
from tests.rollout import little
from tests.rollout.fake_server import Fake, sends

PROBLEM = Problem(
  id="p", question="What is shown?", answer="A cat.", answer_type="open"
)
QUICK = ClientConfig(retries=1, backoff_s=0.01, failures=5)


def asked(text, images=()):
  return Request(
    id="p/0:scorer",
    prompt=Chat(text=text, system=PROBLEM.text, images=images),
    sampling=Sampling(),
  )


@pytest.fixture
def fake():
  fake = Fake(end_id=9)
  yield fake
  fake.stop()


def scored(fake, text="a dog", images=()):
  with ScoreClient([fake.url], QUICK) as client:
    return asyncio.run(client.ask(asked(text, images)))


def test_a_reward_model_sees_question_answer_and_images(fake, tmp_path):
  image = little.pictures(tmp_path)[0]
  answer = scored(fake, 'a "dog" \ud800', (image,))
  assert float(answer.text) == 0.5
  (body,) = fake.asked
  assert body["question"] == "What is shown?"
  assert body["answer"] == 'a "dog" \ud800'
  assert body["images"][0].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
  ("sent", "want"),
  [
    (b'{"score": NaN}', "nan"),
    (b'{"score": -Infinity}', "-inf"),
    (json.dumps({"score": 10**400}).encode(), "inf"),
    (b'{"score": 3}', "3.0"),
  ],
)
def test_numbers_that_are_not_finite_are_answers(fake, sent, want):
  fake.always = sends(sent)
  assert scored(fake).text == want


@pytest.mark.parametrize("sent", [{"score": "0.5"}, {"score": True}, [1], {}])
def test_what_is_no_score_is_asked_again_and_then_one_line(fake, sent):
  fake.always = sends(sent)
  with pytest.raises(SophiaError, match="no number under the key score"):
    scored(fake)
  assert len(fake.asked) == 2


def test_words_in_common():
  assert words_f1("a red apple", "A Red apple") == 1
  assert words_f1("red", "blue") == 0 == words_f1("", "")
  assert words_f1("a a b", "a b b") == pytest.approx(2 / 3)
  scorer = CommonWords()
  assert scorer.recorded(asked("a cat."), PROBLEM).text == "1.0"
