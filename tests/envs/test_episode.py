"""Episodes: answers as actions, penalties, limits, environments that fail."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.envs.board import ACTIONS
from sophia_jax.envs.contract import Step
from sophia_jax.envs.episode import FORMS, End, Episode, Limits, parse, said
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.types import SophiaError

ROAD = FrozenLake(rows=("SFFFFG",), success_rate=1.0)
SHORT = Limits(turns=3, actions=4, actions_per_turn=2)


@pytest.mark.parametrize(
  ("text", "actions", "valid"),
  [
    ("<think>so</think><answer>up</answer>", (3,), True),
    (
      " <think>\n</think>\n<answer>Up || LEFT||down</answer>\n",
      (3, 0, 1),
      True,
    ),
    ("<think></think><answer>up || fly || left</answer>", (3,), False),
    ("<think></think><answer></answer>", (), False),
    ("<think></think><answer>up ||</answer>", (3,), False),
    ("<answer>up</answer>", (), False),
    ("<think>up", (), False),
    ("so <think></think><answer>up</answer>", (), False),
    ("<think></think><answer>up</answer> ok", (), False),
    ("<think></think><answer>up</answer><answer>up</answer>", (), False),
    ("", (), False),
  ],
)
def test_an_answer_is_read_as_actions(text, actions, valid):
  parsed = parse(text, ACTIONS)
  assert (parsed.actions, parsed.valid) == (actions, valid)


def test_forms_leave_the_thought_or_all_tags_out():
  assert parse("<answer>up</answer>", ACTIONS, "answer").valid
  assert parse(" up || LEFT", ACTIONS, "plain").actions == (3, 0)
  for text, form in (
    ("<think></think><answer>up</answer>", "answer"),
    ("<answer>up</answer>", "plain"),
    ("", "plain"),
  ):
    assert not parse(text, ACTIONS, form).valid
  for form in FORMS:
    text = said(("up", "left"), form, "because")
    assert parse(text, ACTIONS, form).actions == (3, 0)
  with pytest.raises(SophiaError, match="form: 'tags'"):
    Limits(form="tags")


@given(
  st.text()
  | st.lists(
    st.sampled_from(
      ["<think>", "</think>", "<answer>", "</answer>", "up", "||", " ", "__x__"]
    )
  ).map("".join)
)
def test_any_text_is_played(text):
  episode = Episode(ROAD, SHORT, 0)
  while episode.end is None:
    episode.answer(text)
  assert episode.end in (End.LIMIT, End.DONE)
  assert episode.taken <= 4 and len(episode.rewards) <= 3


def test_turns_have_rewards_and_penalties():
  episode = Episode(ROAD, Limits(turns=5, actions=10), 0)
  episode.answer(said(["right"] * 2))
  assert episode.observation(False) == (
    "Reward: 0\n_ _ P _ _ G\nActions left: 8",
    None,
  )
  episode.answer("to the right")
  assert episode.observation(False)[0].startswith("Reward: -0.1\n_ _ P _ _ G\n")
  text, picture = episode.observation(True)
  assert text == "Reward: -0.1\nActions left: 8"
  assert picture is not None and picture.shape == (12, 72, 3)
  episode.answer(said(["right"] * 5))
  assert (episode.end, episode.solved) == (End.DONE, True)
  assert episode.rewards == [0, 0, 1] and episode.penalties == [0, -0.1, 0]
  assert (episode.taken, episode.invalid) == (5, 1)


def test_actions_beyond_the_limits_are_left_out():
  episode = Episode(ROAD, SHORT, 0)
  episode.answer(said(["right"] * 5))
  assert (episode.taken, episode.state, episode.end) == (2, (0, 2), None)
  episode.answer(said(["right"] * 5))
  assert (episode.taken, episode.end) == (4, End.LIMIT)
  assert not episode.solved
  with pytest.raises(SophiaError, match="turns: 0"):
    Limits(turns=0)


def test_an_episode_is_repeated_from_its_answers():
  slippery = dataclasses.replace(ROAD, rows=("SFFF", "FFFF", "FFFG"))
  slippery = dataclasses.replace(slippery, success_rate=0.4)

  def states(seed):
    episode = Episode(slippery, Limits(turns=9), seed)
    seen = []
    for _ in range(5):
      episode.answer(said(["down", "right"]))
      seen.append(episode.state)
    return seen

  assert states(3) == states(3)
  assert len({tuple(states(seed)) for seed in range(8)}) > 1


# ------------------------------------------------- environments that are broken
@dataclasses.dataclass(frozen=True)
class Odd:
  """A road that raises on some actions, or never ends."""

  actions = ACTIONS
  error: Exception | None = None

  def start(self):
    return 0

  def step(self, state, action, chance):
    if self.error and state == 2:
      raise self.error
    return Step(state + 1, 0.5, False)

  def solved(self, state):
    return True

  def text(self, state):
    return str(state)

  def picture(self, state):
    return None


@pytest.mark.parametrize(
  "error", [ValueError("bad"), KeyError(3), ZeroDivisionError(), RuntimeError()]
)
def test_an_environment_that_raises_ends_its_episode(error, caplog):
  episode = Episode(Odd(error), Limits(), 0)
  episode.answer(said(["up"] * 5))
  assert (episode.end, episode.solved) == (End.BROKEN, False)
  assert episode.rewards == [1.0] and episode.taken == 2
  assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_an_environment_that_never_ends_is_ended():
  episode = Episode(Odd(), Limits(turns=3), 0)
  for _ in range(3):
    assert episode.end is None
    episode.answer(said(["up"]))
  assert (episode.end, episode.solved) == (End.LIMIT, False)
  assert episode.observation(True)[0] == "Reward: 0.5\n3\nActions left: 7"
