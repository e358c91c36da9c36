"""cuDNN's fused attention: packed rows by lengths and offsets, without a mask.

The primitives are those under jax's own wrapper
(jax._src.cudnn.fused_attention_stablehlo), which is not called itself: up to jax
0.11.0 it multiplies the offsets of keys by the number of query heads, which is
wrong where key heads are grouped (jax-ml/jax#39521), and its residual cannot be
named for rematerialization.

A packed call sees all rows as one run of tokens. It is compiled for a number of
segments; a batch with more is computed by another kernel, with the same result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from sophia_jax.models import device_kernels as device

TOKENS_PER_SEGMENT = 512
"""Average length of a row's segments from which on the packed kernel serves."""
SEGMENTS = (8, 64)
"""Fewest and most segments of a row that it is compiled for."""
PACKED = 9_06_00
"""First version of cuDNN with packed rows."""
HOPPER = 9.0
"""Compute capability from which on it has packed rows."""
RESIDUALS = "attention"
"""Checkpoint name of attention's output and of its softmax statistics."""

Q = Float[Array, "B T N H"]
KV = Float[Array, "B T M H"]
Other = Callable[[Q, KV, KV, Int[Array, "B T"]], Q]


class Stretches(NamedTuple):
  """Segments of all rows, in order; unused places come last, with length 0."""

  starts: Int[Array, "S"]
  """First token, counted from the first row's first."""
  lengths: Int[Array, "S"]
  found: Int[Array, ""]
  """Segments there are; more than S: not all of them are listed."""


def stretches(segment_ids: Int[Array, "B T"], most: int) -> Stretches:
  """Finds where segments begin; padding counts as one.

  Padding is computed as in the reference, so that every token is written: memory
  that a kernel leaves alone may hold NaN, and 0 x NaN reaches a gradient.

  Args:
    most: number of places S.
  """
  b, t = segment_ids.shape
  new = segment_ids[:, 1:] != segment_ids[:, :-1]
  new = jnp.pad(new, ((0, 0), (1, 0)), constant_values=True).reshape(-1)
  (starts,) = jnp.nonzero(new, size=most, fill_value=b * t)
  starts = starts.astype(jnp.int32)
  lengths = jnp.diff(starts, append=jnp.int32(b * t))
  return Stretches(starts, lengths, jnp.sum(new))


def most_segments(length: int) -> int:
  """Returns the segments a row that the packed kernel is compiled for."""
  least, most = SEGMENTS
  return min(max(length // TOKENS_PER_SEGMENT, least), most)


def obstacle(dtype: Any, width: int, packed: bool) -> str:
  """Returns why cuDNN cannot compute an attention; "" if it can.

  Args:
    width: width of a head.
  """
  if version() == 0:
    return "cuDNN is not there"
  if packed and version() < PACKED:
    return f"cuDNN {version()} is older than {PACKED}"
  if packed and capability() < HOPPER:
    return f"packed rows need a GPU of capability {HOPPER}, not {capability()}"
  if jnp.dtype(dtype).name not in ("bfloat16", "float16"):
    return f"{jnp.dtype(dtype).name} is neither bfloat16 nor float16"
  if width > 128 or width % 8:
    return f"a head width of {width} is no multiple of 8 up to 128"
  return ""


def version() -> int:
  """Returns the version of cuDNN, 9.6 as 90600; 0 if there is none, or the program
  is traced for something else than a GPU."""
  if device.platform() != "gpu":
    return 0
  try:
    return int(_jax().check_cudnn_version())
  except RuntimeError:
    return 0


def capability() -> float:
  """Returns the capability of this process's GPU; that of an H100 if it has
  none, for programs that are compiled for elsewhere."""
  if jax.default_backend() != "gpu":
    return HOPPER
  return float(jax.local_devices()[0].compute_capability)


# ------------------------------------------------------------------- attention
def rows(q: Q, k: KV, v: KV, segment_ids: Int[Array, "B T"], other: Other) -> Q:
  """Attends causally within each segment.

  Args:
    other: the same function, for more segments than the kernel is compiled for.
  """
  return _attention(most_segments(q.shape[1]), other, q, k, v, segment_ids)


def tiles(q: Q, k: Q, v: Q) -> Q:
  """Attends from every token of a row to every other."""
  return _attention(0, None, q, k, v, None)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(most, other, q, k, v, segment_ids):
  places = _places(most, q, segment_ids)
  kernel = lambda q, k, v: _forward(q, k, v, places, residuals=False)[0]
  instead = lambda q, k, v: other(q, k, v, segment_ids)
  return _fitting(places, kernel, instead, q, k, v)


def _attend(most, other, q, k, v, segment_ids):
  """Computes the output and what the backward pass needs."""
  places, (b, t, n, _) = _places(most, q, segment_ids), q.shape

  def kernel(q, k, v):
    return _forward(q, k, v, places, residuals=True)

  def instead(q, k, v):
    # Room for a row in each segment: cuDNN's own layout, read by it alone.
    statistics = jnp.zeros((b * most, n, t), jnp.float32)
    return other(q, k, v, segment_ids), statistics

  found = _fitting(places, kernel, instead, q, k, v)
  out, statistics = checkpoint_name(found, RESIDUALS)
  return out, (q, k, v, segment_ids, out, statistics)


def _gradients(most, other, residuals, cotangent):
  q, k, v, segment_ids, out, statistics = residuals
  places = _places(most, q, segment_ids)

  def kernel(q, k, v):
    return _backward(q, k, v, places, statistics, out, cotangent)

  def instead(q, k, v):
    again = lambda q, k, v: other(q, k, v, segment_ids)
    return jax.vjp(again, q, k, v)[1](cotangent)

  return (*_fitting(places, kernel, instead, q, k, v), None)


_attention.defvjp(_attend, _gradients)


def _places(most: int, q: Q, segment_ids: Any) -> Stretches | None:
  return stretches(segment_ids, most * q.shape[0]) if most else None


def _fitting(
  places: Stretches | None,
  kernel: Callable[..., Any],
  instead: Callable[..., Any],
  *args: Array,
) -> Any:
  """Runs the kernel, or what replaces it where there are too many segments."""
  if places is None:
    return kernel(*args)
  fits = places.found <= len(places.starts)
  return jax.lax.cond(fits, kernel, instead, *args)


# ---------------------------------------------------------------- jax's primitives
def _forward(
  q: Q, k: KV, v: KV, places: Stretches | None, residuals: bool
) -> tuple[Array, ...]:
  """Returns the output and, if asked for, softmax statistics."""
  return tuple(
    _jax()._dot_product_attention_fwd_p.bind(
      *(q, k, v, *_shape_arguments(q, k, places)),
      **_settings(q, places),
      is_training=residuals,
    )
  )


def _backward(
  q: Q,
  k: KV,
  v: KV,
  places: Stretches | None,
  statistics: Float[Array, "S N T"],
  out: Q,
  cotangent: Q,
) -> tuple[Array, ...]:
  """Returns the gradients of q, k and v."""
  return tuple(
    _jax()._dot_product_attention_bwd_p.bind(
      *(q, k, v, *_shape_arguments(q, k, places)),
      *(statistics, out, cotangent),
      **_settings(q, places),
    )
  )


def _shape_arguments(
  q: Q, k: KV, places: Stretches | None
) -> tuple[Array, ...]:
  """Returns bias, lengths and offsets (of queries, keys), and tables of pages.

  Offsets are counted in elements, and there is one more than segments for each
  row: cuDNN also reads where the last one ends.
  """
  unused = jnp.zeros(0, q.dtype)
  if places is None:
    return (unused,) * 7
  b, t = q.shape[:2]
  lengths = places.lengths.reshape(b, -1)
  starts = jnp.pad(places.starts, (0, b), constant_values=b * t)
  offsets = (
    (starts * (x.shape[2] * x.shape[3])).reshape(b, -1) for x in (q, k)
  )
  return (unused, lengths, lengths, *offsets, unused, unused)


def _settings(q: Q, places: Stretches | None) -> dict[str, Any]:
  wrapper = _jax()
  masks = wrapper.MaskType
  settings = {
    "scale": q.shape[-1] ** -0.5,
    "seed": 42,
    "dropout_rate": 0.0,
    "variadic_args": (False, False),  # neither a bias nor its gradient
    "mask_type": masks.PADDING_CAUSAL if places else masks.NO_MASK,
    "layout": wrapper.AttentionLayout.BTNH.value,
    "sliding_window_length": None,
  }
  # jax 0.12: a function of the scores, of which there is none.
  known = inspect.signature(wrapper._dot_product_attention_fwd_cuda_lowering)
  new = ("score_mod_name", "score_mod_jaxpr")
  return settings | {name: None for name in new if name in known.parameters}


def _jax() -> Any:
  from jax._src.cudnn import fused_attention_stablehlo

  return fused_attention_stablehlo
