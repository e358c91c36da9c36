"""Low-rank adapters: y = x W + alpha / r (x A) B (LoRA, arXiv 2106.09685).

The adapters are a tree beside the parameters, which stay as they are: for the
kernel language/layers/attn/q/kernel [L, D, Z] it has language/layers/attn/q/a
[L, D, r] and b [L, r, Z]. `attach` makes them two more top-level parts of the
parameters; `variables` gives them to a model, whose linear maps add what is there
for them, and `merge` adds their products to the weights.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from sophia_jax.models.config import InternVLConfig, QwenVisionConfig
from sophia_jax.models.internvl import Params, abstract_params, logical_axes

PART, SCALE = "lora", "lora_scale"
"""Top-level parts that a model with adapters has: the adapters; alpha / r."""
COLLECTION = "lora"
"""Collection of variables in which a model finds the adapters."""
_FUSED = re.compile(r"vision/layers/attn/[qkv]/kernel")
"""Kernels of Qwen2.5-VL's encoder that are parts of a tensor on disk."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lora:
  """Which linear maps are adapted, and how."""

  rank: int
  """Rank r."""
  alpha: float
  """Scale of what the adapters add, times the rank."""
  parts: tuple[str, ...]
  """Top-level parts of the model."""
  targets: tuple[str, ...]
  """Linear maps by their names ("q"), or by the blocks that hold them ("attn",
  "mlp", "projector")."""

  @property
  def scale(self) -> float:
    return self.alpha / self.rank


class Shape(NamedTuple):
  """An adapted kernel [*L, in, out]."""

  stack: tuple[int, ...]
  """(layers,), or () for a kernel that is not stacked."""
  inputs: int
  outputs: int


def kernels(cfg: InternVLConfig, lora: Lora) -> dict[str, Shape]:
  """Returns the kernels that are adapted, by path.

  Raises:
    ValueError: a part that the model does not have, or a part or a target
      without a linear map.
  """
  known = every(cfg)
  found = {path: shape for path, shape in known.items() if _wanted(path, lora)}
  names = {name for path in found for name in path.split("/")}
  for missing in sorted({*lora.targets} - names):
    raise ValueError(
      f"no linear map of {', '.join(lora.parts)} is or belongs to {missing!r}; "
      f"known: {', '.join(_names(known, lora.parts))}"
    )
  for missing in sorted({*lora.parts} - names):
    raise ValueError(f"no target is in {missing!r}: {', '.join(lora.targets)}")
  return found


def every(cfg: InternVLConfig) -> dict[str, Shape]:
  """Returns all kernels that an adapter can be for, by path."""
  found = {}
  qwen = isinstance(cfg.vision, QwenVisionConfig)
  for path, leaf in flatten_dict(abstract_params(cfg), sep="/").items():
    # One linear map in every checkpoint, which PEFT adapts as a whole.
    if qwen and _FUSED.match(path):
      continue
    # The embedding of patches is a convolution in every checkpoint format.
    if path.endswith("/kernel") and "/patch/" not in path:
      *stack, inputs, outputs = leaf.shape
      found[path] = Shape(tuple(stack), inputs, outputs)
  return found


def _wanted(path: str, lora: Lora) -> bool:
  part, *rest = path.split("/")
  return part in lora.parts and not {part, *rest}.isdisjoint(lora.targets)


def _names(paths: Iterable[str], parts: tuple[str, ...]) -> list[str]:
  """Returns the targets that there are in `parts`, or anywhere."""
  split = [path.split("/")[:-1] for path in paths]
  within = [path for path in split if path[0] in parts] or split
  return sorted({n for path in within for n in path[-2:]})


def init(cfg: InternVLConfig, lora: Lora, seed: int) -> Params:
  """Draws fresh adapters: A uniform in +-in^-0.5, as PEFT does, and B zero.

  The numbers depend on the seed and each kernel's path alone.
  """
  key = jax.random.key(seed)
  tree = {}
  for path, shape in kernels(cfg, lora).items():
    own = jax.random.fold_in(key, zlib.crc32(path.encode()))
    bound = shape.inputs**-0.5
    a = (*shape.stack, shape.inputs, lora.rank)
    b = (*shape.stack, lora.rank, shape.outputs)
    at = path.removesuffix("kernel")
    tree[f"{at}a"] = jax.random.uniform(own, a, minval=-bound, maxval=bound)
    tree[f"{at}b"] = jnp.zeros(b)
  return unflatten_dict(tree, sep="/")


def abstract(cfg: InternVLConfig, lora: Lora) -> Params:
  """Shapes and dtypes of the adapters; nothing is allocated."""
  return jax.eval_shape(functools.partial(init, cfg, lora, 0))


def axes(cfg: InternVLConfig, lora: Lora) -> Params:
  """Returns a PartitionSpec of logical axis names for every adapter.

  A lies as its kernel's rows do, B as its columns; the rank is spread where the
  width of the residual would be, so that neither lies whole on every device.
  """
  specs = flatten_dict(logical_axes(cfg), sep="/")
  tree = {}
  for path in kernels(cfg, lora):
    *stack, inputs, outputs = specs[path]
    at = path.removesuffix("kernel")
    wide = {inputs, outputs} & {"embed", "vision_embed"}
    for_a = None if inputs in wide else next(iter(wide), None)
    for_b = None if outputs in wide else next(iter(wide), None)
    tree[f"{at}a"] = PartitionSpec(*stack, inputs, for_a)
    tree[f"{at}b"] = PartitionSpec(*stack, for_b, outputs)
  return unflatten_dict(tree, sep="/")


def attach(params: Params, adapters: Params, scale: Any) -> Params:
  """Returns the parameters with the adapters as two more parts."""
  return {**params, PART: adapters, SCALE: scale}


def base(params: Params) -> Params:
  """Returns the parameters without the adapters: the model they started from."""
  return {p: tree for p, tree in params.items() if p not in (PART, SCALE)}


def variables(params: Params) -> dict[str, Params]:
  """Returns what `Module.apply` takes: parameters, and adapters if there are
  any."""
  if PART not in params:
    return {"params": params}
  scaled = {
    path: x * params[SCALE] if path.endswith("/b") else x
    for path, x in flatten_dict(params[PART], sep="/").items()
  }
  return {
    "params": base(params),
    COLLECTION: unflatten_dict(scaled, sep="/"),
  }


def merge(params: Params) -> Params:
  """Returns the parameters with the adapters' products added to the weights.

  Sums are made in fp32 and rounded to the weights' dtype once. Weights without
  an adapter are shared with `params`.
  """
  if PART not in params:
    return params
  whole = flatten_dict(base(params), sep="/")
  for path, a, b in pairs(params[PART]):
    kernel = whole[path]
    add = _adding(getattr(kernel, "sharding", None))
    whole[path] = add(kernel, a, b, params[SCALE])
  return unflatten_dict(whole, sep="/")


def pairs(adapters: Params) -> Iterator[tuple[str, Any, Any]]:
  """Yields the path of each adapted kernel with its A and B."""
  flat = flatten_dict(adapters, sep="/")
  for path, a in flat.items():
    if path.endswith("/a"):
      at = path.removesuffix("a")
      yield f"{at}kernel", a, flat[f"{at}b"]


@functools.cache
def _adding(sharding: Any) -> Callable[..., Array]:
  return jax.jit(_add, out_shardings=sharding)


def _add(
  kernel: Float[Array, "*L D Z"],
  a: Float[Array, "*L D r"],
  b: Float[Array, "*L r Z"],
  scale: Float[Array, ""],
) -> Float[Array, "*L D Z"]:
  """Returns W + scale A B, one layer at a time: a sum is twice a bf16 kernel."""

  def one(layer: tuple[Array, Array, Array]) -> Array:
    kernel, a, b = layer
    product = jnp.matmul(a, b, precision="highest")
    return (kernel.astype(jnp.float32) + scale * product).astype(kernel.dtype)

  layer = kernel, a, b
  return one(layer) if kernel.ndim == 2 else jax.lax.map(one, layer)


def delta(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
  """Returns scale A B of one kernel, on the host, in fp32."""
  product = a.astype(np.float32) @ b.astype(np.float32)
  return np.float32(scale) * product
