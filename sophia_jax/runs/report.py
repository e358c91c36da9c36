"""W/report.json and W/report.html, from what the stages of a run have written."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax import stopping
from sophia_jax.algorithms import credit
from sophia_jax.algorithms.contract import Moment
from sophia_jax.evals import report as page
from sophia_jax.files import read_json
from sophia_jax.runs import digits, pans, ratios, sampler, sampling, trials
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.runs.stage import Stage
from sophia_jax.train import metrics
from sophia_jax.types import Group, Status, Verdict

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
SHOWN = 6
"""Problems that the page shows in full."""
ANSWERS = 12
"""Answers to held-out problems that the page shows."""
CURVES = {
  "loss": "loss",
  "critic/score/mean": "reward",
  "val/pass_at_1": "pass@1",
  "response_length/mean": "response length",
  "actor/entropy": "entropy",
  "actor/ppo_kl": "KL to the sampling policy",
  "actor/kl_loss": "KL to the reference",
  "critic/score/group_std/mean": "deviation of rewards in a group",
  "collapse/mutual_information": "mutual information of prompt and answer",
  "rewards/wrong_object/mean": "clauses with a wrong object",
  "rewards/wrong_attribute/mean": "clauses with a wrong attribute",
  "rewards/wrong_relation/mean": "clauses with a wrong relation",
}
"""Metrics that the page plots, and their captions."""


def report(run: Run) -> dict[str, Any]:
  """Writes W/report.json and W/report.html; returns the content of report.json.

  What is not measured is null there: pass@1, where only `launch.train` has run.
  """
  before, after = (_evaluation(run, name) for name in ("before", "after"))
  evaluated = {"before": before, "after": after}
  said = {k: v["responses"] for k, v in evaluated.items() if v}
  sampled = [s for s in _all_stages(run) if _has_samples(run, s)]
  shown: list[Group] = []
  selected: set[str] = set()
  groups = _seen(_groups(run, sampled[-1:]), shown, selected)
  learnt: list[dict[str, Any]] = []
  if run.config.get("prepare"):
    groups = _noted(groups, selected, learnt)
  tally = page.tally(groups, selected)
  result = {
    "seed": run.seed,
    "algorithm": run.last().config.algorithm,
    "stages": [_stage(run, stage) for stage in _all_stages(run)],
    "pass_at_1": {k: v.get("pass_at_1") for k, v in evaluated.items()},
    "pass_at_k": {k: v.get("pass_at_k") for k, v in evaluated.items()},
    **_measures(run, said),
    "by_source": {k: v.get("by_source") for k, v in evaluated.items()},
    "by_tag": {k: v.get("splits") for k, v in evaluated.items()},
    "reading": _readings(run, said, sampled[-1:], learnt),
    "counts": tally.counts,
    "caption_reward_mean": tally.caption_reward_mean,
    "ratio": ratios.read(run),
    "training_data": {
      "filters": _read(run.place / "filters.json"),
      "batches": _read(run.place / "input.json"),
    },
    "seconds": run.seconds(),
    "versions": {n: importlib.metadata.version(n) for n in LIBRARIES},
    "config": run.config.to_dict(),
  }
  page.write_report(
    run.place,
    result,
    dict(_curves(run)),
    page.Samples(
      groups=shown,
      selected=selected,
      answers=_answers(run, before, after),
      caption_rewards=tally.caption_rewards,
      lengths=tally.lengths,
      alpha=getattr(sampled[-1].method, "alpha", None) if sampled else None,
    ),
  )
  return result


def _all_stages(run: Run) -> list[Stage]:
  return [stages.read(run.config, name) for name in run.config.order]


def _is_here(run: Run, stage: Stage) -> bool:
  """Returns whether this run has done the stage itself, not its base."""
  return run.done(stage.name)


def _has_samples(run: Run, stage: Stage) -> bool:
  """Returns whether a stage has sampled here and its samples are still there."""
  once = stage.samples and stage.config.rounds == 1
  there = not once or sampling.store_directory(run, stage).is_dir()
  return stage.samples and there and _is_here(run, stage)


# ------------------------------------------------------------------- what is shown
def _groups(run: Run, sampled: list[Stage]) -> Iterator[tuple[Group, set[str]]]:
  """Yields what a stage sampled: all of one store, or every round of several."""
  for stage in sampled:
    if stage.config.rounds == 1:
      rounds: Iterator[Iterator[Group]] = iter([sampling.groups(run, stage)])
    else:
      rounds = sampler.rounds(run, stage)
    for number, found in enumerate(rounds):
      yield from _selected(stage, found, Moment(round=number))


def _seen(
  groups: Iterator[tuple[Group, set[str]]],
  shown: list[Group],
  selected: set[str],
) -> Iterator[Group]:
  """Yields the groups, which are read once; adds the first and what is learnt.

  Args:
    shown: takes the first SHOWN groups.
    selected: takes the ids of a group's selected rollouts before it is yielded.
  """
  for group, ids in groups:
    selected |= ids
    if len(shown) < SHOWN:
      shown.append(group)
    yield group


def _noted(
  groups: Iterator[Group],
  selected: Container[str],
  learnt: list[dict[str, Any]],
) -> Iterator[Group]:
  """Yields groups; adds their selected rollouts as rows of an evaluation."""
  for group in groups:
    learnt += [
      {
        "id": group.problem.id,
        "response": r.completion.text,
        "extracted": r.verdict.extracted,
        "status": r.verdict.status.value,
        "tokens": r.length,
      }
      for r in group.rollouts
      if r.verdict and r.id in selected
    ]
    yield group


def _selected(
  stage: Stage, groups: Iterator[Group], moment: Moment
) -> Iterator[tuple[Group, set[str]]]:
  """Yields groups with the ids of those of their rollouts that are learnt.

  A rule over several groups of a round sees all of them, and the round learns
  the first `groups` that it selects.
  """
  algorithm = stage.algorithm
  most = stage.config.groups if stage.config.rounds > 1 else None
  for chunk in [groups] if stage.config.rounds > 1 else ([g] for g in groups):
    every = list(chunk)
    scored = credit.rewarded(every, algorithm.reward, moment)
    selected = list(algorithm.select(scored, moment))[:most]
    kept = {g.problem.id: g for g in selected}
    for group in every:
      stopping.check("everything except the report is done")
      chosen = kept.get(group.problem.id)
      leaves = chosen.rollouts if chosen else ()
      yield group, {r.id for r in leaves if r.verdict}


def _readings(
  run: Run,
  said: Mapping[str, Sequence[Mapping[str, Any]]],
  sampled: Sequence[Stage],
  learnt: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
  """Measures what held-out answers and what is learnt say about images.

  Returns:
    As `digits.readings`; "learnt" is of a last stage that samples once.
  """
  found = digits.readings(run, said, run.config.data.heldout)
  for stage in sampled:
    if found and learnt and stage.config.rounds == 1:
      file = sampling.data_file(run, stage)
      found |= digits.readings(run, {"learnt": learnt}, file)
  return found


def _curves(run: Run) -> Iterator[tuple[str, list[tuple[float, float]]]]:
  """Yields (name, (update, value) points) of every curve with more than a point."""
  folders = {"vision": run.workdir / "vision"}
  folders |= {s.name: run.directory(s.name) for s in _all_stages(run)}
  for name, folder in folders.items():
    if not folder.is_relative_to(run.workdir):
      continue  # the base's
    rows = metrics.read(folder / "metrics.jsonl")
    for key, title in CURVES.items():
      points = [(row["step"], row[key]) for row in rows if key in row]
      if len(points) > 1:
        yield f"{name}: {title}", points


def _stage(run: Run, stage: Stage) -> dict[str, Any]:
  """Returns a stage's row of report.json."""
  here = _is_here(run, stage)
  rows = metrics.read(run.directory(stage.name) / "metrics.jsonl")
  seconds = run.seconds()
  name = "after" if stage.name == run.config.order[-1] else stage.name
  if here and run.start(run.last()).parent == run.directory(stage.name):
    name = "before"
  path = run.evals(name) / f"{name}.json"
  return {
    "name": stage.name,
    "algorithm": stage.config.algorithm,
    "rounds": stage.config.rounds if stage.samples else 0,
    "updates": int(rows[-1]["step"]) if rows else 0,
    "seconds": round(
      sum(
        spent
        for step, spent in seconds.items()
        if step.partition("/")[0] == stage.name
      ),
      2,
    ),
    "base": not here,
    "pass_at_1": _read(path).get("pass_at_1") if here else None,
  }


def _evaluation(run: Run, name: str) -> dict[str, Any]:
  return _read(run.evals(name) / f"{name}.json")


def _measures(
  run: Run, responses: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
  """Returns measures before and after, of episodes or of answers about videos; {}
  where there are neither."""
  if of_answers := pans.measured(run, responses):
    return {"measures": of_answers}
  found = [trials.read(run, name) for name in ("before", "after")]
  if not all(found):
    return {}
  before, after = found
  return {
    "measures": {
      name: {"before": before[name], "after": after[name], "n": after["n"]}
      for name in before
      if name != "n"
    }
  }


def _read(path: Path) -> dict[str, Any]:
  if not path.exists():
    return {}
  return read_json(path, "remove it, and give the same command again")


def _answers(
  run: Run, before: dict[str, Any], after: dict[str, Any]
) -> list[page.Answer]:
  """Returns the first answers of both evaluations; none where one is absent."""
  if not (before and after):
    return []
  held_out = {p.id: p for p in run.problems(run.config.data.heldout)}
  pairs = zip(before["responses"], after["responses"])
  return [
    page.Answer(
      problem=held_out[old["id"]], before=_answer(old), after=_answer(new)
    )
    for old, new in itertools.islice(pairs, ANSWERS)
  ]


def _answer(row: dict[str, Any]) -> tuple[str, Verdict]:
  verdict = Verdict(status=Status(row["status"]), extracted=row["extracted"])
  return row["response"], verdict
