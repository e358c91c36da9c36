"""The roles of a run, and what each of them is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from sophia_jax.data.chat import Renderer
from sophia_jax.rollout.prompts import (
  Prompts,
  atomic_facts,
  check_fact,
  filled,
)
from sophia_jax.rollout.ticks import Asked, Recorded, Ticking
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


def scorer(words: Renderer, prompts: Prompts) -> Ask:
  """Asks a reward model for the score of an answer."""
  del words, prompts

  def ask(problem: Problem, *, answer: str) -> Chat:
    return Chat(text=answer, system=problem.text, images=problem.images)

  return ask


def teacher(words: Renderer, prompts: Prompts) -> Ask:
  """Asks another model what the policy is asked, images included."""
  del words  # its vocabulary is not the policy's

  def ask(problem: Problem) -> Chat:
    return Chat(
      text=problem.text, system=prompts.slow_thinking, images=problem.images
    )

  return ask


def captioner(words: Renderer, prompts: Prompts) -> Ask:
  """Asks another model for a description, as the policy is asked."""
  del words

  def ask(problem: Problem) -> Chat:
    return Chat(text=prompts.caption, images=problem.images)

  return ask


def describer(words: Renderer, prompts: Prompts) -> Ask:
  """Asks for a description of a frame, and of what is new since the one before."""
  del words

  def ask(problem: Problem, *, first: str, last: str) -> Chat:
    shown = problem.images[int(first) : int(last) + 1]
    asked = prompts.next_view if len(shown) > 1 else prompts.first_view
    return Chat(text=filled(asked, question=problem.text), images=shown)

  return ask


def extractor(words: Renderer, prompts: Prompts) -> Ask:
  """Asks a model for the atomic facts of numbered clauses; it sees no image."""
  del words, prompts

  def ask(problem: Problem, *, text: str) -> Chat:
    del problem
    return Chat(text=atomic_facts(text))

  return ask


def reader(words: Renderer, prompts: Prompts) -> Ask:
  """Asks which option reasoning leads to; descriptions and images are not shown."""
  del words

  def ask(problem: Problem, *, reasoning: str) -> Chat:
    return Chat(
      text=filled(prompts.reading, question=problem.bare, reasoning=reasoning)
    )

  return ask


def checker(words: Renderer, prompts: Prompts) -> Ask:
  """Asks a vision-language model whether the images show a fact."""
  del words, prompts

  def ask(problem: Problem, *, text: str) -> Chat:
    return Chat(text=check_fact(text), images=problem.images)

  return ask


ROLES: dict[str, Callable[[Renderer, Prompts], Ask]] = {
  "policy": policy,
  "caption": caption,
  "reasoner": reasoner,
  "scorer": scorer,
}
"""Prompt of each role; `caption` is the policy in another role. Every other
name is one of a teacher."""
TEACHERS: dict[str, Callable[[Renderer, Prompts], Ask]] = {
  "captioner": captioner,
  "describer": describer,
  "reader": reader,
  "extractor": extractor,
  "checker": checker,
}
"""Prompt of each teacher that is asked something else than the policy."""
OWN = frozenset({"policy", "caption"})
"""Roles of the policy; other models have other vocabularies."""


def teachers(names: Iterable[str]) -> tuple[str, ...]:
  """Returns the names that are teachers', sorted."""
  return tuple(sorted({*names} - {*ROLES}))


def seats(
  words: Renderer,
  prompts: Prompts,
  sampling: Mapping[str, Sampling] | None = None,
  engines: Mapping[str, Mapping[str, Ticking | Asked | Recorded]] | None = None,
  asked: Iterable[str] = (),
) -> dict[str, Seat]:
  """Returns the seats of all roles.

  Args:
    asked: roles that a method asks; those that ROLES does not name are
      teachers'.
    words: the policy's renderer.
    sampling: by role, how tokens are drawn.
    engines: by role, then by difficulty, as Seat.engines. None: a world that
      replays a store.
  """
  taught = {name: TEACHERS.get(name, teacher) for name in teachers(asked)}
  return {
    role: Seat(
      prompt=make(words, prompts),
      sampling=(sampling or {}).get(role, Sampling()),
      engines=(engines or {}).get(role, {}),
      own=role in OWN,
    )
    for role, make in {**ROLES, **taught}.items()
  }
