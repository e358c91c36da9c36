"""The state of training: parameters that change and parameters that do not."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Int

from sophia_jax.types import SophiaError

Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
  """Everything that an update reads and changes.

  Example: step=100, params={"language": ...}, frozen={"vision": ...}
  """

  step: Int[Array, ""]
  params: Params
  """Trained parameters, by top-level part of the model."""
  opt_state: optax.OptState
  """Optimizer state of the trained parameters."""
  frozen: Params
  """The other parts: no gradient, no optimizer state."""

  @property
  def model_params(self) -> Params:
    return {**self.params, **self.frozen}


def create(
  params: Params, tx: optax.GradientTransformation, trained: tuple[str, ...]
) -> TrainState:
  """Starts training the parts `trained` of `params`.

  Raises:
    SophiaError: the model has no such part.
  """
  for part in trained:
    if part not in params:
      raise SophiaError(
        f"train.trained: no part {part!r}; this model has "
        f"{', '.join(sorted(params))}"
      )
  live = {k: v for k, v in params.items() if k in trained}
  start = lambda params: (jnp.zeros((), jnp.int32), tx.init(params))
  step, opt_state = jax.jit(start, out_shardings=(None, _layout(tx, live)))(
    live
  )
  return TrainState(
    step=step,
    params=live,
    opt_state=opt_state,
    frozen={k: v for k, v in params.items() if k not in trained},
  )


def abstract(
  params: Params, tx: optax.GradientTransformation, trained: tuple[str, ...]
) -> TrainState:
  """Returns the state that `create` would make, as shapes with shardings.

  Args:
    params: a `jax.ShapeDtypeStruct` with a NamedSharding for each parameter.
  """
  live = {k: v for k, v in params.items() if k in trained}
  mesh = jax.tree.leaves(params)[0].sharding.mesh
  everywhere = NamedSharding(mesh, PartitionSpec())

  def placed(leaf: Any, sharding: NamedSharding | None) -> Any:
    return jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding or everywhere
    )

  shapes = jax.eval_shape(tx.init, live)
  return TrainState(
    step=placed(jax.ShapeDtypeStruct((), jnp.int32), None),
    params=live,
    opt_state=jax.tree.map(placed, shapes, _layout(tx, live)),
    frozen={k: v for k, v in params.items() if k not in trained},
  )


def layout(state: TrainState) -> TrainState:
  """Returns where every array of the state lies."""
  return jax.tree.map(lambda x: x.sharding, state)


def _layout(tx: optax.GradientTransformation, params: Params) -> optax.OptState:
  """Returns where the optimizer's state lies: moments with their parameter.

  Stated because the compiler, asked for zeros, puts them whole on every device.
  """
  return optax.tree.map_params(
    tx,
    lambda _, param: param.sharding,
    jax.eval_shape(tx.init, params),
    params,
    transform_non_params=lambda _: None,
  )


def copied(params: Params, dtype: str | None = None) -> Params:
  """Copies parameters on their devices: an update donates those it is given.

  Args:
    dtype: dtype of the copy; None: each parameter's own.
  """

  def copy(x: Array) -> Array:
    same = dtype is None or x.dtype == jnp.dtype(dtype)
    return jnp.copy(x) if same else x.astype(dtype)

  return jax.tree.map(copy, params)
