"""Workdirs with a few rollouts, as runs leave them: a SOPHIA run and two rounds of
GRPO, with texts that would run as script if a page let them."""

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from configs import quickstart
from configs.digits import grpo, starpo
from sophia_jax.data.problems import load_problems, problem_digest
from sophia_jax.evals.browser.pages import Pages
from sophia_jax.evals.browser.session import Session
from sophia_jax.files import write_json, write_jsonl
from sophia_jax.rollout import tokens
from sophia_jax.rollout.records import Answer, Graded, identity
from sophia_jax.rollout.store import Store, round_directory
from sophia_jax.runs.browsing import Workdir
from sophia_jax.types import Completion, FinishReason, Grade, Status, Verdict
from tests import sampled

HOSTILE = (
  "<script>document.title = 'run'</script>",
  "</div></article></main><h1>mine</h1>",
  "'\"><img src=x onerror=\"document.title = 'run'\">",
  "{{ 7 * 7 }}{% for %}{# #}",
  "</style></textarea></title><svg onload=\"document.title = 'run'\">",
  "<!--",
  "]]>&lt;&#60;script&#62;",
  "<a href=\"javascript:document.title = 'run'\">x</a>",
  "a \ud800 lone surrogate, \u202e turned text, \x00",
)
META = {
  "seed": 3,
  "prompts": {"caption": "Describe.", "slow_thinking": "Think.", "system": ""},
  "answering": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 64},
}


def asked(text: str) -> str:
  """Returns a text without what no problem may have."""
  return "".join(c for c in text if c not in "\ud800\x00")


def problems(folder: Path, count: int = 4) -> Path:
  """Writes problems with an image each; returns their file."""
  (folder / "images").mkdir(parents=True, exist_ok=True)
  rows = []
  for i in range(count):
    Image.new("RGB", (96, 48), (200, 40 * i, 40)).save(
      folder / "images" / f"{i}.png"
    )
    rows.append(
      {
        "id": f"p-{i}",
        "images": [f"images/{i}.png"],
        "question": f"How many? {asked(HOSTILE[i % len(HOSTILE)])}",
        "answer": "6",
        "source": "counting" if i % 2 else "<b>adding</b>",
        "tags": {"subject": "'\"><i>x"},
      }
    )
  write_jsonl(folder / "problems.jsonl", rows)
  return folder / "problems.jsonl"


def sophia_run(workdir: Path, count: int = 4) -> Path:
  """Makes a workdir with the store of a SOPHIA stage: 2 captions, 3 answers on
  each; of problem i the first i + 1 answers are right, at most 4 of the 6."""
  config = quickstart.get_config().to_dict()
  config["data"]["problems"] = "data/problems.jsonl"
  config["stages"]["sophia"] |= {"captions": 2, "trajectories": 3}
  file = problems(workdir / "data", count)
  write_json(workdir / "config.json", config)
  with Store(workdir / "trajectories", META) as store:
    for i, problem in enumerate(load_problems(file)):
      hostile = HOSTILE[i % len(HOSTILE)]
      captions = [
        sampled.completion(f"caption {k} {hostile}") for k in range(2)
      ]
      rows = [
        [
          (
            f"thought {k}.{n} {hostile}",
            sampled.status(3 * k + n <= min(i, 3)),
            10 + n,
          )
          for n in range(3)
        ]
        for k in range(2)
      ]
      sampled.store(store, problem, captions, rows)
  return workdir


def grpo_run(workdir: Path, rounds: int = 2) -> Path:
  """Makes a workdir with rounds of GRPO on the same problems: of problem i in
  round r the first i + r of 4 answers are right."""
  config = grpo.get_config().to_dict()
  config["base"] = ""
  config["order"] = ["grpo"]
  config["stages"]["grpo"] |= {"n": 4, "data": "data/problems.jsonl"}
  file = problems(workdir / "data")
  write_json(workdir / "config.json", config)
  for number in range(rounds):
    add_round(workdir, number, load_problems(file))
  (workdir / "metrics.jsonl").write_text(
    "".join(
      json.dumps(
        {"step": i, "loss": 1 / (i + 1), "timing_s/gen": 2.0 + i, "x": "y"}
      )
      + "\n"
      for i in range(5)
    )
  )
  return workdir


LAKES = (["SF", "FG"], ["SF", "HG"])
"""A lake without a hole, and one that the third episode ends in."""
PLAYED = (("right", "down"), ("left", "up"), ("left", "down"))
"""The two turns of three episodes; the first alone arrives."""


def episode_run(workdir: Path) -> Path:
  """Makes a workdir with a round of episodes, whose grades no store has."""
  config = starpo.get_config().to_dict()
  config["prepare"] = {}
  config["order"] = ["starpo_s"]
  config["stages"]["starpo_s"] |= {"n": 3, "turns": 2, "start": ""}
  rows = [
    {
      "id": f"lake-{i}",
      "images": [],
      "question": "P _\n_ G",
      "answer": json.dumps(
        {"env": "frozen_lake", "rows": lake, "success_rate": 1.0}
      ),
    }
    for i, lake in enumerate(LAKES)
  ]
  (workdir / "data").mkdir(parents=True)
  write_jsonl(workdir / "data" / "frozen_lake.jsonl", rows)
  write_json(workdir / "config.json", config)
  with Store(round_directory(workdir, 0), META | {"round": 0}) as store:
    for problem in load_problems(workdir / "data" / "frozen_lake.jsonl"):
      key = {"problem_id": problem.id, "digest": problem_digest(problem)}
      for n, turns in enumerate(PLAYED):
        for turn, text in enumerate(turns):
          answer, _ = attempt(key, (n,), right=False)
          said = dataclasses.replace(answer.completion, text=text)
          store.append(dataclasses.replace(answer, turn=turn, completion=said))
      store.finish(problem.id, key["digest"])
  return workdir


def add_round(workdir: Path, number: int, asked) -> None:
  meta = META | {"round": number}
  with Store(round_directory(workdir, number), meta) as store:
    for i, problem in enumerate(asked):
      key = {"problem_id": problem.id, "digest": problem_digest(problem)}
      for n in range(4):
        store.append(*attempt(key, (n,), n < i + number, number))
      store.finish(problem.id, key["digest"])
  tokens.write(
    round_directory(workdir, number),
    {"p-1/2": LEARNT, "p-2/0": learnt((5, 6))},
  )


def learnt(ids, **values):
  """Returns tokens as an update leaves them; by default all but the last one."""
  made = {"logp": -1.0, "trainer": -1.1, "weight": 0.25} | values
  columns = {name: np.full(len(ids), value) for name, value in made.items()}
  for column in columns.values():
    column[-1] = np.nan
  return tokens.Learnt(token_ids=ids, values=columns)


LEARNT = learnt(
  (5, 6, 7), entropy=0.7, ratio=1.3, clipped=1.0, correction=0.5, advantage=-2.0
)


def attempt(key, path, right, number=0):
  """Returns an answer of the policy and its grade."""
  said = Completion(
    request_id="",
    text=f"answer {path[-1]} {HOSTILE[path[-1]]}",
    token_ids=(5, 6, 7),
    logps=(-0.01, -1.0, -5.0),
    finish_reason=FinishReason.STOP if path[-1] else FinishReason.LENGTH,
    versions=((number + 1, 3),),
  )
  verdict = Verdict(status=sampled.status(right), extracted=HOSTILE[0])
  if not path[-1] and not right:
    verdict = Verdict(status=Status.TRUNCATED)
  grade = Grade(verdict=verdict, rewards={"accuracy": float(right)})
  return (
    Answer(**key, path=path, completion=said, length=3 + path[-1]),
    Graded(**key, path=path, of=identity(said), grade=grade),
  )


def pages(*workdirs: Path) -> Pages:
  """Returns the pages of workdirs, indexed."""
  session = Session(
    [Workdir(str(path), letter) for path, letter in zip(workdirs, "ab")]
  )
  session.refresh()
  return Pages(session)
