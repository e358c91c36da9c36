"""Groups of rollouts, packed ragged rows and a language model of one table."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Forward, Moment
from sophia_jax.data.packing import PackConfig
from sophia_jax.data.rows import pack
from sophia_jax.types import (
  Completion,
  FinishReason,
  Group,
  Problem,
  Prompt,
  Role,
  Rollout,
  TokenSequence,
  Turn,
)

VOCAB = 11
START = Moment()


# --------------------------------------------------------------------- rollouts
def prompt(ids):
  return Prompt(
    token_ids=np.asarray(ids, np.int32),
    roles=np.zeros(len(ids), np.int8) + Role.PROMPT,
  )


def completion(ids, logps=None, reason=FinishReason.STOP, text="", **rest):
  return Completion(
    request_id="",
    text=text,
    token_ids=tuple(int(i) for i in ids),
    logps=None if logps is None else tuple(float(p) for p in logps),
    finish_reason=reason,
    **rest,
  )


def rollout(problem, i, tokens, reward, seed=0):
  """The i-th sample of a flat group: a prompt of 2 to 4 tokens, then `tokens`."""
  rng = np.random.default_rng([seed, i, tokens])
  ids = rng.integers(0, VOCAB, tokens)
  asked = prompt(rng.integers(0, VOCAB, int(rng.integers(2, 5))))
  answer = completion(ids, -5 * rng.random(tokens) - 0.1)
  return Rollout(
    problem_id=problem.id,
    path=(i,),
    turns=(Turn(prompt=asked, completion=answer),),
    rewards={"accuracy": float(reward)},
    length=tokens,
  )


def group(number, samples):
  """A flat group of (response tokens, reward)."""
  problem = Problem(id=f"p{number}", question="?", answer="6")
  rollouts = (
    rollout(problem, i, tokens, reward, number)
    for i, (tokens, reward) in enumerate(samples)
  )
  return Group(problem=problem, rollouts=tuple(rollouts))


GROUPS = (
  group(0, [(3, 1), (5, 0), (1, 0), (4, 1)]),
  group(1, [(2, 0), (7, 1), (2, 1), (3, 1)]),
  group(2, [(6, 0), (1, 1), (5, 0), (2, 0)]),
)


def learnt(algorithm, groups=GROUPS):
  return credit.learn(algorithm, groups, None, START)[1]


# ------------------------------------------------------------------------- rows
def laid_out(sequences, streams, length=28, rows=8, shuffle=None):
  """Sequences in ragged rows by first fit; those of a bundle side by side."""
  bundles: dict[str, list[TokenSequence]] = {}
  for s in sequences:
    bundles.setdefault(s.bundle or s.id, []).append(s)
  items = list(bundles.values())
  if shuffle is not None:
    np.random.default_rng(shuffle).shuffle(items)
  out: list[list[TokenSequence]] = [[] for _ in range(rows)]
  for item in items:
    size = sum(map(len, item))
    row = next(r for r in out if sum(map(len, r)) + size <= length)
    row += item
  packed = pack(
    out,
    PackConfig(rows=rows, length=length, tile_budget=0),
    tokens_per_tile=1,
    tile_size=1,
    streams=streams,
    load_tiles=None,
  )
  return dataclasses.replace(packed, bundle_ids=_bundles(out, length))


def _bundles(rows, length):
  ids = np.zeros((len(rows), length), np.int32)
  for row, sequences in zip(ids, rows):
    start, known = 0, {}
    for s in sequences:
      number = known.setdefault(s.bundle or s.id, len(known) + 1)
      row[start : start + len(s)] = number
      start += len(s)
  return ids


# ----------------------------------------------------------------------- models
def params(seed=0, scale=1.0):
  """A model: logits and value of the next token, by the token before it."""
  rng = np.random.default_rng(seed)
  return {
    "logits": np.float32(scale * rng.normal(size=(VOCAB, VOCAB))),
    "value": np.float32(scale * rng.normal(size=VOCAB)),
  }


def say(params, batch):
  tables = {k: jnp.asarray(v) for k, v in params.items() if k != "logits"}
  logps = jax.nn.log_softmax(jnp.asarray(params["logits"])[batch.tokens])
  picked = jnp.take_along_axis(logps, batch.targets[..., None], axis=-1)
  return Forward(
    logps=picked[..., 0],
    entropy=-jnp.sum(jnp.exp(logps) * logps, axis=-1),
    heads={
      k: table[batch.tokens].reshape(*batch.tokens.shape, -1)
      for k, table in tables.items()
    },
  )


MODELS = {
  "policy": params(0),
  "reference": params(1),
  "critic": params(2),
}


def with_streams(batch, streams):
  return dataclasses.replace(batch, streams={**batch.streams, **streams})


def annotated(algorithm, batches, models=MODELS):
  """All streams of a round, made one annotator after the other."""
  for a in algorithm.annotate:
    if a.score:
      score = lambda model, batch, names, view=None: say(models[model], batch)
      made = [a.score(score, batch) for batch in batches]
    else:
      made = a.across(
        [jax.tree.map(np.asarray, dict(b.streams)) for b in batches],
        [np.asarray(b.segment_ids) for b in batches],
      )
    assert all(set(m) == set(a.streams) for m in made)
    batches = [with_streams(b, m) for b, m in zip(batches, made)]
  return batches


def ready(algorithm, groups=GROUPS, models=MODELS, **layout):
  """One annotated batch of what the algorithm learns of the groups."""
  sequences = learnt(algorithm, groups)
  batch = laid_out(sequences, algorithm.streams, **layout)
  return annotated(algorithm, [batch], models)[0]


# ------------------------------------------------------------------- objectives
def means(terms, out, batch):
  """sum w loss / sum n of each term."""
  return {
    t.name: jnp.sum(batch.streams[t.weights] * t.loss(out, batch))
    / jnp.maximum(jnp.sum(batch.streams[t.normaliser]), 1e-9)
    for t in terms
  }


def objective(algorithm, params, batch, moment=START):
  shape = np.shape(batch.tokens)
  numbers = {k: f(moment) for k, f in algorithm.numbers.items()}
  batch = with_streams(
    batch, {k: jnp.full(shape, v) for k, v in numbers.items()}
  )
  found = means(algorithm.terms, say(params, batch), batch)
  return sum(t.coefficient(moment) * found[t.name] for t in algorithm.terms)


def gradient(algorithm, params, batch, moment=START):
  return jax.grad(lambda p: objective(algorithm, p, batch, moment))(params)


def by_logps(terms, logps, batch, **out):
  """The gradient of terms by the log-probabilities themselves."""

  def total(logps):
    return sum(means(terms, Forward(logps=logps, **out), batch).values())

  return np.asarray(jax.grad(total)(jnp.asarray(logps)))


def close(a, b, rtol=1e-5, atol=1e-6):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
  )


def segments_of(batch):
  """(row, mask of the segment's learnt tokens), segment by segment."""
  ids = np.asarray(batch.segment_ids)
  for r in range(len(ids)):
    for i in sorted(set(ids[r]) - {0}):
      yield r, (ids[r] == i) & (np.asarray(batch.streams["mask"][r]) > 0)
