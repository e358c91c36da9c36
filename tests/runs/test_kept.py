"""Which tokens of a round are kept, and what of them."""

import dataclasses

import numpy as np
import pytest

from configs.digits import grpo
from sophia_jax.algorithms import diagnostics, registry
from sophia_jax.runs import kept, stage
from sophia_jax.types import Role, TokenSequence


def sequence(name, others=False, bundle=""):
  """Three tokens of a prompt and two of a response."""
  roles = np.array([0, 0, 0, Role.RESPONSE, Role.RESPONSE], np.int8)
  mask = (roles == Role.RESPONSE).astype(np.float32)
  streams = {"mask": mask, "weights": mask / 2, "advantages": -mask}
  return TokenSequence(
    id=f"{bundle}:{name}" if bundle else name,
    token_ids=np.arange(5, dtype=np.int32),
    roles=roles,
    images=(),
    tiles=(),
    streams={**streams, "source": others * mask},
    bundle=bundle,
  )


def test_the_choice_depends_on_seed_and_round_alone():
  made = [sequence(f"p{i}/{n}") for i in range(5) for n in range(4)]
  first = kept.chosen(made, 8, 3, 1)
  assert len(first) == 8
  assert first == kept.chosen(made, 8, 3, 1)
  assert set(first) == set(kept.chosen(made[::-1], 8, 3, 1))
  assert set(first) != set(kept.chosen(made, 8, 3, 2))
  assert set(first) != set(kept.chosen(made, 8, 4, 1))
  assert len(kept.chosen(made, 99, 0, 0)) == 20
  assert kept.chosen(made, 0, 0, 0) == {}


def test_a_rollout_is_chosen_whole_once_and_only_of_the_policy():
  made = [
    *(sequence("a/0"), sequence("a/0#1"), sequence("b/0", others=True)),
    *(sequence("c/0", bundle="x"), sequence("c/1", bundle="x")),
    *(sequence("c/0", bundle="y"), sequence("c/2", bundle="y")),
  ]
  found = kept.chosen(made, 99, 0, 0)
  assert found == {"a/0": [0, 1], "c/0": [3], "c/1": [4], "c/2": [6]}


def settings(**values):
  config = grpo.get_config()
  config.stages.grpo.update(rounds=2, groups=2, **values)
  return stage.read(config, "grpo")


@pytest.mark.parametrize("minibatches", [1, 2])
def test_values_are_those_of_the_last_update_that_learnt_a_rollout(minibatches):
  """Two updates of two microbatches with a row each; the third one is padding."""
  made = [sequence("a/0"), sequence("a/0#1"), sequence("b/0")]
  keeping = kept.Kept(settings(minibatches=minibatches), 0, 0, made)

  def tokens(value):
    return {"logp": np.full((1, 12), value), "ratio": np.ones((1, 12))}

  keeping.see([[0, 1], [2]], [tokens(-1.0), tokens(-2.0)])
  keeping.see([[2], []], [tokens(-3.0), tokens(-9.0)])
  found = keeping.rollouts()
  assert set(found) == {"a/0", "b/0"}
  assert found["a/0"].token_ids == (3, 4, 3, 4)
  wanted = {"logp": -1.0, "ratio": 1.0, "weight": 0.5, "advantage": -1.0}
  # The weights that the round begins with: those of its only update.
  wanted |= {"trainer": -1.0} if minibatches == 1 else {}
  assert {k: set(v) for k, v in found["a/0"].values.items()} == {
    k: {v} for k, v in wanted.items()
  }
  assert set(found["b/0"].values["logp"]) == {-3.0}


def test_a_token_that_is_not_learnt_has_no_value():
  made = sequence("a/0")
  mask = made.streams["mask"].copy()
  mask[-1] = 0
  made = dataclasses.replace(made, streams={**made.streams, "mask": mask})
  keeping = kept.Kept(settings(), 0, 0, [made])
  keeping.see([[0]], [{"logp": np.full((1, 8), -1.0)}])
  (found,) = keeping.rollouts().values()
  assert np.isfinite(found.values["logp"]).tolist() == [True, False]


def test_nothing_is_watched_where_nothing_is_kept():
  assert kept.terms(settings(keep_tokens=0)) == ()
  names = [term.name for term in kept.terms(settings())]
  assert names == ["logp", "entropy", "ratio", "clipped", "clipped_lower"]
  sampled = [n for n in registry.ALGORITHMS if registry.build(n, {}).terms]
  for name in sampled:
    terms = diagnostics.per_token(registry.build(name, {}))
    assert terms[0].name == "logp"
    assert len({term.name for term in terms}) == len(terms)
