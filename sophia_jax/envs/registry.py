"""Environments by name, and the problems that hold them.

The answer of such a problem is its environment, written as JSON:

  {"env": "frozen_lake", "rows": ["SFFF", "FHFH", "FFFH", "HFFG"],
   "success_rate": 0.8}

so that the problem's identity has all that an episode depends on, beside the
seed of its chance.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from sophia_jax.config import nearest, section
from sophia_jax.envs.bandit import Bandit
from sophia_jax.envs.contract import Environment
from sophia_jax.envs.lake import FrozenLake
from sophia_jax.envs.sokoban import Sokoban
from sophia_jax.types import Problem, SophiaError, quoted

ENVIRONMENTS: dict[str, type[Any]] = {
  "bandit": Bandit,
  "frozen_lake": FrozenLake,
  "sokoban": Sokoban,
}


def written(environment: Environment) -> str:
  """Returns an environment as the answer of a problem."""
  [name] = [n for n, c in ENVIRONMENTS.items() if type(environment) is c]
  values = dataclasses.asdict(environment)  # type: ignore[call-overload]
  return json.dumps({"env": name, **values})


def of(problem: Problem) -> Environment:
  """Returns the environment of a problem.

  Raises:
    SophiaError: its answer is none; names the problem and what is wrong.
  """
  where = f"problem {problem.id}"
  try:
    values = json.loads(problem.answer)
  except (ValueError, RecursionError):
    values = None
  if not isinstance(values, dict) or "env" not in values:
    raise SophiaError(
      f"{where}: its answer, {quoted(problem.answer)}, is no environment; make "
      "problems with python -m sophia_jax.envs"
    )
  name = values.pop("env")
  if not isinstance(name, str) or name not in ENVIRONMENTS:
    raise SophiaError(
      f"{where}: no environment {quoted(name)}; "
      f"{nearest(str(name), ENVIRONMENTS)}"
    )
  try:
    return section(ENVIRONMENTS[name], values, name)
  except (SophiaError, TypeError, AttributeError, LookupError) as e:
    said = str(e).removeprefix(f"config.{name}").lstrip(".: ")
    raise SophiaError(f"{where}: {name}: {said}; correct its answer") from e
