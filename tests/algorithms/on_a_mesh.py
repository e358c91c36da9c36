"""Gradients on 8 devices against one; run with 8 forced host devices."""

import functools

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tests.algorithms import rows
from tests.algorithms.test_methods import SMALL, both


def spread_rows(batch, place):
  """Puts the arrays of rows on the devices; the others, of tiles, are empty."""
  rows_of = batch.tokens.shape
  return jax.tree.map(
    lambda x: jax.device_put(x, place) if np.shape(x) == rows_of else x, batch
  )


def main() -> None:
  jax.config.update("jax_disable_most_optimizations", True)
  assert len(jax.devices()) == 8
  mesh = jax.make_mesh(
    (4, 2), ("row", "context"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  place = NamedSharding(mesh, PartitionSpec("row", "context"))
  near = rows.params(0)
  near["logits"] = near["logits"] + 0.05 * rows.params(5)["logits"]
  for name in ("sft", "sophia", *SMALL):
    algorithm, batch = both(name)
    step = jax.jit(functools.partial(rows.gradient, algorithm))
    spread = spread_rows(batch, place)
    want = jax.device_get(step(near, jax.tree.map(np.asarray, batch)))
    rows.close(jax.device_get(step(near, spread)), want, rtol=1e-4)
    print(name)
  print("ok")


if __name__ == "__main__":
  main()
