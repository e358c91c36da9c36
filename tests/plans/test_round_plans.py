"""What a round needs beside its update, of shapes alone."""

import dataclasses

import optax
import pytest

from sophia_jax.algorithms import registry
from sophia_jax.models import DecoderConfig, InternVLConfig, VisionConfig
from sophia_jax.plans import aot, arithmetic, rounds
from sophia_jax.plans.arithmetic import Case
from sophia_jax.plans.rounds import Engine, Rounds
from sophia_jax.plans.shape import Shape
from sophia_jax.train import sharding
from sophia_jax.train.devices import CPU
from sophia_jax.train.optimizer import OptimizerConfig
from sophia_jax.types import SophiaError

MODEL = InternVLConfig(
  vision=VisionConfig(width=32, depth=2, heads=2, mlp=64, image_size=56),
  decoder=DecoderConfig(
    vocab=128, width=64, depth=3, heads=4, kv_heads=2, mlp=96, head_dim=16
  ),
  image_token_id=3,
  dtype="bfloat16",
)
UPDATE = Shape(rows=4, length=256, tiles=8, microbatches=1, block=64)
ROUNDS = Rounds(
  groups=12,
  draws=1,
  epochs=2,
  minibatches=3,
  ahead=0,
  response=64,
  engine=None,
)


def case(name, **settings):
  return Case(
    cfg=MODEL,
    algorithm=registry.build(name, settings),
    shape=UPDATE,
    trained=("language",),
    optimizer=OptimizerConfig(),
    mesh=sharding.make_mesh(sharding.MeshConfig()),
    accelerator=CPU,
    attention=0.5,
  )


@pytest.mark.parametrize(
  ("name", "settings", "asked"),
  [
    ("grpo", {"n": 5}, {"policy": 5}),
    ("ppo", {}, {"policy": 1}),
    (
      "sophia",
      {"captions": 2, "trajectories": 3},
      {"caption": 2, "reasoner": 6},
    ),
    ("starpo", {"n": 3, "turns": 4}, {"policy": 12}),
    ("fgaif", {"n": 3, "known": True}, {"policy": 3}),
    ("grpo_care", {"n": 4}, {"policy": 4}),
  ],
)
def test_requests_are_those_of_the_recipe(name, settings, asked):
  assert rounds.requests(registry.build(name, settings)) == asked


def test_an_update_has_the_microbatches_that_its_sequences_need():
  algorithm = registry.build("grpo", {"n": 8})
  # 96 sequences, 32 an update, two a row: 16 rows.
  assert rounds.shape(ROUNDS, algorithm, UPDATE, 128).microbatches == 4
  # One more than a row takes twice as many.
  assert rounds.shape(ROUNDS, algorithm, UPDATE, 129).microbatches == 8


def test_copies_of_the_weights_are_counted_by_their_shards():
  plain = case("grpo", kl=0.0)
  assert rounds.held_bytes(ROUNDS, plain) == {}
  narrow = aot.placed_params(MODEL, plain.mesh, (), "bfloat16")
  referred = rounds.held_bytes(ROUNDS, case("grpo", kl=0.1))
  assert referred == {"reference": aot.held(narrow)}
  critic = rounds.held_bytes(ROUNDS, case("ppo", kl=0.0, critic="model"))
  state = arithmetic.state_bytes(plain)
  assert critic == {
    "critic": state["parameters"] + state["frozen"] + state["optimizer"]
  }
  care = rounds.held_bytes(ROUNDS, case("grpo_care"))
  assert care == {"average": state["parameters"]}
  here = dataclasses.replace(ROUNDS, engine=Engine(slots=6, length=100))
  held = rounds.held_bytes(here, plain)
  assert held["engine's weights"] == aot.held(narrow["language"])
  assert held["engine's caches"] == 2 * 3 * 6 * 100 * 2 * 16 * 2


def test_a_forward_pass_costs_less_than_half_of_an_update():
  one = case("grpo")
  update = arithmetic.cost(one)
  forward = rounds.forward_seconds(one, update)
  assert 0 < forward < 0.5 * sum(update.seconds.values())


def test_sampling_ahead_hides_behind_learning():
  one = case("grpo", kl=0.1)
  update = arithmetic.cost(one)
  found, _, _ = rounds.cost(ROUNDS, one, update, 128)
  ahead = dataclasses.replace(ROUNDS, ahead=1)
  hidden, _, _ = rounds.cost(ahead, one, update, 128)
  s = found.seconds
  assert found.updates == 6 and found.scored_by == ["policy", "reference"]
  assert s["round"] == pytest.approx(
    s["sampling"] + s["annotation"] + s["update"], rel=1e-3
  )
  assert hidden.seconds["round"] == pytest.approx(
    max(s["sampling"], s["annotation"] + s["update"]), rel=1e-3
  )


def test_the_step_of_a_method_with_a_head_compiles():
  one = case("ppo", kl=0.0)
  plain = dataclasses.replace(MODEL, vision=None, scan_unroll=1)
  shape = dataclasses.replace(UPDATE, tiles=0, rows=1, length=64)
  program = aot.compile_step(
    plain,
    one.algorithm,
    optax.identity(),
    ("language",),
    shape,
    one.mesh,
  )
  assert program.flops > 0 and program.arguments > 0


def test_no_tokens_a_second_are_refused():
  with pytest.raises(SophiaError, match="--sampling_throughput=0"):
    dataclasses.replace(ROUNDS, throughput=0)
