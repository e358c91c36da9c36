"""A run that plans: LINVIT's sweeps and SLINVIT's episodes, with a report.

Every arm and every way of playing is a line of W/planning/results.jsonl with a
digest of the settings it depends on; a killed run repeats only the one in flight.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sophia_jax import stopping
from sophia_jax.evals import measures
from sophia_jax.evals.stats import wilson
from sophia_jax.files import JsonLines, write_json
from sophia_jax.planning import blocksworld, lookahead, priors, sql, sweep
from sophia_jax.planning.lookahead import (
  ContextExceeded,
  Ending,
  SearchConfig,
)
from sophia_jax.planning.sweep import SweepConfig
from sophia_jax.progress import Progress
from sophia_jax.runs import ways
from sophia_jax.runs.likelihoods import Model, PriorConfig
from sophia_jax.runs.run import Run
from sophia_jax.runs.ways import EpisodesConfig, Way
from sophia_jax.types import SophiaError

RESULTS = ("planning", "results.jsonl")
LIBRARIES = ("jax", "numpy", "scipy")


@dataclasses.dataclass(frozen=True)
class Plans:
  """The sections of config.planning, read."""

  sweeps: tuple[SweepConfig, ...]
  prior: PriorConfig
  episodes: EpisodesConfig
  search: SearchConfig


def read(run: Run) -> Plans:
  """Reads config.planning.

  Raises:
    SophiaError: a mistake in it.
  """
  names = sorted(n for n in run.config.planning if n.startswith("sweep"))
  found = Plans(
    sweeps=tuple(run.section(SweepConfig, f"planning.{n}") for n in names),
    prior=run.section(PriorConfig, "planning.prior"),
    episodes=run.section(EpisodesConfig, "planning.episodes"),
    search=run.section(SearchConfig, "planning.search"),
  )
  for config in found.sweeps:
    sweep.world_of(config, run.seed)
  blocksworld.problem(found.episodes.plan_blocks, found.episodes.plan_steps, 0)
  return found


def check(run: Run) -> None:
  """Finds mistakes before anything is written.

  Raises:
    SophiaError: a mistake in config.planning, or no model, where no stage of the
      run is to make it.
  """
  plans = read(run)
  if plans.prior.model and not run.config.order:
    Model(run, plans.prior)


def run_all(run: Run) -> dict[str, Any]:
  """Measures what is not measured yet, and writes the report, which is returned.

  Raises:
    SophiaError: a mistake in the config, or no model; nothing is written then.
  """
  plans = read(run)
  model = Model(run, plans.prior) if plans.prior.model else None
  run.begin()
  start = time.monotonic()
  with model or contextlib.nullcontext(), _Results(run) as results:
    tables = [
      (config, _sweep(run, results, config, plans.prior, model))
      for config in plans.sweeps
    ]
    with sql.Database() as database:
      chosen = ways.ways(
        plans.episodes, plans.search, model, database, run.seed
      )
      played = []
      with Progress("SLINVIT", len(chosen), "way") as progress:
        for way in chosen:
          played.append(_played(results, way, plans, model, run.seed))
          progress.advance()
  return _report(run, tables, played, time.monotonic() - start)


# ------------------------------------------------------------------------ results
class _Results(JsonLines):
  """Results that are there already, by what they depend on."""

  def __init__(self, run: Run):
    super().__init__(
      run.workdir.joinpath(*RESULTS),
      ("of", "result"),
      "result",
      "delete the file to measure again",
    )
    self._known = {line.values["of"]: line.values["result"] for line in self}

  def once(
    self, key: Any, make: Callable[[], dict[str, Any]]
  ) -> dict[str, Any]:
    """Returns the result of a key, made where it is not there yet.

    Raises:
      Preempted: SIGTERM arrived.
    """
    text = json.dumps(key, sort_keys=True)
    of = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    if of not in self._known:
      stopping.check(f"what was measured is in {self.path}")
      self._known[of] = json.loads(json.dumps(make()))
      self.append({"of": of, "result": self._known[of]})
    return self._known[of]


# -------------------------------------------------------------------------- LINVIT
def _sweep(
  run: Run,
  results: _Results,
  config: SweepConfig,
  prior: PriorConfig,
  model: Model | None,
) -> list[dict[str, Any]]:
  """Returns the rows of a sweep, one for each arm."""
  world = sweep.world_of(config, run.seed)
  key = {"sweep": dataclasses.asdict(config), "seed": run.seed}
  own = None
  if model is not None and model.scores:
    asked = {**key, "prior": dataclasses.asdict(prior), "model": model.digest}
    try:
      found = results.once(
        asked | {"scores": True},
        lambda: {"logps": sweep.scores(world, model.of).tolist()},
      )
    except ContextExceeded:
      raise SophiaError(
        f"config.planning.prior.context={prior.context}: a state of "
        f"{config.world} and its action are longer; raise it"
      ) from None
    own = priors.from_logps(
      np.asarray(found["logps"]), world.tables, prior.temperature, prior.floor
    )
  rows = []
  chosen = sweep.arms(world.tables, config, own)
  with Progress(f"LINVIT on {config.world}", len(chosen), "arm") as progress:
    for arm in chosen:
      asks = {**key, "arm": arm.name, "kl": arm.divergence, "lam": arm.lam}
      make = functools.partial(
        sweep.run_arm, world.tables, config, arm, run.seed
      )
      rows.append(results.once(asks, make))
      progress.advance()
  return rows


# ------------------------------------------------------------------------- SLINVIT
def _played(
  results: _Results,
  way: Way,
  plans: Plans,
  model: Model | None,
  seed: int,
) -> dict[str, Any]:
  """Returns the result of a way."""
  key = {
    "environment": way.environment,
    "name": way.name,
    "problems": [name for name, _ in way.problems()],
    "search": dataclasses.asdict(way.search),
    "episodes": dataclasses.asdict(plans.episodes),
    "model": model.digest if model else "",
    "seed": seed,
  }
  return results.once(key, functools.partial(_play, way, model))


def _play(way: Way, model: Model | None) -> dict[str, Any]:
  counts = model.counts if model else collections.Counter()
  unread = counts["unparseable"]
  episodes = [
    lookahead.play(problem, way.propose, way.value, way.search, name)
    for name, problem in way.problems()
  ]
  solved = [e for e in episodes if e.ending is Ending.SOLVED]
  low, high = wilson(len(solved), len(episodes))
  return {
    "environment": way.environment,
    "name": way.name,
    "n": len(episodes),
    "solved": len(solved),
    "success": len(solved) / len(episodes),
    "low": low,
    "high": high,
    "reward": sum(e.last for e in episodes) / len(episodes),
    "actions": sum(len(e.actions) for e in episodes) / len(episodes),
    "tried": sum(e.tried for e in episodes) / len(episodes),
    "illegal": sum(e.illegal for e in episodes),
    "unparseable": counts["unparseable"] - unread,
    "endings": dict(collections.Counter(str(e.ending) for e in episodes)),
  }


# ---------------------------------------------------------------------- the report
def _report(
  run: Run,
  tables: Sequence[tuple[SweepConfig, list[dict[str, Any]]]],
  played: Sequence[dict[str, Any]],
  seconds: float,
) -> dict[str, Any]:
  """Writes W/report.json and W/report.html; returns the content of report.json."""
  run.mark("planning", seconds)
  by = collections.defaultdict(list)
  for row in played:
    by[row["environment"]].append(row)
  before, after = (_rate(by["blocksworld"][place]) for place in (0, 1))
  result = {
    "seed": run.seed,
    "algorithm": "linvit",
    "stages": [],
    "pass_at_1": {"before": before, "after": after},
    "measures": {
      f"success/{name}": {
        "before": rows[0]["success"],
        "after": rows[1]["success"],
        "n": rows[0]["n"],
      }
      for name, rows in by.items()
    },
    "linvit": {
      config.world: {"slope": sweep.slope(rows), "arms": rows}
      for config, rows in tables
    },
    "slinvit": [*played],
    "counts": {
      "problems": sum(rows[0]["n"] for rows in by.values()),
      "captions": 0,
      "trajectories": sum(row["n"] for row in played),
      "selected": sum(row["solved"] for row in played),
    },
    "caption_reward_mean": None,
    "seconds": run.seconds(),
    "versions": {n: importlib.metadata.version(n) for n in LIBRARIES},
    "config": run.config.to_dict(),
  }
  write_json(run.place / "report.json", result)
  measures.write(
    run.place / "report.html",
    "LINVIT and SLINVIT",
    [*map(_sweep_table, tables), _episode_table(played)],
  )
  return result


def _rate(row: dict[str, Any]) -> dict[str, Any]:
  return {
    "value": row["success"],
    "low": row["low"],
    "high": row["high"],
    "n": row["n"],
  }


def _sweep_table(
  pair: tuple[SweepConfig, list[dict[str, Any]]],
) -> measures.Table:
  config, rows = pair
  fit = sweep.slope(rows)
  return measures.Table(
    title=f"LINVIT on {config.world}",
    note=f"Episodes until the policy stays within {config.epsilon:g} of the "
    f"optimum, {config.seeds} seeds, H = {config.horizon}, "
    f"{config.episodes} episodes at most. Log-log slope on KL_H over the "
    f"optimal priors: {fit['value']:.2f} [{fit['low']:.2f}, {fit['high']:.2f}].",
    head=("prior", "KL_H", "lambda", "value of the prior", "optimum",
          "median episodes", "quartiles", "not finished"),
    rows=tuple(
      (
        row["arm"],
        f"{row['kl']:.2f}",
        "inf" if row["lam"] is None else f"{row['lam']:.3g}",
        f"{row['prior_value']:.2f}",
        f"{row['optimum']:.2f}",
        f"{row['median']:.0f}",
        " to ".join(
          f"{n:.0f}" for n in np.quantile(row["samples"], (0.25, 0.75))
        ),
        f"{row['unfinished']} of {config.seeds}",
      )
      for row in rows
    ),
  )  # fmt: skip


def _episode_table(rows: Sequence[dict[str, Any]]) -> measures.Table:
  return measures.Table(
    title="SLINVIT",
    note="Share of problems that are solved, with Wilson's 95 % interval; means "
    "of actions taken and of actions tried in copies.",
    head=("environment", "values", "solved", "interval", "problems", "reward",
          "actions", "tried", "illegal", "unparseable"),
    rows=tuple(
      (
        row["environment"],
        row["name"],
        f"{row['success']:.1%}",
        f"{row['low']:.1%} to {row['high']:.1%}",
        str(row["n"]),
        f"{row['reward']:.2f}",
        f"{row['actions']:.1f}",
        f"{row['tried']:.0f}",
        str(row["illegal"]),
        str(row["unparseable"]),
      )
      for row in rows
    ),
  )  # fmt: skip
