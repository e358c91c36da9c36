"""Which methods a round is timed with, against plain GRPO."""

import pytest

from benchmarks.round_ours import method
from benchmarks.round_task import Task
from sophia_jax.types import SophiaError

TASK = Task(
  **dict.fromkeys(("checkpoint", "output", "question"), ""),
  **dict.fromkeys(("new", "batch", "side", "tokens_per_tile", "slots"), 1),
  **dict.fromkeys(("questions", "rounds", "block"), 1),
  pictures=(),
  banned=(),
  n=4,
  kl=0.04,
)
RELATIVES = ("rl_plus", "papo", "vision_ekipl", "vlaa", "openvlthinker")


@pytest.mark.parametrize("name", RELATIVES)
def test_every_relative_on_images_can_be_timed(name):
  made = method(name, TASK)
  assert made.sample and "policy" in made.roles


@pytest.mark.parametrize("name", ["sophia", "sft", "chains"])
def test_what_asks_others_is_refused_in_one_line(name):
  with pytest.raises(SophiaError, match=f"--algorithm={name}: it does not"):
    method(name, TASK)
