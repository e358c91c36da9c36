"""W/report.json and W/report.html, from what the stages of a run have written."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import json
from pathlib import Path
from typing import Any

from sophia_jax.algorithms.legacy import sophia
from sophia_jax.data.problems import load_problems
from sophia_jax.evals import report as page
from sophia_jax.runs import sampling
from sophia_jax.runs.run import Run
from sophia_jax.train import metrics
from sophia_jax.types import Status, Verdict

LIBRARIES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def report(run: Run) -> dict[str, Any]:
  """W/report.json and W/report.html."""
  before, after = (_evaluation(run, name) for name in ("before", "after"))
  config = run.section(sophia.SophiaConfig, "sophia")
  with sampling.open_store(run, read_only=True) as store:  # which may be large
    selected = {
      t.id
      for group in sampling.groups(run, store)
      for t in sophia.select(sampling.tree(group), config)
    }
    tally = page.tally(sampling.groups(run, store), selected)
    with contextlib.closing(sampling.groups(run, store)) as groups:
      shown = list(itertools.islice(groups, 6))
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
    groups=shown,
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
