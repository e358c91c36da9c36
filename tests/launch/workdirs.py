"""A workdir in which everything is done that comes before training."""

from sophia_jax.files import write_jsonl
from sophia_jax.runs import sampling
from sophia_jax.runs import stage as stages
from sophia_jax.runs.run import Run
from sophia_jax.types import Status
from tests.launch.commands import export
from tests.rollout import little
from tests.sampled import completion
from tests.sampled import store as store_group


def sampled(config, workdir, problems):
  """Makes `workdir`: a policy, and for each problem one right trajectory.

  Args:
    config: of the quickstart; the policy is taken as warmed up.
  """
  run = Run(config, str(workdir))
  stage = stages.read(config, "sophia")
  run.begin()
  models, images = workdir / "models", workdir / "data" / "images"
  images.mkdir(parents=True)
  paths = [path.rpartition("data/")[2] for path in little.pictures(images)]
  export(workdir / "warmup" / "export", models / "words", vision=True)
  export(models / "reasoner", models / "reasoner_words", vision=False)
  rows = [
    {
      "id": f"p{i}",
      "question": "What do you see?" + " red" * (i % 7),
      "answer": "6",
      "images": paths[i % 2 : i % 2 + 1] * (i % 3 > 0),
    }
    for i in range(problems)
  ]
  write_jsonl(workdir / "data" / "problems.jsonl", rows)
  with sampling.open_store(run, stage) as store:
    for problem in sampling.problems(run, stage):
      thought = f"<think>{problem.question}</think> 6"
      row = [(thought, Status.RIGHT, 3)]
      store_group(store, problem, [completion("red ink")], [row])
  run.mark(sampling.step_name(stage), 1.0)
