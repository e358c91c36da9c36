"""Completions and groups as sampling leaves them, of a few words."""

import dataclasses

from sophia_jax.algorithms.selection import with_values
from sophia_jax.data.problems import problem_digest
from sophia_jax.rollout.records import Answer, Graded, identity
from sophia_jax.types import (
  Chat,
  Completion,
  FinishReason,
  Grade,
  Group,
  Rollout,
  Status,
  Turn,
  Verdict,
)


def completion(text, finish_reason=FinishReason.STOP):
  """Of a model whose tokens are not ours to know."""
  return Completion(
    request_id="",
    text=text,
    token_ids=(),
    logps=None,
    finish_reason=finish_reason,
  )


def group(problem, captions, rows):
  """captions[k] is a completion, rows[k][n] is (text, status, length)."""
  rollouts = []
  for k, (caption, row) in enumerate(zip(captions, rows)):
    rollouts.append(rollout(problem, (k,), caption))
    for n, (text, status, length) in enumerate(row):
      thought = rollout(problem, (k, n), completion(text))
      rollouts.append(
        dataclasses.replace(
          thought,
          rewards={"accuracy": float(status is Status.RIGHT)},
          author="reasoner",
          verdict=Verdict(status=status, extracted="6"),
          length=length,
        )
      )
  return with_values(Group(problem=problem, rollouts=tuple(rollouts)))


def rollout(problem, path, said):
  turn = Turn(prompt=Chat(text=problem.question), completion=said)
  return Rollout(problem_id=problem.id, path=path, turns=(turn,))


def store(store, problem, captions, rows):
  """Writes a whole group as sampling does; arguments as for `group`."""
  key = {"problem_id": problem.id, "digest": problem_digest(problem)}
  for k, (caption, row) in enumerate(zip(captions, rows)):
    store.append(
      Answer(**key, path=(k,), role="caption", completion=caption, length=1)
    )
    for n, (text, status, length) in enumerate(row):
      said = completion(text)
      store.append(
        Answer(
          **key, path=(k, n), role="reasoner", completion=said, length=length
        ),
        Graded(
          **key,
          path=(k, n),
          of=identity(said),
          grade=Grade(
            verdict=Verdict(status=status, extracted="6"),
            rewards={"accuracy": float(status is Status.RIGHT)},
          ),
        ),
      )
  store.finish(problem.id, key["digest"])


def status(right):
  return Status.RIGHT if right else Status.WRONG
