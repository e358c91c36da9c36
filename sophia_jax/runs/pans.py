"""Prepares a world of pans: files, and a policy of random weights that reads."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from sophia_jax.digits import measures, pan_corpus
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs.run import Run
from sophia_jax.runs.starts import save_text_only

WORKED = "data/pans_worked.jsonl"


def prepare(run: Run) -> None:
  """Makes what is not there of: data, a text-only policy's start."""
  if not run.made("pans"):
    with run.step("pans"):
      data = run.workdir / "data"
      data.mkdir(exist_ok=True)
      config = run.section(pan_corpus.PansConfig, "prepare.pans")
      prompts = run.section(Prompts, "prompts")
      pan_corpus.write(data, config, prompts, run.seed)
  if not run.made("pans_start"):
    with run.step("pans_start"):
      key, path = jax.random.key(run.seed), run.config.policy.path
      save_text_only(run, _texts(run), "tokenizer", key, path)


def measured(
  run: Run, responses: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
  """Measures whether held-out answers follow from what they state.

  Args:
    responses: {"before": rows of an evaluation, ...}.

  Returns:
    Measures of `digits.measures.of_views` by their names, then as `responses`;
    {} in a run of another world.
  """
  if not (run.config.get("prepare") and run.config.prepare.get("pans")):
    return {}
  if not responses:
    return {}
  problems = {p.id: p for p in run.problems(run.config.data.heldout)}
  found = {k: measures.of_views(v, problems) for k, v in responses.items()}
  names = next(iter(found.values()))
  return {
    name: {k: values[name] for k, values in found.items()} for name in names
  }


def _texts(run: Run) -> Iterator[str]:
  """Yields the texts that the tokenizer is trained on: every word that is used."""
  with open(run.workdir / WORKED, encoding="utf-8") as file:
    for line in file:
      row = json.loads(line)
      yield from (row["question"], row["response"])
  yield from [run.config.prompts.system, run.config.prompts.slow_thinking] * 100
  yield from ["system\n", "user\n", "assistant\n"] * 100
