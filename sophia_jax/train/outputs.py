"""Outputs of the model that losses may ask for, by name.

"logps" and "entropy" are statistics of the next-token distribution
(`models.logprobs`), all made in one pass over the vocabulary. The others are
heads beside the vocabulary: a linear map of the hidden states, in a top-level
part "heads" of the parameters, which no checkpoint format of a policy knows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from sophia_jax.algorithms.contract import Forward, View
from sophia_jax.algorithms.labels import KINDS
from sophia_jax.models import STATISTICS, lora
from sophia_jax.models.device_kernels import shards
from sophia_jax.train import sharding
from sophia_jax.train.state import Params
from sophia_jax.types import Batch, SophiaError

CLASSES = dict.fromkeys(KINDS, 3)
"""Heads of a reward model of clauses: a class for each label (absent, right,
wrong)."""
HEADS = {"value": 1, **CLASSES}
"""Channels of each head."""
OUTPUTS = (*STATISTICS, *HEADS)
PART = "heads"
AXES = {"kernel": PartitionSpec("embed", None), "bias": PartitionSpec(None)}


def check(outputs: Sequence[str]) -> None:
  """Refuses an output that no model has.

  Raises:
    SophiaError: a name that is not in OUTPUTS.
  """
  for name in outputs:
    if name not in OUTPUTS:
      raise SophiaError(
        f"algorithm: no output {name!r}; a model gives {', '.join(OUTPUTS)}"
      )


def with_heads(
  params: Params, width: int, outputs: Sequence[str], mesh: Mesh
) -> Params:
  """Adds the heads of `outputs` that `params` lacks, all zero.

  A value head that starts at zero predicts zero everywhere, and its first
  gradient reaches the head alone.

  Args:
    params: parameters on the mesh.
    width: D of the hidden states.
  """
  there = params.get(PART, {})
  heads = {
    name: {
      "kernel": np.zeros((width, channels), np.float32),
      "bias": np.zeros(channels, np.float32),
    }
    for name, channels in HEADS.items()
    if name in outputs and name not in there
  }
  if not heads:
    return params
  axes = dict.fromkeys(heads, AXES)
  return {**params, PART: {**there, **sharding.place(heads, axes, mesh)}}


def hidden_states(
  model: nn.Module, params: Params, batch: Batch
) -> Float[Array, "B T D"]:
  """Returns the final hidden states of packed rows, teacher-forced."""
  apply: Any = functools.partial(model.apply, lora.variables(params))
  shown = "vision" in params and len(batch.tiles) > 0
  places = batch.tile_places if shown else None
  # A device has whole shards of the packing, and no image is in two of them.
  where = places, shards("act_batch")
  embeds = apply(batch.tiles, *where, method="encode") if shown else None
  return apply(
    batch.tokens,
    batch.segment_ids,
    batch.positions,
    batch.tile_slots,
    embeds,
    places,
  )


def viewed(model: nn.Module, batch: Batch, view: View | None) -> Batch:
  """Returns the batch as a view shows it; a text-only model sees no pixels."""
  vision = model.cfg.vision if view else None
  if view is None or vision is None or not len(batch.tiles):
    return batch
  return view(batch, vision.patch_size)


def forward(
  model: nn.Module,
  params: Params,
  batch: Batch,
  outputs: tuple[str, ...],
  block: int,
) -> Forward:
  """Runs the model on packed rows.

  Args:
    params: parameters, with heads and adapters (`models.lora`) if it has any.
    batch: one microbatch; a target of -1 has log-probability and entropy 0.
    outputs: names in OUTPUTS.
    block: tokens of a row whose logits exist at the same time.
  """
  policy = {part: params[part] for part in params if part != PART}
  hidden = hidden_states(model, policy, batch)
  names = tuple(name for name in STATISTICS if name in outputs)
  apply: Any = functools.partial(model.apply, {"params": lora.base(policy)})
  values = (
    apply(hidden, batch.targets, block, names, method="token_statistics")
    if names
    else ()
  )
  said = {"logps": jnp.zeros(batch.targets.shape), **dict(zip(names, values))}
  heads = {
    name: _head(params[PART][name], hidden) for name in HEADS if name in outputs
  }
  return Forward(**said, heads=heads)


def _head(
  params: Params, hidden: Float[Array, "B T D"]
) -> Float[Array, "B T C"]:
  kernel = params["kernel"].astype(hidden.dtype)
  out = jnp.matmul(hidden, kernel, preferred_element_type=jnp.float32)
  return out + params["bias"]


def response_logps(
  model: nn.Module, params: Params, batch: Batch, block: int
) -> Float[Array, "B T"]:
  """Returns log p(targets) of packed rows; 0 where a target is -1."""
  return forward(model, params, batch, ("logps",), block).logps


def only(batch: Batch, wanted: Array) -> Batch:
  """Masks the targets outside `wanted`: they become -1."""
  targets = jnp.where(wanted, batch.targets, -1)
  return dataclasses.replace(batch, targets=targets)


def nonzero(batch: Batch, names: Sequence[str]) -> Array:
  """Returns which targets any of the named streams is not 0 at."""
  found = jnp.stack([batch.streams[name] != 0 for name in names])
  return jnp.any(found, axis=0)
