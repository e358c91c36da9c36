"""PAPO: identities, the direction of its terms, and which samples they are of."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sophia_jax.algorithms import credit, papo
from sophia_jax.algorithms.contract import Forward, Moment
from sophia_jax.algorithms.registry import build
from tests.algorithms import rows

SMALL = {"n": 4, "kl": 0.02, "dual": 0.0, "high": 0.3}
NEAR = rows.params(0)
NEAR["logits"] = NEAR["logits"] + 0.1 * rows.params(5)["logits"]


def grpo():
  return build("grpo", {**SMALL, "reduction": "token"})


def seen(**settings):
  """PAPO and a batch in which every sequence has an image, and a view."""
  algorithm = build("papo", {**SMALL, **settings})
  batch = rows.ready(algorithm)
  s = batch.streams
  rng = np.random.default_rng(2)
  gap = np.float32(rng.normal(size=s["mask"].shape)) * s["mask"]
  views = {"shown": s["weights"], "view_logps": s["old_logps"] + gap}
  return algorithm, rows.with_streams(batch, views)


def test_without_gamma_and_eta_it_is_grpo():
  ours = build("papo", {**SMALL, "gamma": 0.0, "eta": 0.0})
  assert [t.name for t in ours.terms] == [t.name for t in grpo().terms]
  assert len(ours.annotate) == len(grpo().annotate) and not ours.views
  batch, plain = rows.ready(ours), rows.ready(grpo())
  for params in (rows.MODELS["policy"], NEAR):
    rows.close(
      rows.gradient(ours, params, batch), rows.gradient(grpo(), params, plain)
    )


def test_a_sample_without_an_image_has_no_view():
  algorithm = build("papo", SMALL)
  batch = rows.ready(algorithm)
  assert not batch.streams["shown"].any()
  rows.close(
    rows.gradient(algorithm, NEAR, batch),
    rows.gradient(grpo(), NEAR, rows.ready(grpo())),
  )


def test_shown_is_the_weight_of_sequences_with_an_image():
  group = rows.GROUPS[0]
  turn = group.rollouts[0].turns[0]
  pictured = dataclasses.replace(turn.prompt, images=("a.png",), tiles=(1,))
  first = dataclasses.replace(
    group.rollouts[0], turns=(dataclasses.replace(turn, prompt=pictured),)
  )
  mixed = dataclasses.replace(group, rollouts=(first, *group.rollouts[1:]))
  algorithm = build("papo", {**SMALL, "reduction": "sequence"})
  _, made = credit.learn(algorithm, [mixed], None, Moment(round=6))
  np.testing.assert_array_equal(
    made[0].streams["shown"], made[0].streams["weights"]
  )
  for s in made[1:]:
    assert not s.streams["shown"].any()
  for s in made:
    np.testing.assert_array_equal(s.streams["draw"], 7 * s.streams["mask"])


def test_the_perception_gradient_is_one_minus_the_ratio_and_pushes_away():
  algorithm, batch = seen(gamma=0.02, eta=0.0)
  [term] = [t for t in algorithm.terms if t.name == "actor/kl_prcp"]
  assert term.coefficient(rows.START) == -0.02
  logps = np.asarray(batch.streams["old_logps"])
  found = rows.by_logps((term,), logps, batch)
  view = np.asarray(batch.streams["view_logps"])
  mask = np.asarray(batch.streams["mask"])
  want = (1 - np.exp(view - logps)) * mask / mask.sum()
  np.testing.assert_allclose(found, want, rtol=1e-3, atol=1e-7)
  # The loss has -gamma: where the image made a token likelier, a step raises it.
  likelier = (view < logps) & (mask > 0)
  assert likelier.any() and (-0.02 * found[likelier] < 0).all()


def test_a_view_that_hides_nothing_has_no_kl():
  algorithm, batch = seen(gamma=0.02, eta=0.0)
  same = {"view_logps": batch.streams["old_logps"]}
  batch = rows.with_streams(batch, same)
  [term] = [t for t in algorithm.terms if t.name == "actor/kl_prcp"]
  out = Forward(logps=batch.streams["old_logps"])
  assert not np.asarray(term.loss(out, batch)).any()


def test_an_estimate_is_bounded_and_has_no_gradient_beyond():
  algorithm, batch = seen(gamma=0.02, eta=0.0)
  [term] = [t for t in algorithm.terms if t.name == "actor/kl_prcp"]
  logps = np.asarray(batch.streams["old_logps"])
  far = rows.with_streams(
    batch, {"view_logps": np.where(batch.streams["mask"] > 0, logps + 5, 0)}
  )
  mask = np.asarray(batch.streams["mask"]) > 0
  loss = np.asarray(term.loss(Forward(logps=logps), far))
  assert (loss[mask] == papo.MOST).all()
  assert not rows.by_logps((term,), logps, far)[mask].any()


def test_eta_makes_what_was_sampled_likelier():
  algorithm, batch = seen(gamma=0.02, eta=0.05)
  [term] = [t for t in algorithm.terms if t.name == "actor/own_nll"]
  assert term.coefficient(rows.START) == 0.05
  logps = np.asarray(batch.streams["old_logps"])
  found = rows.by_logps((term,), logps, batch)
  mask = np.asarray(batch.streams["mask"]) > 0
  np.testing.assert_allclose(found[mask], -1 / mask.sum(), rtol=1e-5)


def test_gamma_falls_on_a_straight_line():
  coefficient = papo.falling(0.02, 0.0, 4)
  values = [coefficient(Moment(round=i)) for i in range(7)]
  np.testing.assert_allclose(values, [0.02, 0.015, 0.01, 0.005, 0, 0, 0])
  assert papo.falling(0.02, 0.0, 0)(Moment(round=9)) == 0.02
  algorithm = build("papo", {**SMALL, "gamma_rounds": 2, "gamma_last": 0.01})
  [term] = [t for t in algorithm.terms if t.name == "actor/kl_prcp"]
  assert term.coefficient(Moment(round=1)) == pytest.approx(-0.015)


def test_metrics_show_what_a_collapse_would_look_like():
  algorithm, batch = seen()
  s = {k: np.asarray(v) for k, v in batch.streams.items()}
  logps = s["old_logps"] + np.float32(math.log(1.5))
  out = Forward(logps=logps, entropy=np.zeros_like(logps))
  found = rows.means((*algorithm.terms, *algorithm.metrics), out, batch)
  share = lambda x: (x * s["mask"]).sum() / s["mask"].sum()
  higher = share(s["advantages"] > 0)
  np.testing.assert_allclose(found["actor/pg_clipfrac_higher"], higher)
  np.testing.assert_allclose(
    found["actor/view_nll"], share(-s["view_logps"]), rtol=1e-5
  )
  np.testing.assert_allclose(found["actor/own_nll"], share(-logps), rtol=1e-5)
  assert found["actor/kl_prcp"] > 0


def test_papo_d_learns_from_groups_with_right_and_wrong_answers():
  algorithm = build("papo_d", {"n": 4})
  same = rows.group(8, [(2, 1), (3, 1)])
  kept, _ = credit.learn(algorithm, [*rows.GROUPS, same], None, rows.START)
  assert [g.problem.id for g in kept] == ["p0", "p1", "p2"]
  assert algorithm.models == ("policy",)
  c = {t.name: t.coefficient(rows.START) for t in algorithm.terms}
  assert c == {
    "actor/pg_loss": 1.0,
    "actor/own_nll": 0.03,
    "actor/kl_prcp": -0.01,
  }


@pytest.mark.parametrize(
  ("text", "share", "want"),
  [
    ("<think>a</think> \\boxed{6}", 0.1, 1.0),
    ("\\boxed{6}", 0.1, 0.9),
    ("<think>a \\boxed{6}", 0.1, 0.9),
    ("\\boxed{6}", 0.0, 1.0),
  ],
)
def test_the_form_of_an_answer_is_a_share_of_the_reward(text, share, want):
  rollout = rows.GROUPS[0].rollouts[0]
  said = rows.completion([1], text=text)
  turn = dataclasses.replace(rollout.turns[0], completion=said)
  rollout = dataclasses.replace(rollout, turns=(turn,))
  assert papo.formed(share)(rollout, rows.START) == pytest.approx(want)


PARTS = ["<think>", "</think>", "\\boxed{", "}", "6", " ", "\n"]


@given(st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
def test_the_form_is_that_of_the_expression(text):
  form = r"\s*<think>.*</think>.*\\boxed\{.*\}.*"
  assert papo.has_form(text) == bool(re.fullmatch(form, text, re.DOTALL))


def test_a_hostile_text_has_no_form_at_once():
  assert not papo.has_form("<think>" + "</think>\\boxed{" * 100_000)
