"""The ratio of the policy to the reasoner whose trajectories it learns.

SOPHIA needs no importance weight if pi(y | x, v) / mu(y | x, c) is close to 1 for
what is learnt (arXiv 2507.16814, Lemma A.3). Both are known: mu's
log-probabilities are stored with the samples, pi's are those of the trainer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Moment
from sophia_jax.files import read_json, write_json
from sophia_jax.runs import policies, sampling, scoring, sources, training
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train import sharding
from sophia_jax.types import FinishReason, TokenSequence

NEAR = 0.1
"""Largest |pi/mu - 1| of what counts as near."""

Learnt = tuple[TokenSequence, np.ndarray, bool]
"""A sequence that is learnt, its sampler's log-probabilities, whether it ended."""


def measure(run: Run, stage: Stage) -> None:
  """Measures the ratio before and after a stage's update, unless that is done.

  Writes W/evals/ratio.json, of `StageConfig.ratios` learnt trajectories; nothing
  where that is 0.
  """
  path = _path(run)
  if not stage.config.ratios or path.exists():
    return
  directories = {
    "before": run.start(stage),
    "after": training.export_directory(run, stage),
  }
  found = {name: _of(run, stage, d) for name, d in directories.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  write_json(path, found)


def read(run: Run) -> dict[str, Any]:
  """Returns what `measure` wrote; {} where it wrote nothing."""
  path = _path(run)
  return read_json(path, "remove it to measure again") if path.exists() else {}


def _path(run: Run) -> Path:
  return run.place / "evals" / "ratio.json"


def _of(run: Run, stage: Stage, directory: Path) -> dict[str, float]:
  """Returns the measures of a checkpoint."""
  model = policies.load_policy(run, directory)
  params = policies.weights(model, sharding.make_mesh(sharding.MeshConfig()))
  gaps = []
  for sequence, mu, ended in _learnt(run, stage, sources.words(run, model)):
    pi = scoring.scored(model, params, sequence)["logprobs"]
    # A text that was cut has an end for the policy alone.
    gaps.append((np.asarray(pi if ended else pi[:-1]), mu))
  return summary(gaps)


def _learnt(
  run: Run, stage: Stage, words: sources.PolicyWords
) -> Sequence[Learnt]:
  """Returns the first trajectories that are learnt, as the update has them."""

  def every() -> Iterator[Learnt]:
    for group in sampling.groups(run, stage):
      answers = {r.id: r.completion for r in group.rollouts}
      made = credit.learn(stage.algorithm, [group], words, Moment())[1]
      for sequence in made:
        answer = answers[credit.rollout_of(sequence)]
        if answer.logps:
          ended = answer.finish_reason is FinishReason.STOP
          yield sequence, np.asarray(answer.logps), ended

  return list(itertools.islice(every(), stage.config.ratios))


def summary(
  gaps: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, float]:
  """Returns the measures of the tokens' (log pi, log mu) of each sequence.

  Returns:
    "n", sequences; "nats", the mean of log(pi/mu) of a sequence, and "median";
    "near", the share of sequences with |pi/mu - 1| <= NEAR, "tokens_near" that of
    tokens, where both vocabularies cut a text into as many; "effective", the
    effective share (sum w)^2 / (n sum w^2) of the weights w = pi/mu.
  """
  if not gaps:
    return {"n": 0}
  whole = np.array([pi.sum() - mu.sum() for pi, mu in gaps])
  alike = [pi - mu for pi, mu in gaps if len(pi) == len(mu)]
  weights = np.exp(whole - whole.max())
  found = {
    "n": len(gaps),
    "nats": float(whole.mean()),
    "median": float(np.median(whole)),
    "near": _near(whole),
    "effective": float(weights.sum() ** 2 / (len(gaps) * (weights**2).sum())),
  }
  if alike:
    found["tokens_near"] = _near(np.concatenate(alike))
  return found


def _near(logs: Float[np.ndarray, "N"]) -> float:
  """Returns the share of ratios, by their logarithms, that are near 1."""
  low, high = np.log1p([-NEAR, NEAR])
  return float(np.mean((logs >= low) & (logs <= high)))
