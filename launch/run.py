"""All stages of a config in order: sample, learn, evaluate, export, report.

Finished stages are skipped, and a stage that was killed resumes where it
stopped: give the same command again. For one process; several can share a stage
(launch.sample, launch.train).

Example:
  python -m launch.run --config=configs/quickstart.py --workdir=runs/quickstart
  python -m launch.run --config=configs/digits/grpo.py --workdir=W \\
    --config.base=runs/quickstart
  python -m launch.run --workdir=W --name=alpha05 \\
    --config.stages.sophia.alpha=0.5
"""

from typing import Any

from absl import flags

from launch import cli
from sophia_jax.hosts import meeting
from sophia_jax.runs import pipeline, updates

EXAMPLE = "python -m launch.run --config=configs/quickstart.py --workdir=W"


def main() -> None:
  meeting.check_single(
    "use launch.sample --shard=I/N, launch.train on all hosts, launch.evaluate"
  )
  run = cli.run_of_flags(flags.FLAGS.name)
  result = pipeline.run_all(run, flags.FLAGS.stage)
  for line in _lines(result):
    print(line)
  if not result and not run.config.get("planning"):
    pipeline.page(run)
  page = run.place / "report.html"
  if page.exists():
    print(f"report: {page}")
  for line in updates.table(run.workdir):
    print(line)


def _lines(result: dict[str, Any]) -> list[str]:
  """Formats the result of a run; nothing for a single stage."""
  if not result:
    return []
  rates = {"pass@1": result["pass_at_1"], **result.get("measures", {})}
  scores = [
    f"{name} {when:6s}  {p['value']:6.1%}  "
    f"[{p['low']:.1%}, {p['high']:.1%}]  n = {p.get('n', both.get('n'))}"
    for name, both in rates.items()
    for when in ("before", "after")
    if isinstance(p := both.get(when), dict)  # has an interval
  ]
  counts = result["counts"]
  rewarded = (
    f"; mean caption reward {result['caption_reward_mean']:.2f}"
    if counts["captions"]
    else ""
  )
  return [
    *scores,
    f"{counts['problems']} problems, {counts['captions']} captions, "
    f"{counts['trajectories']} trajectories, {counts['selected']} selected"
    f"{rewarded}; {sum(result['seconds'].values()):.0f} s",
  ]


if __name__ == "__main__":
  cli.define_run_flags()
  cli.define_name_flag()
  cli.define_stage_flag("The one stage to run; all of them by default.")
  cli.start(main, EXAMPLE, ("config", "workdir"), resumes=True)
