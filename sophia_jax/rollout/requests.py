"""The two requests of SOPHIA: describe an image, think from a description."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable

from sophia_jax.data.chat import Renderer
from sophia_jax.types import Caption, Chat, Problem, Request, Sampling


@dataclasses.dataclass(frozen=True)
class Asking:
  """How requests are made.

  The policy is asked in its own tokens, which training needs to know exactly;
  a reasoner in words. `reason(question, caption)` is the simulated-vision prompt f(x_q, c).
  """

  policy: Renderer
  caption: str
  reason: Callable[[str, str], str]
  captioning: Sampling
  reasoning: Sampling
  seed: int


def seed_of(seed: int, request_id: str) -> int:
  """A seed for one request: 63 bits of a hash of the run's seed and its id."""
  digest = hashlib.blake2b(f"{seed}/{request_id}".encode(), digest_size=8)
  return int.from_bytes(digest.digest(), "big") >> 1


def _seeded(how: Sampling, seed: int, request_id: str) -> Sampling:
  return dataclasses.replace(how, seed=seed_of(seed, request_id))


def caption_request(asking: Asking, problem: Problem, k: int) -> Request:
  """The k-th caption: the question is not shown, so no answer can leak."""
  name = f"{problem.id}/{k}"
  return Request(
    id=name,
    prompt=asking.policy.prompt(asking.caption, problem.images),
    sampling=_seeded(asking.captioning, asking.seed, name),
  )


def reasoning_request(
  asking: Asking, problem: Problem, caption: Caption, n: int
) -> Request:
  """The n-th reasoning on a caption, by a model that never sees the image."""
  name = f"{caption.id}/{n}"
  text = asking.reason(problem.text, caption.completion.text)
  return Request(
    id=name,
    prompt=Chat(text=text),
    sampling=_seeded(asking.reasoning, asking.seed, name),
  )
