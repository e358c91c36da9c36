"""How much a policy's answers depend on what it was asked (RAGEN-2, arXiv
2604.06268).

Answers that read well and are the same under every prompt have a high entropy
and say nothing about their prompts. With l_ij = log p(z_i | x_j), answers z_i of
the policy scored under N prompts x_j of the same round:

  H(Z|X)   = - mean_i l_i,own(i)
  I(X;Z)   = mean_i (l_i,own(i) - log 1/N sum_j exp l_ij)       at most log N
  accuracy = share of i where own(i) = argmax_j l_ij            chance: 1/N
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from sophia_jax.algorithms.annotate import logps
from sophia_jax.algorithms.contract import Crossed
from sophia_jax.types import Group, Prompt, Role, TokenSequence

STREAM = "crossed_logps"
ANNOTATORS = (logps(STREAM),)
"""The scoring of answers under all prompts, by the policy of the round."""


class Information(NamedTuple):
  """Estimates of how much answers depend on their prompts."""

  mutual: float
  """Mutual information of prompt and answer, nats an answer."""
  conditional: float
  """Entropy of an answer whose prompt is known, nats."""
  retrieved: float
  """Share of answers that are likeliest under their own prompt; the share of a
  tie is split."""


class Pairs(NamedTuple):
  """Answers of a round under its prompts."""

  sequences: list[TokenSequence]
  """All answers under all prompts, the prompts of an answer next to each other."""
  own: Int[np.ndarray, "K"]
  """Number of each answer's own prompt."""


def measured(
  logps: Float[np.ndarray, "K N"], own: Int[np.ndarray, "K"]
) -> Information:
  """Returns the estimates of the module, from log p(answer | prompt).

  Args:
    logps: log-probability of each answer under each prompt, nats.
    own: number of each answer's own prompt.
  """
  logps = np.asarray(logps, float)
  mine = logps[np.arange(len(own)), own]
  marginal = np.logaddexp.reduce(logps, axis=1) - np.log(logps.shape[1])
  best = logps == logps.max(axis=1, keepdims=True)
  found = best[np.arange(len(own)), own] / best.sum(axis=1)
  return Information(
    mutual=float(np.mean(mine - marginal)),
    conditional=float(-np.mean(mine)),
    retrieved=float(np.mean(found)),
  )


def pairs(groups: Sequence[Group], how: Crossed, length: int) -> Pairs:
  """Returns first answers of a round under first prompts of it, to be scored.

  Prompts are different ones, those of the first groups; a group with the prompt
  of an earlier one is passed over. An answer that fits under one of the prompts
  only beyond `length` is left out. Prompts that were asked in words have no ids
  and are left out as well.

  Args:
    groups: everything that was sampled in the round.
    length: tokens of the longest sequence that is scored.
  """
  chosen: dict[object, tuple[Prompt, Group]] = {}
  for group in groups:
    prompt = group.rollouts[0].turns[0].prompt if group.rollouts else None
    if isinstance(prompt, Prompt) and len(chosen) < how.prompts:
      key = prompt.token_ids.tobytes(), prompt.images
      chosen.setdefault(key, (prompt, group))
  prompts = [prompt for prompt, _ in chosen.values()]
  longest = max(map(len, prompts), default=0)
  made, own = [], []
  for number, (_, group) in enumerate(chosen.values()):
    for rollout in group.rollouts[: how.answers]:
      answer = np.asarray(rollout.turns[0].completion.token_ids, np.int32)
      if not len(answer) or longest + len(answer) > length:
        continue
      own.append(number)
      for j, prompt in enumerate(prompts):
        made.append(_joined(f"{rollout.id}|{j}", prompt, answer))
  return Pairs(made, np.array(own, int))


def of_round(
  scored: Sequence[TokenSequence], own: Int[np.ndarray, "K"]
) -> dict[str, float]:
  """Returns the metrics of a round, from `pairs` after `ANNOTATORS`.

  {} where there are not two prompts to tell apart.
  """
  prompts = len(scored) // max(len(own), 1)
  if prompts < 2 or not all(STREAM in s.streams for s in scored):
    return {}
  sums = np.array([s.streams[STREAM].sum(dtype=float) for s in scored])
  found = measured(sums.reshape(len(own), prompts), own)
  return {
    "collapse/mutual_information": found.mutual,
    "collapse/conditional_entropy": found.conditional,
    "collapse/retrieval_accuracy": found.retrieved,
    "collapse/prompts": float(prompts),
  }


def _joined(name: str, prompt: Prompt, answer: np.ndarray) -> TokenSequence:
  roles = np.append(prompt.roles, np.full(len(answer), Role.RESPONSE, np.int8))
  return TokenSequence(
    id=name,
    token_ids=np.append(prompt.token_ids, answer),
    roles=roles,
    images=prompt.images,
    tiles=prompt.tiles,
    streams={"mask": (roles == Role.RESPONSE).astype(np.float32)},
  )
