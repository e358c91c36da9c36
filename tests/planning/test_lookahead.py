"""The look-ahead: scores, budgets, and models that answer badly."""

import collections
import math

import pytest

from sophia_jax.planning import blocksworld, lookahead, providers
from sophia_jax.planning import lake as lakes
from sophia_jax.planning.blocksworld import BlocksWorld
from sophia_jax.planning.lookahead import (
  ContextExceeded,
  Ending,
  SearchConfig,
  Step,
)
from sophia_jax.types import Completion, FinishReason, Sampling, SophiaError


class Line:
  """A walk on the integers; its actions are numbers to add."""

  def __init__(self, at=0, goal=3):
    self.at, self.goal = at, goal

  @property
  def solved(self):
    return self.at == self.goal

  def text(self):
    return f"at {self.at}"

  def actions(self):
    return ("1", "2", "-1")

  def step(self, action):
    if action not in self.actions():
      return Step(reward=0.0, ended=False, legal=False)
    self.at += int(action)
    return Step(reward=float(self.solved), ended=self.solved)

  def copy(self):
    return Line(self.at, self.goal)


def answers(*texts, logps=None):
  return [
    Completion(
      request_id="",
      text=text,
      token_ids=(),
      logps=logps,
      finish_reason=FinishReason.STOP,
    )
    for text in texts
  ]


def near(line):
  return -abs(line.goal - line.at)


PRIOR = lambda line: [("1", 0.7), ("2", 0.2), ("-1", 0.1)]


# ------------------------------------------------------------------------ search
def test_a_paths_score_is_the_priors_and_the_leafs():
  """By hand: depth 2, breadth 3, alpha 1, the sum at the leaf decides."""
  value = lambda line: {3: 1.0, 2: 0.2}.get(line.at, 0.0)
  config = SearchConfig(breadth=3, depth=2, prior_weight=1.0)
  # (1, 1): .7 + .7 + .2 = 1.6; (1, 2): .7 + .2 + 1 = 1.9; (2, 1): the same.
  assert lookahead.look_ahead(Line(), PRIOR, value, config) == ("1", "2")
  without = SearchConfig(breadth=3, depth=2, prior_weight=0.0)
  assert lookahead.look_ahead(Line(), PRIOR, value, without) == ("2", "1")
  strong = SearchConfig(breadth=3, depth=2, prior_weight=10.0)
  assert lookahead.look_ahead(Line(), PRIOR, value, strong) == ("1", "1")


def test_the_discount_is_of_earlier_steps():
  """c <- gamma c + alpha p: with gamma = 0 the last action counts alone."""
  prior = lambda line: (
    [("1", 0.9), ("2", 0.1)] if line.at == 0 else [("1", 0.3), ("2", 0.7)]
  )
  config = SearchConfig(breadth=2, depth=2, prior_weight=1.0, discount=0.0)
  path = lookahead.look_ahead(Line(goal=99), prior, lambda _: 0.0, config)
  assert path[-1] == "2"
  config = SearchConfig(breadth=2, depth=2, prior_weight=1.0)
  path = lookahead.look_ahead(Line(goal=99), prior, lambda _: 0.0, config)
  assert path == ("1", "2")


def test_the_best_children_of_each_node_are_kept():
  tally = collections.Counter()
  config = SearchConfig(breadth=1, depth=2, prior_weight=0.0)
  assert lookahead.look_ahead(Line(), PRIOR, near, config, tally) == ("2", "1")
  assert tally["tried"] == 6
  line = Line()
  lookahead.look_ahead(line, PRIOR, near, config)
  assert line.at == 0  # copies were moved


def test_an_end_on_the_way_is_a_leaf():
  config = SearchConfig(breadth=3, depth=4, prior_weight=0.0)
  assert lookahead.look_ahead(Line(goal=1), PRIOR, near, config) == ("1",)


def test_the_first_action_is_taken_or_the_whole_path():
  for whole in (False, True):
    config = SearchConfig(breadth=3, depth=2, prior_weight=0.0, whole=whole)
    episode = lookahead.play(Line(), PRIOR, near, config)
    assert episode.ending is Ending.SOLVED and episode.reward == 1
    assert sum(map(int, episode.actions)) == 3
    assert episode.tried == (12 if whole else 21)


def test_with_depth_1_and_no_value_it_is_the_prior():
  config = SearchConfig(breadth=1, depth=1, prior_weight=1.0, budget=4)
  episode = lookahead.play(Line(goal=9), PRIOR, lambda _: 0.0, config)
  assert episode.actions == ("1",) * 4 and episode.ending is Ending.BUDGET


# -------------------------------------------------------------------- bad input
def test_an_illegal_action_costs_its_penalty_and_is_counted():
  config = SearchConfig(budget=3, penalty=0.5)
  episode = lookahead.play(Line(), lambda _: [("fly", 1.0)], near, config)
  assert episode.ending is Ending.BUDGET and episode.illegal == 3
  assert episode.reward == -1.5
  mixed = lambda _: [("fly", 0.9), ("1", 0.1)]
  episode = lookahead.play(Line(), mixed, near, config)
  assert episode.ending is Ending.SOLVED and episode.illegal == 0


def test_nothing_proposed_and_no_room_are_endings():
  episode = lookahead.play(Line(), lambda _: [], near, SearchConfig())
  assert episode.ending is Ending.STUCK and episode.actions == ()

  def full(line):
    if line.at == 2:
      raise ContextExceeded
    return [("1", 1.0)]

  config = SearchConfig(depth=1)
  episode = lookahead.play(Line(), full, near, config)
  assert episode.ending is Ending.CONTEXT and episode.actions == ("1", "1")


def test_an_environment_that_fails_is_named():
  class Broken(Line):
    def copy(self):
      return Broken(self.at)

    def step(self, action):
      raise IndexError("no\nsuch place")

  with pytest.raises(
    SophiaError, match=r"lake 7: action 1 raised IndexError: .*"
  ):
    lookahead.play(Broken(), PRIOR, near, SearchConfig(), "lake 7")


@pytest.mark.parametrize("name", ["breadth", "depth", "budget"])
def test_a_search_of_nothing_is_refused(name):
  with pytest.raises(ValueError, match=f"{name}=0"):
    SearchConfig(**{name: 0})


# ------------------------------------------------------------------- the models
class Words:
  """Log-likelihoods by length, of a model that has no other preference."""

  def logps(self, chat, responses):
    return [-float(len(response)) for response in responses]


def test_likelihoods_are_renormalised_over_legal_actions():
  proposed = providers.by_likelihood(Words())(Line())
  assert [action for action, _ in proposed] == ["1", "2", "-1"]
  assert math.fsum(p for _, p in proposed) == pytest.approx(1)
  assert proposed[0][1] / proposed[2][1] == pytest.approx(math.e)
  assert len(providers.by_likelihood(Words(), keep=2)(Line())) == 2


def test_samples_are_ranked_by_their_mean_probability():
  texts = {
    "at 0": [
      *answers("1", logps=(-2.0,)),
      *answers(" 2. ", logps=(-0.1, -0.3)),
      *answers("1", logps=(-1.0,)),
      *answers("jump", logps=(0.0,)),
    ]
  }
  counts = collections.Counter()
  found = providers.by_samples(texts.__getitem__, counts)(Line())
  assert [action for action, _ in found] == ["2", "1"]
  assert found[0][1] / found[1][1] == pytest.approx(math.exp(0.8))
  assert counts == {"unparseable": 1}


def test_without_log_probabilities_counts_decide():
  ask = lambda _: answers("2", "1", "1", "")
  counts = collections.Counter()
  found = providers.by_samples(ask, counts)(Line())
  assert found == [("1", pytest.approx(2 / 3)), ("2", pytest.approx(1 / 3))]
  assert providers.by_samples(lambda _: answers("?"), counts)(Line()) == []


@pytest.mark.parametrize(
  "text, value",
  [
    ("value = 0.75", 0.75),
    ("1+1=2, so value =-3.", -3.0),
    ("= " + "9" * 40, 999999999.0),
    ("no idea", 0.5),
    ("= " * 10_000, 0.5),
    ("=__import__('os')", 0.5),
  ],
)
def test_a_critics_number_is_read_and_not_evaluated(text, value):
  counts = collections.Counter()
  critic = providers.by_critic(lambda _: answers(text), counts, otherwise=0.5)
  assert critic(Line()) == value
  assert counts["unparseable"] == (value == 0.5)


def test_a_rollout_follows_the_first_proposal_in_a_copy():
  line = Line()
  assert providers.by_rollout(lambda _: [("1", 1.0)], 3)(line) == 1
  assert providers.by_rollout(lambda _: [("1", 1.0)], 2)(line) == 0
  assert providers.by_rollout(lambda _: [], 2)(Line(3)) == 1
  assert providers.by_rollout(lambda _: [], 2)(line) == 0
  assert line.at == 0


def test_an_engine_is_asked_once_for_a_question():
  class Echo:
    asked = 0

    def generate(self, requests):
      for request in reversed([*requests]):  # as they finish
        self.asked += 1
        yield Completion(
          request_id=request.id,
          text=f"{request.prompt.text} {request.sampling.seed % 7}",
          token_ids=(),
          logps=None,
          finish_reason=FinishReason.STOP,
        )

  engine = Echo()
  ask = providers.Asked(engine, Sampling(temperature=2.0), samples=4)
  first = ask("a")
  assert ask("a") is first and engine.asked == 4
  again = providers.Asked(Echo(), Sampling(temperature=2.0), samples=4)
  assert again("a") == first
  assert len({a.request_id for a in first}) == 4


# --------------------------------------------------------------- the environments
def test_blocks_are_stacked_by_rule():
  config = SearchConfig(breadth=2, depth=5, prior_weight=0.0, budget=6)
  for seed in range(3):
    start, goal = blocksworld.problem(4, 4, seed)
    value = lambda world: blocksworld.rule_value(world.state, world.goal)
    episode = lookahead.play(
      BlocksWorld(start, goal), providers.all_equal, value, config
    )
    assert episode.ending is Ending.SOLVED, seed
    assert len(episode.actions) >= 4


def test_a_lake_that_is_not_slippery_is_crossed():
  lake = lakes.Episode(0, lakes.tables(success_rate=1.0))
  config = SearchConfig(breadth=4, depth=4, prior_weight=0.0)
  episode = lookahead.play(
    lake, providers.all_equal, lakes.Episode.value, config
  )
  assert episode.ending is Ending.SOLVED and len(episode.actions) == 6


def test_a_copy_does_not_foresee_slips():
  world = lakes.tables(success_rate=0.4)
  walk = lambda lake: [(lake.step("right"), lake.state)[1] for _ in range(12)]
  paths = {tuple(walk(lakes.Episode(3, world).copy())) for _ in range(2)}
  assert len(paths) == 1  # the same copy of the same lake
  lake = lakes.Episode(3, world)
  others = {tuple(walk(lake.copy())) for _ in range(8)}
  assert len(others) > 1
  assert walk(lake) == walk(lakes.Episode(3, world))  # copies change nothing
  assert not lake.step("jump").legal
