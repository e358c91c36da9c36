"""Splash attention with a row's queries divided among devices, against xla.

A separate process, because it needs 4 devices:
`XLA_FLAGS=--xla_force_host_platform_device_count=4 python -m
tests.models.on_context splash`.
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

from sophia_jax.models import device_kernels
from sophia_jax.train import sharding
from tests.models import test_kernels as common

# A long segment that every device works on, short ones, and padding.
LENGTHS = {
  (4, 1): [[700, 3, 200, 100]],
  (2, 2): [[512], [130, 1, 300, 60]],
}


def main(name: str) -> None:
  jax.config.update("jax_disable_most_optimizations", True)
  for (context, tensor), lengths in LENGTHS.items():
    length = 2 * device_kernels.LANES * context
    ids = jnp.asarray(common.segments(lengths, length))
    args = *common.drawn(length, 4, 2, 64, len(lengths)), ids
    wanted = common.value_and_gradients("xla", *args)
    mesh = sharding.make_mesh(
      sharding.MeshConfig(fsdp=1, context=context, tensor=tensor)
    )
    with jax.set_mesh(mesh), nn.logical_axis_rules(sharding.RULES):
      found = common.value_and_gradients(name, *args)
    common.assert_same(found, wanted, atol=2e-5)
    print(f"context={context} tensor={tensor}: the same")


if __name__ == "__main__":
  main(sys.argv[1])
