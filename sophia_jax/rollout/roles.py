"""The roles of a run, and what each of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sophia_jax.data.chat import Renderer
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.ticks import Asked, Ticking
from sophia_jax.rollout.world import Seat
from sophia_jax.types import Chat, Problem, Prompt, Sampling

Ask = Callable[..., Prompt | Chat]


def policy(words: Renderer, prompts: Prompts) -> Ask:
  """Asks the question itself, under the slow-thinking system prompt."""

  def ask(problem: Problem) -> Prompt:
    return words.prompt(problem.text, problem.images, prompts.slow_thinking)

  return ask


def caption(words: Renderer, prompts: Prompts) -> Ask:
  """Asks for a description; the question is not shown, so no answer can leak."""

  def ask(problem: Problem) -> Prompt:
    return words.prompt(prompts.caption, problem.images)

  return ask


def reasoner(words: Renderer, prompts: Prompts) -> Ask:
  """Asks a model that sees a caption and never the image."""
  del words  # its vocabulary is not the policy's

  def ask(problem: Problem, *, caption: str) -> Chat:
    return Chat(text=prompts.reason(problem.text, caption))

  return ask


ROLES: dict[str, Callable[[Renderer, Prompts], Ask]] = {
  "policy": policy,
  "caption": caption,
  "reasoner": reasoner,
}
"""Prompt of each role; `caption` is the policy in another role."""
OTHERS = frozenset({"reasoner"})
"""Roles of models with another vocabulary than the policy's."""


def seats(
  words: Renderer,
  prompts: Prompts,
  sampling: Mapping[str, Sampling] | None = None,
  engines: Mapping[str, Mapping[str, Ticking | Asked]] | None = None,
) -> dict[str, Seat]:
  """Returns the seats of all roles.

  Args:
    words: the policy's renderer.
    sampling: by role, how tokens are drawn.
    engines: by role, then by difficulty, as Seat.engines. None: a world that
      replays a store.
  """
  return {
    role: Seat(
      prompt=make(words, prompts),
      sampling=(sampling or {}).get(role, Sampling()),
      engines=(engines or {}).get(role, {}),
      own=role not in OTHERS,
    )
    for role, make in ROLES.items()
  }
