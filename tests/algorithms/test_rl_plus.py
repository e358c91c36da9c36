"""RL-PLUS: its identities, and the weight that a teacher's token has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sophia_jax.algorithms import credit, diagnostics, losses, ratios
from sophia_jax.algorithms.contract import Forward, Term
from sophia_jax.algorithms.registry import build
from tests.algorithms import rows
from tests.algorithms.words import Letters

SMALL = {"n": 4, "longest": 8, "think": False, "entropy": 0.0}
POLICY = rows.MODELS["policy"]
NEAR = rows.params(0)
NEAR["logits"] = NEAR["logits"] + 0.3 * rows.params(5)["logits"]


def taught(group, i):
  """The group with its i-th rollout as a teacher's; its ids become letters."""
  rollouts = list(group.rollouts)
  turn = rollouts[i].turns[0]
  text = "".join(map(chr, turn.completion.token_ids))
  answer = dataclasses.replace(turn.completion, text=text)
  rollouts[i] = dataclasses.replace(
    rollouts[i],
    author="teacher",
    turns=(dataclasses.replace(turn, completion=answer),),
  )
  return dataclasses.replace(group, rollouts=tuple(rollouts))


class Table(Letters):
  """Letters of a vocabulary as small as the table's."""

  def prompt(self, question, images=(), system=None):
    return rows.prompt([3, 1])

  def sequence(self, prompt, response, *, id, streams=None):
    made = super().sequence(prompt, response, id=id, streams=streams)
    return dataclasses.replace(made, token_ids=made.token_ids % rows.VOCAB)


def ready(algorithm, groups, **layout):
  _, made = credit.learn(algorithm, groups, Table(), rows.START)
  batch = rows.laid_out(made, algorithm.streams, **layout)
  return rows.annotated(algorithm, [batch])[0]


MIXED = tuple(taught(g, 3) for g in rows.GROUPS)


def test_without_a_teacher_it_is_centred_grpo_without_a_clip():
  plain = build("dr_grpo", {"n": 4, "longest": 8, "low": 1e9, "high": 1e9})
  ours = build("rl_plus", SMALL)
  a, b = rows.ready(plain), ready(ours, rows.GROUPS)
  for params in (POLICY, NEAR):
    rows.close(rows.gradient(ours, params, b), rows.gradient(plain, params, a))
  clipped = build("rl_plus", {**SMALL, "clip": 0.2})
  plain = build("dr_grpo", {"n": 4, "longest": 8})
  rows.close(rows.gradient(clipped, NEAR, b), rows.gradient(plain, NEAR, a))


def test_teachers_tokens_have_the_mixture_and_the_focus():
  """By hand: the loss of every token, source by source."""
  algorithm = build("rl_plus", {**SMALL, "uniform": 0.25, "gamma": 0.5})
  batch = ready(algorithm, MIXED)
  s = {k: np.asarray(v) for k, v in batch.streams.items()}
  assert 0 < s["source"].sum() < s["mask"].sum()
  logps = np.asarray(rows.say(NEAR, batch).logps)
  p, old = np.exp(logps), np.exp(s["old_logps"])
  external = 4 * p / (3 * old + 0.25) * np.sqrt(1 - p)
  weight = np.where(s["source"] > 0, external, p / old)
  want = -(weight * s["advantages"] * s["mask"]).sum() / 8
  want /= s["count"].sum()
  np.testing.assert_allclose(s["count"].sum(), 12, rtol=1e-5)
  found = rows.objective(algorithm, NEAR, batch)
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_the_focus_has_no_gradient_of_its_own():
  algorithm = build("rl_plus", {**SMALL, "gamma": 2.0})
  batch = ready(algorithm, MIXED)
  s = {k: np.asarray(v) for k, v in batch.streams.items()}
  logps = jnp.asarray(np.float32(s["old_logps"] - 0.2))
  found = rows.by_logps(
    (Term("policy", algorithm.terms[0].loss),),
    logps,
    batch,
  )
  mixture = 4 * np.exp(logps) / (3 * np.exp(s["old_logps"]) + 1)
  want = -mixture * (1 - np.exp(logps)) ** 2 * s["advantages"] / 8 / 12
  where = s["source"] > 0
  np.testing.assert_allclose(found[where], want[where], rtol=1e-4)


def test_a_known_teacher_and_no_focus_are_the_on_policy_ratio():
  """pi_omega = pi_old: U is then pi_old itself."""
  algorithm = build("rl_plus", {**SMALL, "gamma": 0.0})
  batch = ready(algorithm, MIXED)
  out = Forward(logps=batch.streams["old_logps"] - 0.3)
  known = ratios.mixture(jnp.exp(batch.streams["old_logps"]))  # type: ignore[arg-type]
  loss = losses.by_source(
    losses.weighted(ratios.token), losses.weighted(ratios.focal(known, 0.0))
  )
  np.testing.assert_allclose(
    loss(out, batch), losses.weighted(ratios.token)(out, batch), rtol=1e-5
  )


@pytest.mark.parametrize(
  ("uniform", "p", "want"),
  [
    (1.0, 1e-3, 0.004),
    (1.0, 0.01, 0.039),
    (1 / 151936, 1e-4, 1.31),
    (1 / 151936, 1e-3, 1.33),
    (1 / 151936, 0.5, 0.94),
  ],
)
def test_u_decides_what_a_rare_token_weighs(uniform, p, want):
  """Weight of a token's log-probability where pi = pi_old = p."""
  np.testing.assert_allclose(curve(uniform, p), want, rtol=0.02)


def curve(uniform, p):
  logps = jnp.log(jnp.full((1, 1), p))
  batch = dataclasses.replace(
    ready(build("rl_plus", SMALL), rows.GROUPS), streams={"old_logps": logps}
  )
  ratio = ratios.focal(ratios.mixture(uniform), 0.5)
  return float(jax.grad(lambda x: ratio(x, batch).sum())(logps)[0, 0])


def test_with_u_of_1_the_weight_is_largest_in_the_middle():
  places = np.linspace(0.3, 0.6, 7)
  found = [curve(1.0, p) for p in places]
  assert places[int(np.argmax(found))] == pytest.approx(0.45)
  assert max(found) == pytest.approx(0.57, abs=0.005)


def test_a_sure_token_weighs_nothing_and_rounding_does_no_harm():
  ratio = ratios.focal(ratios.mixture(1.0), 0.5)
  logps = jnp.asarray([[0.0, 1e-7, -40.0]])
  batch = dataclasses.replace(
    ready(build("rl_plus", SMALL), rows.GROUPS), streams={"old_logps": logps}
  )
  value, grad = jax.value_and_grad(lambda x: ratio(x, batch).sum())(logps)
  assert np.isfinite(value) and np.isfinite(grad).all()
  np.testing.assert_allclose(ratio(logps, batch)[0], [0, 0, 0], atol=1e-6)


def test_the_entropy_is_a_mean_over_tokens_whatever_divides_the_rest():
  algorithm = build("rl_plus", {**SMALL, "entropy": 0.5, "scale": 3.0})
  batch = ready(algorithm, MIXED)
  bare = build("rl_plus", SMALL)
  entropy = np.asarray(rows.say(NEAR, batch).entropy)
  mask = np.asarray(batch.streams["mask"])
  want = 3 * rows.objective(bare, NEAR, batch) - 0.5 * np.average(
    entropy, weights=mask
  )
  found = rows.objective(algorithm, NEAR, batch)
  np.testing.assert_allclose(found, want, rtol=1e-4)


def test_an_answer_that_does_not_think_earns_nothing():
  rollout = rows.GROUPS[0].rollouts[0]
  assert rollout.rewards["accuracy"] == 1
  said = lambda text: dataclasses.replace(
    rollout,
    turns=(
      dataclasses.replace(
        rollout.turns[0], completion=rows.completion([1], text=text)
      ),
    ),
  )
  reward = build("rl_plus", {"n": 4}).reward
  assert reward(said("<think>a</think>6"), rows.START) == 1
  assert reward(said("6"), rows.START) == 0
  assert build("rl_plus", SMALL).reward(said("6"), rows.START) == 1


def test_an_all_wrong_group_learns_by_its_teacher():
  [group] = [taught(rows.group(7, [(2, 0), (3, 0), (2, 0), (2, 1)]), 3)]
  _, made = credit.learn(build("rl_plus", SMALL), [group], Table(), rows.START)
  values = [s.streams["advantages"].sum() for s in made]
  assert max(values[:3]) < 0 < values[3]


def test_metrics_tell_the_teachers_tokens_apart():
  algorithm = build("rl_plus", SMALL)
  batch = ready(algorithm, MIXED)
  out = rows.say(POLICY, batch)
  seen = rows.means(algorithm.metrics, out, batch)
  s = {k: np.asarray(v) for k, v in batch.streams.items()}
  p = np.exp(np.asarray(out.logps))
  want = np.average(p, weights=s["source"])
  np.testing.assert_allclose(seen["actor/teacher_prob"], want, rtol=1e-5)
  groups = credit.rewarded(MIXED, algorithm.reward, rows.START)
  groups[0] = dataclasses.replace(groups[0], absent=("teacher/cut",))
  found = diagnostics.of_round(groups, groups, [], rows.START)
  assert found["source/teacher/share"] == 0.25
  assert found["source/teacher/reward"] == pytest.approx(2 / 3)
  assert found["source/teacher/cut"] == 1
