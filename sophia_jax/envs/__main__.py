"""Makes problems whose answers are environments, from the command line.

python -m sophia_jax.envs frozen_lake data --problems=512 --heldout=256
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from sophia_jax import commands
from sophia_jax.config import section
from sophia_jax.envs.registry import ENVIRONMENTS
from sophia_jax.envs.worlds import WorldConfig, write

_EXAMPLE = "python -m sophia_jax.envs sokoban data --size=6 --problems=512"


def _parser() -> commands.Parser:
  parser = commands.Parser(
    prog="python -m sophia_jax.envs",
    description="Writes starts of an environment as problems: NAME.jsonl and "
    "NAME_heldout.jsonl, and NAME_expert.jsonl with --examples.",
    example=_EXAMPLE,
  )
  parser.add_argument("env", choices=sorted(ENVIRONMENTS))
  parser.add_argument("out", help="the folder to write into")
  parser.add_argument("--seed", type=int, default=0, help="seed of the starts")
  parser.add_argument(
    "--system", default="", help="system prompt of the examples"
  )
  for field in dataclasses.fields(WorldConfig):
    if field.name == "env":
      continue
    kind = type(field.default)
    flag = f"--{field.name}"
    if kind is bool:
      parser.add_argument(
        flag, action=argparse.BooleanOptionalAction, default=field.default
      )
    else:
      parser.add_argument(
        flag, type=kind, default=field.default, metavar=kind.__name__.upper()
      )
  return parser


def main(arguments: list[str]) -> int:
  """Runs the command; returns the exit code."""
  values = vars(_parser().parse_args(arguments))
  return commands.run(lambda: _write(values))


def _write(values: dict[str, Any]) -> int:
  out, seed, system = (values.pop(key) for key in ("out", "seed", "system"))
  config = section(WorldConfig, values, "worlds")
  write(Path(out), config, system, seed)
  print(
    f"{out}/{config.env}.jsonl: {config.problems} problems, "
    f"{config.env}_heldout.jsonl: {config.heldout}"
    + (
      f", {config.env}_expert.jsonl: {config.examples}" * bool(config.examples)
    )
  )
  return 0


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
