"""VLAA-Thinker (arXiv 2504.11468): rewards by type, the adaptive KL."""

import asyncio
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import diagnostics, routing, sampling, vlaa
from sophia_jax.algorithms.contract import Grade, Moment
from sophia_jax.algorithms.registry import build
from sophia_jax.types import Problem, SophiaError, Status, Verdict
from tests.algorithms import rows, words


class World(words.World):
  """Answers `texts[i]` at place i, "" is no answer; scores a text by its length."""

  def __init__(self, *texts, right=lambda path: False, score=len):
    super().__init__(right)
    self._texts, self._score = texts, score

  async def ask(self, role, problem, path, prompt, turn=0):
    answer = await super().ask(role, problem, path, prompt, turn)
    if role != routing.SCORER:
      return answer
    return rows.completion((), text=repr(float(self._score(prompt))))

  async def grade(self, problem, path, completion):
    grade = await super().grade(problem, path, completion)
    found = self._texts[path[0]]
    status = grade.verdict.status if found else Status.UNPARSEABLE
    verdict = Verdict(status=status, extracted=found)
    return Grade(verdict=verdict, rewards=grade.rewards)

  def prompt(self, template, problem, **context):
    if template == routing.SCORER:
      return context["answer"]
    return super().prompt(template, problem, **context)


def problem(kind, answer="6"):
  return Problem(id="p", question="?", answer=answer, answer_type=kind)


def rewards(asked, world, n, **config):
  algorithm = build("vlaa", {"n": n, **config})
  group = asyncio.run(algorithm.sample(world, asked))
  return [algorithm.reward(r, rows.START) for r in group.rollouts], group


@pytest.mark.parametrize("kind", ["number", "choice", "math", "auto", "list"])
def test_what_a_verdict_decides_earns_1_or_0(kind):
  world = World("6", "5", right=lambda path: path == (0,))
  found, _ = rewards(problem(kind), world, 2)
  assert found == [1, 0]
  assert {role for role, *_ in world.asked} == {"policy"}


def test_a_box_earns_its_overlap():
  boxes = ("[0, 0, 10, 10]", "[0, 0, 10, 4]", "[9, 9, 9, 10]", "")
  found, group = rewards(problem("box", boxes[0]), World(*boxes), 4)
  assert found == [1, pytest.approx(0.4), 0, 0]
  assert group.rollouts[1].rewards["iou"] == pytest.approx(0.4)


def test_an_open_answer_earns_what_it_is_better_than_the_reference():
  world = World("longer text", "ref", "x", "")
  found, group = rewards(problem("open", "ref"), world, 4, beta=0.25)
  assert found == [pytest.approx(1 - math.exp(-2)), 0, 0, 0]
  scorers = [path for role, path, _ in world.asked if role == "scorer"]
  assert sorted(scorers) == [(), (0,), (1,), (2,)]  # the reference once
  assert group.rollouts[0].rewards["reference"] == 3
  assert "score" not in group.rollouts[3].rewards


@pytest.mark.parametrize("text", ["nan", "inf", "no number"])
def test_a_score_that_is_no_number_earns_nothing_and_is_counted(text):
  class Bad(World):
    async def ask(self, role, problem, path, prompt, turn=0):
      answer = await super().ask(role, problem, path, prompt, turn)
      if role == routing.SCORER and path:
        return rows.completion((), text=text)
      return answer

  found, group = rewards(problem("open", "ref"), Bad("a", "b"), 2)
  assert found == [0, 0]
  assert [r.rewards["unscored"] for r in group.rollouts] == [1, 1]
  counted = diagnostics.of_round([_rewarded(group)], [], [], rows.START)
  assert counted["rewards/unscored/mean"] == 1


def _rewarded(group):
  from sophia_jax.algorithms import credit

  return credit.rewarded([group], lambda r, m: 0.0, rows.START)[0]


def test_where_no_answer_is_found_nobody_is_scored():
  world = World("", "")
  found, _ = rewards(problem("open", "ref"), world, 2)
  assert found == [0, 0]
  assert "scorer" not in {role for role, *_ in world.asked}


numbers = st.floats(-100, 100)


@given(numbers, numbers, st.floats(0.01, 10))
def test_the_anchored_reward_lies_in_0_to_1_and_grows(score, reference, beta):
  found = routing.anchored(score, reference, beta)
  assert 0 <= found <= 1
  assert (found > 0) is (beta * (score - reference) > 0)
  assert routing.anchored(score + 1, reference, beta) >= found


# ----------------------------------------------------------------- the adaptive KL
def after(kl, coefficient=None, sampled=64.0):
  m = {diagnostics.KL: kl, "training/filter_groups/sampled": sampled}
  if coefficient is not None:
    m[vlaa.COEFFICIENT] = coefficient
  return Moment(round=1, metrics=m)


def test_the_coefficient_follows_the_kl():
  follow = vlaa.adaptive(vlaa.Config(kl=0.01, kl_target=1e-3, kl_horizon=1024))
  assert follow(rows.START) == 0.01
  # 64 problems of 4 samples over a horizon of 1024: a quarter of the error.
  assert follow(after(1.1e-3)) == pytest.approx(0.01 * (1 + 0.1 / 4))
  assert follow(after(9.0)) == pytest.approx(0.01 * (1 + 0.2 / 4))
  assert follow(after(0.0)) == pytest.approx(0.01 * (1 - 0.2 / 4))
  assert follow(after(1e-3, 0.02)) == 0.02
  fixed = vlaa.adaptive(vlaa.Config(kl=0.01, kl_target=0.0))
  assert fixed(after(9.0)) == 0.01


def test_the_coefficient_is_the_weight_of_the_kl_and_goes_with_the_metrics():
  algorithm = build("vlaa", {"kl": 0.01, "n": 4})
  (kl,) = (t for t in algorithm.terms if t.name == diagnostics.KL)
  moment = after(9.0, 0.5)
  assert kl.coefficient(moment) == algorithm.numbers[vlaa.COEFFICIENT](moment)
  batch = rows.ready(algorithm)
  now = rows.with_streams(
    batch, {vlaa.COEFFICIENT: 0 * batch.streams["mask"] + 0.25}
  )
  seen = rows.means(algorithm.metrics, rows.say(rows.params(0), now), now)
  assert float(seen[vlaa.COEFFICIENT]) == pytest.approx(0.25)


def test_without_other_answer_types_it_samples_as_grpo():
  asked = problem("number")
  plain = asyncio.run(sampling.attempts(2)(World("6", "5"), asked))
  routed = routing.routed(sampling.attempts(2))
  assert asyncio.run(routed(World("6", "5"), asked)).rollouts[0].rewards == (
    plain.rollouts[0].rewards
  )


@pytest.mark.parametrize(
  ("config", "said"),
  [
    ({"kl": 0.0}, "set kl above 0"),
    ({"kl_horizon": 0.0}, "kl_horizon=0.0"),
    ({"beta": -1.0}, "beta=-1.0"),
    ({"n": 1}, "vlaa.n: a group of 1"),
  ],
)
def test_settings_that_cannot_work_are_refused(config, said):
  with pytest.raises(SophiaError, match=said):
    build("vlaa", config)
