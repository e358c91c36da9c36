"""The stages of a run, in the order the data flows; each resumes by itself."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from launch import digits, models
from launch.cli import Run, write_text
from sophia_jax.algorithms import sft, sophia
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.data.prompts import Prompts
from sophia_jax.data.sources import refuse_evaluation
from sophia_jax.evals import evaluate as evaluation
from sophia_jax.evals import report as page
from sophia_jax.progress import Progress
from sophia_jax.rewards.pool import Verifier
from sophia_jax.rollout.collect import RolloutConfig, collect
from sophia_jax.rollout.requests import Asking
from sophia_jax.rollout.store import Store
from sophia_jax.train import metrics
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.sequences import prepare as prepare_sequences
from sophia_jax.train.sequences import render
from sophia_jax.types import (
  Example,
  Problem,
  Sampling,
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
  problems(run)
  load_problems(run.path(run.config.data.heldout))


def policy_directory(run: Run) -> Path:
  """The policy that captions are sampled from: warmed up, if the config says."""
  if run.config.get("warmup"):
    return run.workdir / "models" / "warm"
  return run.path(run.config.policy.path)


def warm_up(run: Run) -> None:
  """SFT on captions and general questions, before the policy is sampled."""
  if run.done("warmup") or not run.config.get("warmup"):
    return
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
    models.export(model, params, policy_directory(run))


def verifier(run: Run) -> Verifier:
  """The verifier, which has shown that it can tell right from wrong."""
  pool = Verifier(**run.config.reward.to_dict())
  pool.self_check()
  return pool


# --------------------------------------------------------------------- sampling
def problems(run: Run) -> list[Problem]:
  """What SOPHIA samples for: no evaluation set may be among it."""
  path = run.path(run.config.data.problems)
  loaded = load_problems(path)
  refuse_evaluation(loaded, str(path))
  return loaded


def instruction(run: Run, name: str) -> list[Example]:
  """The examples of config.data.`name`, none of an evaluation set."""
  path = run.path(run.config.data[name])
  loaded = load_examples(path)
  refuse_evaluation(loaded, str(path))
  return loaded


def open_store(run: Run, read_only: bool = False) -> Store:
  """The trajectories; their meta is all that generation depends on."""
  config = run.config.to_dict()
  names = ("seed", "captioning", "reasoning", "prompts")
  meta = json.loads(json.dumps({name: config[name] for name in names}))
  # Not the streams that are mixed in later: one store serves many mixtures.
  meta["data"] = {n: config["data"].get(n) for n in ("problems", "warmup")}
  meta |= {
    "K": run.config.rollout.captions,
    "N": run.config.rollout.trajectories,
  }
  return Store(run.workdir / "trajectories", meta, read_only=read_only)


def sample(run: Run) -> None:
  """Captions, reasoning, rewards -> W/trajectories; goes on where it stopped."""
  if run.done("sample"):
    return
  with run.stage("sample"), verifier(run) as judge, open_store(run) as store:
    policy = models.load_policy(run, policy_directory(run))
    reasoners = {
      name: models.engine(run, models.load_reasoner(run, name))
      for name in run.config.reasoners
    }
    prompts = run.section(Prompts, "prompts")
    asking = Asking(
      policy=policy.renderer,
      caption=prompts.caption,
      reason=prompts.reason,
      captioning=run.section(Sampling, "captioning"),
      reasoning=run.section(Sampling, "reasoning"),
      seed=run.seed,
    )
    config = run.section(RolloutConfig, "rollout")
    asked = problems(run)
    total = len(asked) * config.captions * config.trajectories
    done = len(store.trajectories)
    right = sum(t.reward for t in store.trajectories.values())
    with Progress("sample", total, "trajectory", done) as progress:
      for trajectory in collect(
        asked,
        models.engine(run, policy),
        reasoners,
        asking,
        judge,
        store,
        config,
      ):
        right, done = right + trajectory.reward, done + 1
        progress.advance(1, reward=right / done)


# --------------------------------------------------------------------- training
def train(run: Run) -> None:
  """Selection and update -> W/checkpoints, W/export."""
  if run.done("train"):
    return
  with run.stage("train"):
    model = models.load_policy(run, policy_directory(run))
    config = run.section(TrainConfig, "train")
    mixture = run.section(MixtureConfig, "mixture")
    filters = run.section(FilterConfig, "filters")
    reduction = run.section(sophia.SophiaConfig, "sophia").reduction
    streams, counts = {}, {}
    for name, examples in _learnt(run, mixture).items():
      streams[name], counts[name] = prepare_sequences(
        examples, model.renderer, reduction, filters, config.length
      )
    write_text(run.workdir / "filters.json", json.dumps(counts, indent=1))
    with open_store(run, read_only=True) as store:
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
  with open_store(run, read_only=True) as store:
    examples = [
      example
      for group in store.groups(problems(run))
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


# ------------------------------------------------------------------- evaluation
def evaluate(
  run: Run, name: str, directory: Path, data: Path
) -> dict[str, Any]:
  """pass@1 of the policy in `directory` -> W/evals/NAME.json."""
  path = run.workdir / "evals" / f"{name}.json"
  config = run.section(evaluation.EvalConfig, "eval")
  asked = load_problems(
    data
  )  # before anything slow: a bad file is told at once
  with verifier(run) as judge:
    policy = models.load_policy(run, directory, config.resize)
    rows = evaluation.ask(
      asked,
      models.engine(run, policy),
      policy.renderer,
      judge,
      config,
      run.section(Prompts, "prompts").slow_thinking,
      run.seed,
    )
  summary = evaluation.summarise(rows)
  evaluation.write(path, summary, rows)
  return summary


def evaluate_once(run: Run, name: str, directory: Path) -> None:
  """One of the two evaluations of a run, on its held-out problems."""
  if not run.done(name):
    with run.stage(name):
      evaluate(run, name, directory, run.path(run.config.data.heldout))


# ----------------------------------------------------------------------- report
def report(run: Run) -> dict[str, Any]:
  """W/report.json and W/report.html."""
  before, after = (_evaluation(run, name) for name in ("before", "after"))
  config = run.section(sophia.SophiaConfig, "sophia")
  with open_store(run, read_only=True) as store:
    groups = list(store.groups(problems(run)))
  selected = {t.id for g in groups for t in sophia.select(g, config)}
  tally = page.tally(groups, selected)
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
    groups=groups[:6],
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
