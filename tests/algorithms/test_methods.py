"""Methods of the registry: they differentiate, pack, shard and refuse."""

import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.algorithms import (
  advantages,
  annotate,
  corrections,
  credit,
  diagnostics,
  losses,
  ratios,
  reductions,
  registry,
  sampling,
)
from sophia_jax.algorithms.contract import Algorithm, Forward, Moment, Term
from sophia_jax.algorithms.registry import ALGORITHMS, build, check_sampling
from sophia_jax.types import Sampling, SophiaError
from tests.algorithms import rows
from tests.devices import host_devices

SMALL = {
  "grpo": {"n": 4, "dual": 3.0, "entropy": 0.01},
  "dapo": {"n": 4, "longest": 6, "buffer": 3},
  "dr_grpo": {"n": 4, "longest": 8},
  "rloo": {"n": 4},
  "gspo": {"n": 4},
  "cispo": {"n": 4},
  "ppo": {"lam": 0.95},
  "dpo": {"n": 4, "pairs": 3},
  "mpo": {"n": 4, "pairs": 3},
  "rl_plus": {"n": 4, "longest": 8, "think": False},
  "papo": {"n": 4},
  "papo_d": {"n": 4},
  "seed_bench_r1": {"n": 4},
}
ELSEWHERE = (
  *("openvlthinker", "vision_ekipl", "vlaa"),
  *("chains", "buckets", "screen"),
  *("starpo", "starpo_s", "grpo_care"),
  *("embodied_r", "describe", "clause_rewards", "fgaif"),
)
"""GRPO with other rewards or episodes, methods that write files, and those of
clauses: tests of their own."""

ON_POLICY = [*SMALL, "ppo with a critic", "grpo corrected"]
POLICY = rows.MODELS["policy"]


def method(name):
  if name == "ppo with a critic":
    return build("ppo", {"critic": "model", "kl_in": "loss"})
  if name == "grpo corrected":
    return corrections.corrected(
      build("grpo", SMALL["grpo"]), corrections.Config(level="sequence")
    )
  return build(name, SMALL[name])


def taught(name):
  """SFT and SOPHIA learn sequences that are rendered elsewhere."""
  algorithm = build(name)
  sequences = [
    dataclasses.replace(
      s, streams=credit.reduced(s.roles, algorithm.reduction, advantages=1.0)
    )
    for s in rows.learnt(method("grpo"))
  ]
  return algorithm, rows.laid_out(sequences, algorithm.streams)


def both(name):
  if name in ("sft", "sophia"):
    return taught(name)
  algorithm = method(name)
  batch = rows.ready(algorithm, length=40)
  zeros = np.zeros(batch.tokens.shape, np.float32)
  return algorithm, rows.with_streams(
    batch, dict.fromkeys(algorithm.numbers, zeros)
  )


def test_the_table_holds_what_the_tests_know():
  assert {*SMALL, *ELSEWHERE, "sft", "sophia"} == set(ALGORITHMS)
  for config, _ in ALGORITHMS.values():
    assert dataclasses.is_dataclass(config)


# ------------------------------------------------------------------- objectives
@pytest.mark.parametrize("name", ["sft", "sophia", *ON_POLICY])
def test_an_objective_jits_and_has_a_finite_gradient(name):
  algorithm, batch = both(name)
  far = rows.params(7, scale=3.0)  # off policy: ratios far from 1

  @jax.jit
  def graded(params, batch):
    out = rows.say(params, batch)
    seen = rows.means(algorithm.metrics, out, batch)
    return jax.value_and_grad(lambda p: rows.objective(algorithm, p, batch))(
      params
    ), seen

  for params in (POLICY, far):
    (loss, gradient), seen = graded(params, batch)
    for leaf in jax.tree.leaves((loss, gradient, seen)):
      assert np.isfinite(leaf).all()
  learnt = {"logits"} | ({"value"} if "value" in algorithm.outputs else set())
  for key in learnt:
    assert np.abs(gradient[key]).max() > 0, key


@pytest.mark.parametrize("name", ON_POLICY)
def test_an_objective_does_not_depend_on_the_packing(name):
  algorithm, batch = both(name)
  other = rows.ready(algorithm, length=57, rows=6, shuffle=1)
  near = rows.params(0)
  near["logits"] = near["logits"] + 0.05 * rows.params(5)["logits"]
  rows.close(
    rows.gradient(algorithm, near, batch),
    rows.gradient(algorithm, near, other),
    rtol=1e-4,
  )


@pytest.mark.parametrize("name", ON_POLICY)
def test_metrics_and_terms_are_reported_and_named_once(name):
  algorithm, batch = both(name)
  terms = (*algorithm.terms, *algorithm.metrics)
  assert len({t.name for t in terms}) == len(terms)
  for t in (*terms, *algorithm.maxima):
    assert {t.weights, t.normaliser} <= {*algorithm.all_streams}
  out = rows.say(POLICY, batch)
  seen = rows.means(algorithm.metrics, out, batch)
  if "actor/ppo_kl" in seen:
    np.testing.assert_allclose(seen["actor/ppo_kl"], 0.0, atol=1e-5)
    np.testing.assert_allclose(seen["actor/ratio_mean"], 1.0, rtol=1e-5)
    assert 0 < seen["actor/entropy"] < np.log(rows.VOCAB)
  for t in algorithm.metrics:
    grad = jax.grad(
      lambda p, t=t: rows.means([t], rows.say(p, batch), batch)[t.name]
    )(POLICY)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grad)), t.name


def test_clip_fractions_count_what_a_bound_decides():
  algorithm, batch = both("grpo")
  old, a = (np.asarray(batch.streams[k]) for k in ("old_logps", "advantages"))
  mask = np.asarray(batch.streams["mask"])
  out = Forward(
    logps=jnp.asarray(old + np.log(4.0)), entropy=jnp.zeros_like(old)
  )
  seen = rows.means(algorithm.metrics, out, batch)
  share = lambda x: (x * mask).sum() / mask.sum()
  np.testing.assert_allclose(seen["actor/pg_clipfrac"], share(a > 0), rtol=1e-5)
  lower = seen["actor/pg_clipfrac_lower"]
  np.testing.assert_allclose(lower, share(a < 0), rtol=1e-5)  # 4 > dual 3


# -------------------------------------------------------------------- schedules
def test_coefficients_come_from_the_settings():
  c = {t.name: t.coefficient(Moment()) for t in build("mpo").terms}
  assert c == {"preference": 0.8, "quality": 0.2, "generation": 1.0}
  c = {t.name: t.coefficient(Moment()) for t in build("grpo").terms}
  assert c[diagnostics.KL] == 0.04
  assert build("grpo").models == ("policy", "reference")
  assert build("grpo", {"kl": 0.0}).models == ("policy",)
  assert build("dapo").models == ("policy",)


# ------------------------------------------------------------- KL in the reward
@pytest.mark.parametrize("epochs", [1, 2])
def test_rloo_takes_the_kl_of_the_whole_response_from_the_reward(epochs):
  """R = r - beta KL, then leave-one-out: by definition, over two batches."""
  beta, algorithm = 0.3, build("rloo", {"n": 4, "kl": 0.3})
  sequences = rows.learnt(algorithm)
  halves = [sequences[0::2], sequences[1::2]] * epochs
  batches = [rows.laid_out(half, algorithm.streams) for half in halves]
  found = rows.annotated(algorithm, batches)
  kl, advantage = {}, {}
  for b in found:
    s = {k: np.asarray(v) for k, v in b.streams.items()}
    tokens = np.asarray(b.targets)
    for r, m in rows.segments_of(b):
      key = (s["group"][r][m][0], tuple(tokens[r][m]))
      kl[key] = (s["old_logps"] - s["ref_logps"])[r][m].sum()
      advantage[key] = s["advantages"][r][m]
  assert len(kl) == 12
  for group in rows.GROUPS:
    number = credit.tag(group.problem)
    keys = [(number, tuple(r.completion.token_ids)) for r in group.rollouts]
    rewards = [
      r.rewards["accuracy"] - beta * kl[k] for r, k in zip(group.rollouts, keys)
    ]
    want = advantages.leave_one_out(np.array(rewards))
    for key, a in zip(keys, want):
      np.testing.assert_allclose(advantage[key], a, rtol=1e-4, atol=1e-5)


def test_ppo_takes_the_kl_of_each_token_from_its_reward():
  plain, lowered = (
    rows.ready(build("ppo", {"kl": kl, "whiten": False})) for kl in (0.0, 0.5)
  )
  s = {k: np.asarray(v) for k, v in lowered.streams.items()}
  k1 = 0.5 * (s["old_logps"] - s["ref_logps"])
  for r, m in rows.segments_of(lowered):
    taken = np.cumsum(k1[r][m][::-1])[::-1]  # gamma = lambda = 1
    want = np.asarray(plain.streams["returns"])[r][m] - taken
    np.testing.assert_allclose(s["returns"][r][m], want, rtol=1e-4, atol=1e-4)


def test_whitening_is_over_the_round_and_after_the_returns():
  algorithm = build("ppo", {"kl": 0.0})
  sequences = rows.learnt(algorithm)
  batches = [
    rows.laid_out(part, algorithm.streams)
    for part in (sequences[:5], sequences[5:])
  ]
  found = rows.annotated(algorithm, batches)
  kept = np.concatenate(
    [np.asarray(b.streams["advantages"])[b.streams["mask"] > 0] for b in found]
  )
  np.testing.assert_allclose(kept.mean(), 0, atol=1e-6)
  np.testing.assert_allclose(kept.std(ddof=1), 1, rtol=1e-5)
  raw = rows.annotated(build("ppo", {"kl": 0.0, "whiten": False}), batches)
  for a, b in zip(found, raw):
    np.testing.assert_array_equal(a.streams["returns"], b.streams["returns"])


# ------------------------------------------------------------------ corrections
def corrected(batch=None, **config):
  config = corrections.Config(**config)
  algorithm = corrections.corrected(build("grpo", SMALL["grpo"]), config)
  return algorithm, batch or rows.ready(algorithm)


@pytest.mark.parametrize("level", corrections.LEVELS)
@pytest.mark.parametrize("mode", corrections.MODES)
def test_a_sampler_that_agrees_is_not_corrected(level, mode):
  algorithm, batch = corrected(level=level, mode=mode)
  same = rows.with_streams(
    batch, {"behaviour_logps": batch.streams["old_logps"]}
  )
  plain = rows.gradient(build("grpo", SMALL["grpo"]), POLICY, same)
  jax.tree.map(
    np.testing.assert_array_equal, rows.gradient(algorithm, POLICY, same), plain
  )


def test_weights_between_sampler_and_trainer_by_hand():
  _, batch = corrected()
  s = {k: np.asarray(v) for k, v in batch.streams.items()}
  gap = (s["old_logps"] - s["behaviour_logps"]) * s["mask"]
  for level, fold in (("sequence", np.sum), ("geometric", np.mean)):
    wide = corrections.Config(level=level, high=1e9)
    found = np.asarray(corrections.weight(batch, wide))
    for r, m in rows.segments_of(batch):
      want = np.exp(fold(gap[r][m]))
      np.testing.assert_allclose(found[r][m], want, rtol=1e-4)
  w = np.exp(gap)
  assert (w > 2).any() and (w < 0.5).any()
  cut = corrections.weight(batch, corrections.Config(high=2.0))
  np.testing.assert_allclose(cut, np.minimum(w, 2), rtol=1e-5)
  masked = corrections.Config(mode="mask", low=0.5, high=2.0)
  want = np.where((w < 0.5) | (w > 2), 0, w)
  np.testing.assert_allclose(corrections.weight(batch, masked), want, rtol=1e-5)


def test_what_another_model_wrote_is_not_corrected():
  """Nobody knows what its tokens were drawn with: the stream says NaN."""
  algorithm, batch = corrected(level="sequence")
  s = {k: np.asarray(v) for k, v in batch.streams.items()}
  source = (np.asarray(batch.segment_ids) == 1) * s["mask"]
  batch = rows.with_streams(
    batch,
    {
      "source": source,
      "behaviour_logps": np.where(source > 0, np.nan, s["behaviour_logps"]),
    },
  )
  found = np.asarray(corrections.weight(batch, corrections.Config()))
  assert (found[source > 0] == 1).all() and (found[s["mask"] > 0] != 1).any()
  seen = rows.means(algorithm.metrics, rows.say(POLICY, batch), batch)
  assert all(np.isfinite(value) for value in seen.values())


def test_corrections_need_old_log_probabilities():
  with pytest.raises(SophiaError, match="no old log-probabilities"):
    corrections.corrected(build("dpo"), corrections.Config())
  with pytest.raises(SophiaError, match=r"correction\.level: 'tokn'"):
    corrections.Config(level="tokn")


# -------------------------------------------------------------- several devices
def test_eight_devices_make_the_same_updates():
  """Rows and tokens of a row on a mesh of 4 x 2, against one device."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.algorithms.on_a_mesh"],
    env={**os.environ, "XLA_FLAGS": host_devices(8), "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.split() == ["sft", "sophia", *SMALL, "ok"]


# -------------------------------------------------------------------- a new one
@dataclasses.dataclass(frozen=True, kw_only=True)
class Toy:
  """A toy method."""

  n: int = 4
  """Rollouts of a problem."""


def toy(c: Toy) -> Algorithm:
  return Algorithm(
    sample=sampling.attempts(c.n),
    credit=credit.by_group(advantages.raw, reductions.token),
    streams=credit.STREAMS,
    annotate=(annotate.old_logps(),),
    terms=(Term("toy", losses.weighted(ratios.token)),),
  )


def test_a_new_method_is_one_function_and_one_row(monkeypatch):
  monkeypatch.setitem(registry.ALGORITHMS, "toy", (Toy, toy))
  algorithm = build("toy", {"n": 4})
  batch = rows.ready(algorithm)
  gradient = rows.gradient(algorithm, POLICY, batch)
  assert np.abs(gradient["logits"]).max() > 0


# --------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
  ("name", "settings", "message"),
  [
    ("ggrpo", {}, "algorithm 'ggrpo' is unknown; did you mean 'grpo'?"),
    ("grpo", {"nn": 3}, "config.grpo.nn: no such key; did you mean 'n'?"),
    ("grpo", {"n": 1}, "grpo.n: a group of 1 has no baseline; use 2 rollouts"),
    ("dapo", {"n": 1}, "dapo.n: a group of 1"),
    ("dr_grpo", {"n": 1}, "dr_grpo.n: a group of 1"),
    ("rloo", {"n": 1}, "rloo.n: a group of 1"),
    ("gspo", {"n": 1}, "gspo.n: a group of 1"),
    ("cispo", {"n": 0}, "cispo.n: a group of 0"),
    ("dpo", {"n": 1}, "dpo.n: a group of 1"),
    ("mpo", {"n": 1}, "mpo.n: a group of 1"),
    ("grpo", {"kl_estimator": "k1"}, "kl_estimator: 'k1' is not a loss, its"),
    ("grpo", {"kl_estimator": "k9"}, "kl_estimator: 'k9' is not a loss; use"),
    ("grpo", {"reduction": "tok"}, "grpo.reduction: 'tok' is unknown"),
    ("sft", {"reduction": "tok"}, "sft.reduction: 'tok' is unknown"),
    ("ppo", {"critic": "none"}, "ppo.critic: 'none' is unknown"),
    ("ppo", {"kl_in": "loss", "kl_estimator": "k1"}, "kl_estimator: 'k1'"),
    ("dapo", {"buffer": 9, "longest": 8}, "dapo.buffer: 9 tokens are not"),
    ("rl_plus", {"n": 1}, "rl_plus.n: 1 rollouts with 1 teachers leave"),
    ("rl_plus", {"uniform": 0.0}, "rl_plus.uniform: 0.0 is out of range"),
    ("rl_plus", {"gamma": -1.0}, "rl_plus.gamma: -1.0 is out of range"),
    ("papo", {"hidden": 1.5}, "papo.hidden: 1.5 does not fit; use 0 to 1"),
    ("papo", {"gamma": -0.1}, "papo.gamma: -0.1 does not fit; use 0 or more"),
    ("papo", {"place": "imag"}, "papo.place: 'imag' does not fit; use tile or"),
    ("papo", {"place": "image", "recompute": True}, "use tile with recompute"),
    ("papo_d", {"n": 1}, "papo_d.n: a group of 1"),
  ],
)
def test_a_mistake_is_one_line_before_anything_is_sampled(
  name, settings, message
):
  with pytest.raises(SophiaError) as e:
    build(name, settings)
  assert message in str(e.value)
  assert "\n" not in str(e.value)


@pytest.mark.parametrize(
  "draw", [{"top_p": 0.9}, {"top_k": 50}, {"temperature": 0.7}]
)
def test_a_sampler_that_draws_otherwise_has_no_ratios(draw):
  (key,) = draw
  for name in ("grpo", "gspo", "ppo", "rloo"):
    with pytest.raises(SophiaError, match=rf"sampling\.{key}: .* biases"):
      check_sampling(build(name), Sampling(**draw))
  for name in ("sft", "sophia", "dpo", "mpo"):
    check_sampling(build(name), Sampling(**draw))
  check_sampling(build("grpo"), Sampling())
