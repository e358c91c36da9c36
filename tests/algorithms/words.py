"""A world that answers by rule, and a renderer of one letter a token."""

from __future__ import annotations

import numpy as np

from sophia_jax.algorithms.contract import Grade
from sophia_jax.types import (
  Chat,
  Role,
  Status,
  TokenSequence,
  Verdict,
)
from tests.algorithms import rows

END = 1


def encode(text):
  return [ord(c) for c in text]


class Letters:
  """Prompts and answers in the policy's vocabulary, system turn first."""

  slow_thinking = "Think slowly."

  def prompt(self, question, images=(), system=None):
    said = "default" if system is None else system
    return rows.prompt(encode(f"[{said}]{''.join(images)}{question}"))

  def sequence(self, prompt, response, *, id, streams=None):
    ids = [*encode(response), END] if isinstance(response, str) else response
    roles = np.append(prompt.roles, np.full(len(ids), Role.RESPONSE, np.int8))
    learnt = (roles == Role.RESPONSE).astype(np.float32)
    return TokenSequence(
      id=id,
      token_ids=np.append(prompt.token_ids, np.asarray(ids, np.int32)),
      roles=roles,
      images=prompt.images,
      tiles=prompt.tiles,
      streams={name: v * learnt for name, v in (streams or {}).items()},
    )

  def decode(self, ids):
    return "".join(chr(i) for i in ids if i != END)


def text_of(sequence):
  """(prompt, response) of a sequence of Letters, without the turn's end."""
  response = sequence.roles == Role.RESPONSE
  join = lambda ids: "".join(chr(i) for i in ids if i != END)
  ids = sequence.token_ids
  return join(ids[~response]), join(ids[response])


class World:
  """Remembers what was asked; an answer is right if `right(path)` says so."""

  def __init__(self, right=lambda path: True):
    self.asked, self._right = [], right

  async def ask(self, role, problem, path, prompt, turn=0):
    self.asked.append((role, path, turn))
    text = f"{role}{''.join(map(str, path))}"
    return rows.completion(encode(text), [-1.0] * len(text), text=text)

  async def grade(self, problem, path, completion):
    right = self._right(path)
    status = Status.RIGHT if right else Status.WRONG
    return Grade(
      verdict=Verdict(status=status), rewards={"accuracy": float(right)}
    )

  def prompt(self, template, problem, **context):
    if template in ("reasoner", "teacher"):
      return Chat(text=f"{problem.question} {context.get('caption', '')}")
    return rows.prompt(encode(f"{template}:{problem.question}"))

  def length(self, completion):
    return len(completion.text)
