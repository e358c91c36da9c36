"""From a rewarded response to per-token streams."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int8

from sophia_jax.types import Role

# Reduction -> (weight, count) of each of a sequence's n supervised tokens. The
# loss is sum(weight * loss) / sum(count) over the step: "sum" is Eq. 7 as it
# stands (a sum over tokens, a mean over sequences), "square" is InternVL's.
REDUCTIONS: dict[str, Callable[[int], tuple[float, float]]] = {
  "sum": lambda n: (1.0, 1.0 / n),
  "token": lambda n: (1.0, 1.0),
  "sequence": lambda n: (1.0 / n, 1.0 / n),
  "square": lambda n: (n**-0.5, n**-0.5),
}


def streams(
  roles: Int8[np.ndarray, "L"], reward: float, reduction: str
) -> dict[str, Float[np.ndarray, "L"]]:
  """Streams of one sequence whose response tokens earned `reward`.

  Returns:
    "advantages", "weights" and "count", zero outside the response.
  """
  response = (roles == Role.RESPONSE).astype(np.float32)
  weight, count = REDUCTIONS[reduction](max(int(response.sum()), 1))
  return {
    "advantages": reward * response,
    "weights": weight * response,
    "count": count * response,
  }
