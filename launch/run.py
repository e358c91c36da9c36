"""The whole pipeline: warm-up, sample, train, evaluate, export, report.

Finished stages are skipped, and a stage that was killed resumes where it
stopped: give the same command again. For one process; several can share a stage
(launch.sample, launch.train).

Example:
  python -m launch.run --config=configs/quickstart.py --workdir=runs/quickstart
"""

from launch import cli
from sophia_jax.hosts import meeting
from sophia_jax.runs import evaluation, report, sampling, stages

EXAMPLE = "python -m launch.run --config=configs/quickstart.py --workdir=W"


def main() -> None:
  meeting.check_single(
    "use launch.sample --shard=I/N, launch.train on all hosts, launch.evaluate"
  )
  run = cli.run_of_flags()
  stages.prepare(run)
  stages.check_data(run)
  stages.warm_up(run)
  evaluation.evaluate_once(run, "before", sampling.policy_directory(run))
  sampling.sample(run)
  stages.train(run)
  evaluation.evaluate_once(run, "after", run.workdir / "export")
  result = report.report(run)
  for when in ("before", "after"):
    p = result["pass_at_1"][when]
    print(
      f"pass@1 {when:6s}  {p['value']:6.1%}  "
      f"[{p['low']:.1%}, {p['high']:.1%}]  n = {p['n']}"
    )
  counts = result["counts"]
  print(
    f"{counts['problems']} problems, {counts['captions']} captions, "
    f"{counts['trajectories']} trajectories, {counts['selected']} selected; "
    f"mean caption reward {result['caption_reward_mean']:.2f}; "
    f"{sum(result['seconds'].values()):.0f} s"
  )
  print(f"report: {run.workdir / 'report.html'}")


if __name__ == "__main__":
  cli.define_run_flags()
  cli.start(main, EXAMPLE, ("config", "workdir"))
