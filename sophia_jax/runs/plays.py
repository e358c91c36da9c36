"""Prepares a world of environments: files, and a policy of random weights that
reads."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jax

from sophia_jax.envs import worlds
from sophia_jax.envs.worlds import WorldConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.starts import save_text_only


def prepare(run: Run) -> None:
  """Makes what is not there of: starts and examples, a text-only policy."""
  write(run)
  if not run.made("play_start"):
    with run.step("play_start"):
      key, path = jax.random.key(run.seed), run.config.policy.path
      save_text_only(run, _texts(run), "tokenizer", key, path)


def write(run: Run) -> None:
  """Writes the files of the environment, unless they are there."""
  if not run.made("world"):
    with run.step("world"):
      world = run.section(WorldConfig, "prepare.world")
      data, system = run.workdir / "data", run.config.prompts.slow_thinking
      worlds.write(data, world, system, run.seed)


def _texts(run: Run) -> Iterator[str]:
  """Yields the texts that the tokenizer is trained on: every word that is used."""
  name = run.config.prepare.world.env
  for file in (name, f"{name}_heldout", f"{name}_expert"):
    path = run.path(f"data/{file}.jsonl")
    with open(path, encoding="utf-8") as lines:
      for line in lines:
        row = json.loads(line)
        yield from (row["question"], row.get("response", ""))
  # What only later turns show: rewards and numbers.
  yield from (f"Reward: -0.1\nActions left: {n}" for n in range(100))
  yield from [run.config.prompts.system, run.config.prompts.slow_thinking] * 100
  yield from ["system\n", "user\n", "assistant\n"] * 100
