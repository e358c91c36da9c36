"""The stages of a run, in the order the data flows; each resumes by itself."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import json
from pathlib import Path
from typing import Any

from launch import digits, hosts, models, sampling
from launch.cli import Run, write_text
from sophia_jax.algorithms import sft, sophia
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.data.prompts import Prompts
from sophia_jax.data.sources import refuse_evaluation
from sophia_jax.evals import report as page
from sophia_jax.train import metrics
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.sequences import prepare as prepare_sequences
from sophia_jax.train.sequences import render
from sophia_jax.types import (
  Example,
  SophiaError,
  Status,
  Verdict,
)

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def prepare(run: Run) -> None:
  """Makes what the config makes from nothing; others bring checkpoints."""
  if run.config.get("prepare"):
    digits.prepare(run)


def check_data(run: Run) -> None:
  """Finds every mistake in the problems before anything is paid for."""
  sampling.problems(run)
  load_problems(run.path(run.config.data.heldout))


def warm_up(run: Run) -> None:
  """SFT on captions and general questions, before the policy is sampled."""
  if run.done("warmup") or not run.config.get("warmup"):
    return
  run = run.laid_out()
  with run.stage("warmup"):
    model = models.load_policy(run, run.path(run.config.policy.path))
    examples = instruction(run, "warmup")
    params = models.train(
      run,
      model,
      render(examples, model.renderer, "token"),
      sft,
      run.section(TrainConfig, "warmup"),
      run.workdir / "warmup",
    )
    models.export(model, params, sampling.policy_directory(run))


def instruction(run: Run, name: str) -> list[Example]:
  """The examples of config.data.`name`, none of an evaluation set."""
  path = run.path(run.config.data[name])
  loaded = load_examples(path)
  refuse_evaluation(loaded, str(path))
  return loaded


# --------------------------------------------------------------------- training
def train(run: Run) -> None:
  """Selection and update -> W/checkpoints, W/export."""
  if run.done("train"):
    return
  run = run.laid_out()
  with run.stage("train"):
    model = models.load_policy(run, sampling.policy_directory(run))
    config = run.section(TrainConfig, "train")
    mixture = run.section(MixtureConfig, "mixture")
    filters = run.section(FilterConfig, "filters")
    reduction = run.section(sophia.SophiaConfig, "sophia").reduction
    streams, counts = {}, {}
    for name, examples in _learnt(run, mixture).items():
      streams[name], counts[name] = prepare_sequences(
        examples, model.renderer, reduction, filters, config.length
      )
    if hosts.first():
      write_text(run.workdir / "filters.json", json.dumps(counts, indent=1))
    with sampling.open_store(run, read_only=True) as store:
      position = store.position
    params = models.train(
      run,
      model,
      streams,
      sophia,
      config,
      run.workdir,
      mixture,
      store_position=position,
    )
    models.export(model, params, run.workdir / "export")


def _learnt(run: Run, mixture: MixtureConfig) -> dict[str, list[Example]]:
  """The examples of each stream that has data and takes part in the mixture."""
  prompts = run.section(Prompts, "prompts")
  streams: dict[str, list[Example]] = {}
  if mixture.visual:
    streams["visual"] = _selected(run, prompts)
  for name in ("text", "general"):
    if run.config.data.get(name) and mixture.amounts[name]:
      streams[name] = [
        dataclasses.replace(
          e, system=sophia.system_prompt(e.response, prompts.slow_thinking)
        )
        if e.system is None
        else e
        for e in instruction(run, name)
      ]
  return streams


def _selected(run: Run, prompts: Prompts) -> list[Example]:
  """What the policy learns of the store."""
  config = run.section(sophia.SophiaConfig, "sophia")
  with sampling.open_store(run, read_only=True) as store:
    examples = [
      example
      for group in store.groups(sampling.problems(run))
      for example in sophia.credit(
        group, config, prompts.slow_thinking, prompts.caption
      )
    ]
  if not examples:
    raise SophiaError(
      f"{run.workdir / 'trajectories'}: no trajectory is selected; sample "
      "more, lower config.sophia.alpha, or warm the policy up for longer"
    )
  return examples


# ----------------------------------------------------------------------- report
def report(run: Run) -> dict[str, Any]:
  """W/report.json and W/report.html."""
  before, after = (_evaluation(run, name) for name in ("before", "after"))
  config = run.section(sophia.SophiaConfig, "sophia")
  asked = sampling.problems(run)
  with sampling.open_store(run, read_only=True) as store:  # which may be large
    selected = {
      t.id for g in store.groups(asked) for t in sophia.select(g, config)
    }
    tally = page.tally(store.groups(asked), selected)
    groups = list(itertools.islice(store.groups(asked), 6))
  result = {
    "seed": run.seed,
    "pass_at_1": {
      "before": before["pass_at_1"],
      "after": after["pass_at_1"],
    },
    "by_source": {"before": before["by_source"], "after": after["by_source"]},
    "counts": tally.counts,
    "caption_reward_mean": tally.caption_reward_mean,
    "training_data": {
      "filters": _read(run.workdir / "filters.json"),
      "batches": _read(run.workdir / "input.json"),
    },
    "seconds": run.seconds(),
    "versions": {n: importlib.metadata.version(n) for n in LIBRARIES},
    "config": run.config.to_dict(),
  }
  stages = {
    "vision": run.workdir / "vision",
    "reasoner": run.workdir / "reasoner",
    "warm-up": run.workdir / "warmup",
    "SOPHIA": run.workdir,
  }
  curves = {
    name: [(row["step"], row["loss"]) for row in rows]
    for name, folder in stages.items()
    if (rows := metrics.read(folder / "metrics.jsonl"))
  }
  held_out = {p.id: p for p in load_problems(run.path(run.config.data.heldout))}
  samples = page.Samples(
    groups=groups,
    selected=selected,
    answers=[
      page.Answer(
        problem=held_out[old["id"]], before=_answer(old), after=_answer(new)
      )
      for old, new in list(zip(before["responses"], after["responses"]))[:12]
    ],
    caption_rewards=tally.caption_rewards,
    lengths=tally.lengths,
    alpha=config.alpha,
  )
  page.write_report(run.workdir, result, curves, samples)
  return result


def _evaluation(run: Run, name: str) -> dict[str, Any]:
  return _read(run.workdir / "evals" / f"{name}.json")


def _read(path: Path) -> dict[str, Any]:
  return json.loads(path.read_text(encoding="utf-8"))


def _answer(row: dict[str, Any]) -> tuple[str, Verdict]:
  verdict = Verdict(status=Status(row["status"]), extracted=row["extracted"])
  return row["response"], verdict
