"""One GRPO round against TRL's GRPOTrainer: same weights, prompts, machine.

  python -m benchmarks.round [--tiny] [--reps=3] [--algorithm=NAME]

Both sample 32 questions x 8 answers of exactly 128 tokens about one image each,
score them, and make one update of the language model with AdamW. Rounds
alternate: ours in this process, TRL's in one with an environment to itself, made on
first use, each with all cores (or one GPU) while the other waits. Rewards are
the same function of the ids. TRL scores with the reference alone, since one
update a round needs no old log-probabilities; ours scores with the policy, too.

Prints one JSON line: median seconds of sampling, scoring, update and the whole
of both, the medians of the paired ratios (above 1: ours is faster), and the
parts where ours is slower ("lost").

Threads of torch that wait for each other spin by default, which on a busy
machine makes TRL many times slower than it is: by default they sleep. On an idle
machine --omp_wait=active may suit TRL better; quote the smaller ratio.

--algorithm=NAME times that method against plain GRPO instead, ours both, on the
same questions with the same number of answers; above 1: GRPO is faster.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax

from benchmarks.rollout_embedded import QUESTION, SIZES, Both
from sophia_jax.algorithms import credit, registry
from sophia_jax.algorithms.contract import Algorithm, Moment
from sophia_jax.checkpoints import load_params
from sophia_jax.data.images import TileCache
from sophia_jax.data.loader import Loader, LoaderConfig, Reading
from sophia_jax.data.packing import PackConfig
from sophia_jax.models import InternVL, logical_axes
from sophia_jax.rollout import roles
from sophia_jax.rollout.collect import collect
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import Store
from sophia_jax.rollout.world import World
from sophia_jax.runs.training import PolicyWords
from sophia_jax.servers import environments
from sophia_jax.servers.backends.base import Packages, Platform
from sophia_jax.train import sharding
from sophia_jax.train.annotate import Scorer
from sophia_jax.train.session import Session, TrainConfig
from sophia_jax.types import (
  Completion,
  Grade,
  Group,
  Problem,
  Sampling,
  SophiaError,
  Status,
  TokenSequence,
  Verdict,
)

HERE = Path(__file__).parent
PARTS = ("sampling", "scoring", "update", "whole")
SYSTEM = "Look."

Round = Callable[[], dict[str, Any]]
"""Function that makes a round and returns its seconds by part."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Work of a round, the same for both sides."""

  checkpoint: str
  output: str
  """Folder for what a side writes."""
  pictures: tuple[str, ...]
  """One image for each question."""
  question: str
  questions: int
  n: int
  """Answers of a question."""
  new: int
  """Tokens of an answer."""
  batch: int
  """Sequences of a microbatch."""
  side: int
  """Pixels of a tile's side."""
  tokens_per_tile: int
  banned: tuple[int, ...]
  """Ids that are not sampled: the special ones, end of turn included."""
  rounds: int
  kl: float
  slots: int
  """Requests that our engine decodes together."""
  block: int
  """Tokens of a row whose logits exist at the same time, in ours."""
  together: int = 1
  """Sequences that fit a row, in ours; a pair shares one."""
  system: str = SYSTEM
  clip: float = 0.2
  learning_rate: float = 1e-6
  weight_decay: float = 0.0
  clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class Scale:
  """Size of a round."""

  size: str
  """Key of rollout_embedded.SIZES."""
  questions: int
  n: int
  new: int
  batch: int
  slots: int
  block: int


FULL = Scale("75m", questions=32, n=8, new=128, batch=8, slots=64, block=128)
TINY = Scale("quickstart", questions=4, n=4, new=8, batch=4, slots=8, block=32)


def task_of(
  both: Both, scale: Scale, directory: Path, rounds: int, kl: float
) -> Task:
  """Returns the task, on a checkpoint in `directory`."""
  vocabulary = both.renderer.vocabulary
  assert both.cfg.vision is not None
  return Task(
    checkpoint=str(directory / "hf"),
    output=str(directory / "out"),
    pictures=tuple(p.images[0] for p in both.prompts),
    question=QUESTION * SIZES[scale.size].words,
    questions=scale.questions,
    n=scale.n,
    new=scale.new,
    batch=scale.batch,
    side=both.cfg.vision.image_size,
    tokens_per_tile=both.cfg.tokens_per_tile,
    banned=tuple(sorted({*vocabulary.marks.values(), both.renderer.end_id})),
    rounds=rounds,
    kl=kl,
    slots=scale.slots,
    block=scale.block,
  )


# ------------------------------------------------------------------------- ours
def even(ids: Sequence[int]) -> float:
  """Rewards an even first id: half of the answers, in no time."""
  return float(ids[0] % 2 == 0)


class Graded(World):
  """A world that rewards an even first id, without a verifier."""

  async def grade(
    self, problem: Problem, path: tuple[int, ...], completion: Completion
  ) -> Grade:
    del problem, path
    reward = even(completion.token_ids)
    status = Status.RIGHT if reward else Status.WRONG
    return Grade(verdict=Verdict(status=status), rewards={"accuracy": reward})


class Ours:
  """The parts of runs.rounds: store, engine, annotation, session.

  Raises:
    SophiaError: the method asks others than the policy.
  """

  def __init__(self, both: Both, task: Task, algorithm: Algorithm, name: str):
    if algorithm.sample is None or algorithm.roles != ("policy",):
      raise SophiaError(
        f"--algorithm={name.removeprefix('other_')}: it does not learn from the policy's answers alone"
      )
    self._task, self._algorithm, self._both = task, algorithm, both
    self._words = _words(both, task)
    self._number = 0
    self._folder = Path(task.output) / name
    self._mesh = sharding.make_mesh(sharding.MeshConfig())
    self._problems = [
      Problem(id=str(i), question=task.question, answer="", images=(path,))
      for i, path in enumerate(task.pictures)
    ]
    model = InternVL(both.cfg)
    self._references = {
      key: Scorer(model, self._params())
      for key in algorithm.models
      if key != "policy"
    }
    self._session = Session(
      model,
      self._params(),
      algorithm,
      self._training(),
      self._folder,
      {},
      self._mesh,
      updates=task.rounds,
    )

  def __enter__(self) -> Self:
    self._session.__enter__()
    self._engine = EmbeddedEngine(
      InternVL(self._both.cfg),
      self._session.params(),
      self._words,
      EngineConfig(
        slots=self._task.slots,
        length=len(self._both.prompts[0]) + self._task.new,
        prefill_rows=self._both.prefill_rows,
      ),
      TileCache(self._both.image),
    )
    return self

  def __exit__(self, *error: Any) -> None:
    self._session.__exit__(*error)

  def __call__(self) -> dict[str, float]:
    """Makes a round; returns seconds by part."""
    moment, cpu = Moment(round=self._number), time.process_time()
    times = [time.perf_counter()]
    groups = self._sampled()
    times.append(time.perf_counter())
    sequences = self._scored(groups, moment)
    times.append(time.perf_counter())
    self._updated(sequences, moment)
    times.append(time.perf_counter())
    self._number += 1
    parts = [b - a for a, b in itertools.pairwise(times)]
    return {
      **dict(zip(PARTS, [*parts, times[-1] - times[0]])),
      "cpu": time.process_time() - cpu,
    }

  def _sampled(self) -> list[Group]:
    """Samples with the weights of now."""
    self._engine.load(self._session.params(), self._number + 1)
    how = Sampling(temperature=1.0, max_new_tokens=self._task.new)
    seats = roles.seats(
      self._words,
      Prompts(slow_thinking=SYSTEM),
      {"policy": how},
      {"policy": {"": self._engine}},
    )
    with Store(self._folder / f"rounds/{self._number}", {}) as store:
      world = Graded(store, seats, self._words, round=self._number)
      assert self._algorithm.sample is not None
      return list(collect(self._problems, self._algorithm.sample, world))

  def _scored(self, groups: list[Group], moment: Moment) -> list[TokenSequence]:
    """Credits and annotates everything that was sampled."""
    words = PolicyWords(self._words, SYSTEM)
    _, sequences = credit.learn(self._algorithm, groups, words, moment)
    return self._session.annotate(
      sequences, self._shape(), self._reading(), self._references
    )

  def _updated(self, sequences: list[TokenSequence], moment: Moment) -> None:
    """Makes one update, and waits for it."""
    loader = Loader(
      sequences,
      self._shape(),
      LoaderConfig(updates=1, round=moment.round),
      self._reading(),
    )
    for batch in loader:
      self._session.update(batch, moment)
    self._session.latest()
    jax.block_until_ready(self._session.model_params)

  def _params(self) -> Any:
    cfg = self._both.cfg
    params = load_params(self._both.directory, cfg)
    return sharding.place(params, logical_axes(cfg), self._mesh)

  def _training(self) -> TrainConfig:
    task = self._task
    return TrainConfig(
      rows=task.batch // task.together,
      length=task.together * (len(self._both.prompts[0]) + task.new),
      tiles=task.batch,
      block=task.block,
      learning_rate=task.learning_rate,
      weight_decay=task.weight_decay,
      clip_norm=task.clip_norm,
      schedule="constant",
    )

  def _shape(self) -> PackConfig:
    train = self._training()
    return PackConfig(
      rows=train.rows, length=train.length, tile_budget=train.tiles
    )

  def _reading(self) -> Reading:
    return Reading(
      streams=self._algorithm.all_streams,
      tokens_per_tile=self._both.cfg.tokens_per_tile,
      image=self._both.image,
    )


def _words(both: Both, task: Task) -> Any:
  """Returns a renderer under which every answer has its full length."""
  words = copy.copy(both.renderer)
  words.end_id, words.banned_ids = -1, task.banned
  words.vocab_size = both.cfg.decoder.vocab
  return words


def method(name: str, task: Task) -> Algorithm:
  """Builds a method with the task's answers and, where it has one, its KL.

  Raises:
    SophiaError: an unknown method.
  """
  wanted = {"n": task.n, "kl": task.kl, "low": task.clip, "high": task.clip}
  own = {f.name for f in dataclasses.fields(registry.config_of(name))}
  wanted = wanted if name == "grpo" else {"n": task.n}
  return registry.build(name, {k: v for k, v in wanted.items() if k in own})


# ----------------------------------------------------------------------- theirs
class TRL:
  """The environment of TRL's GRPOTrainer."""

  name = "trl"
  pythons = ("3.11", "3.12", "3.13")

  def packages(self, platform: Platform) -> tuple[Packages, ...]:
    del platform
    return (
      Packages(HERE / "round_trl.txt"),
      Packages(HERE / "round_trl_no_deps.txt", ("--no-deps",)),
    )

  def finish_install(self, python: Path, platform: Platform) -> None:
    del python, platform


class Theirs:
  """TRL in a process that waits between its rounds.

  Raises:
    SophiaError: it ended, or its prompts are not ours.
  """

  def __init__(
    self, task: Task, prompt: Sequence[int], log: Path, omp_wait: str
  ):
    """Prepares the process.

    Args:
      prompt: ids of the first question's prompt, which TRL must render too.
      log: file for what its libraries print.
      omp_wait: OMP_WAIT_POLICY of its threads.
    """
    platform: Platform = "cpu" if jax.default_backend() == "cpu" else "gpu"
    python = environments.python_of(TRL(), platform)
    self._prompt, self._path = list(prompt), log
    self._omp_wait = omp_wait
    self._command = [
      str(python),
      str(HERE / "round_trl.py"),
      json.dumps(dataclasses.asdict(task)),
    ]

  def __enter__(self) -> Self:
    with open(self._path, "wb") as log:
      self._process = subprocess.Popen(
        self._command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={
          **os.environ,
          "HF_HUB_OFFLINE": "1",
          "OMP_WAIT_POLICY": self._omp_wait,
        },
      )
    return self

  def __exit__(self, *error: Any) -> None:
    self._process.communicate()  # no more lines: it ends

  def __call__(self) -> dict[str, float]:
    assert self._process.stdin and self._process.stdout
    try:
      self._process.stdin.write("\n")
      self._process.stdin.flush()
    except BrokenPipeError:
      pass  # the empty answer says so
    line = self._process.stdout.readline()
    if not line:
      text = self._path.read_text(errors="replace").strip()
      raise SophiaError("TRL ended: " + text.rpartition("\n")[2])
    found = json.loads(line)
    if found.pop("prompt_ids") != self._prompt:
      raise SophiaError("TRL's prompts are not ours: other ids")
    return found


# ---------------------------------------------------------------------- measured
def interleaved(
  works: dict[str, Round], reps: int
) -> dict[str, list[dict[str, float]]]:
  """Makes rounds in alternating order; the first of each compiles and is left
  out."""
  seconds: dict[str, list[dict[str, float]]] = {name: [] for name in works}
  for rep in range(reps + 1):
    for name in sorted(works, reverse=bool(rep % 2)):
      found = works[name]()
      if rep:
        seconds[name].append(found)
  return seconds


def report(
  seconds: dict[str, list[dict[str, float]]], fast: str, slow: str
) -> dict[str, Any]:
  """Summarises rounds; ratios are `slow`'s seconds over `fast`'s."""
  pairs = list(zip(seconds[fast], seconds[slow], strict=True))
  ratios = {
    part: statistics.median(b[part] / a[part] for a, b in pairs)
    for part in (*PARTS, "cpu")
  }
  return {
    "ratio": {part: round(ratio, 3) for part, ratio in ratios.items()},
    "s": {
      name: {
        part: round(statistics.median(r[part] for r in rounds), 3)
        for part in (*PARTS, "cpu")
      }
      for name, rounds in seconds.items()
    },
  }


def measure(args: argparse.Namespace, directory: Path) -> dict[str, Any]:
  scale = TINY if args.tiny else FULL
  both = Both(SIZES[scale.size], scale.questions, directory)
  task = task_of(both, scale, directory, args.reps + 1, args.kl)
  if args.algorithm:
    task = dataclasses.replace(task, together=2)
  ours = Ours(both, task, method("grpo", task), "grpo")
  other: Ours | Theirs
  if args.algorithm:
    algorithm = method(args.algorithm, task)
    other = Ours(both, task, algorithm, f"other_{args.algorithm}")
  else:
    prompt = both.prompts[0].token_ids.tolist()
    other = Theirs(task, prompt, directory / "log", args.omp_wait)
  against = args.algorithm or "trl"
  with ours, other:
    seconds = interleaved({"grpo": ours, against: other}, args.reps)
  found = report(seconds, "grpo", against)
  if not args.algorithm:
    found["lost"] = [part for part in PARTS if found["ratio"][part] < 1]
    found["omp_wait"] = args.omp_wait
  return {
    "size": scale.size,
    "questions": scale.questions,
    "n": scale.n,
    "prompt_tokens": len(both.prompts[0]),
    "new_tokens": scale.new,
    "kl": args.kl,
    "reps": args.reps,
    "against": against,
    **found,
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.round --tiny",
  )
  parser.add_argument("--tiny", action="store_true", help="a round of a second")
  parser.add_argument("--algorithm", default="", help="method instead of TRL")
  parser.add_argument("--kl", type=float, default=0.04)
  parser.add_argument(
    "--omp_wait", default="passive", choices=["passive", "active"]
  )
  parser.add_argument("--reps", type=int, default=3)
  args = parser.parse_args()
  if args.algorithm == "grpo":
    parser.error("--algorithm=grpo: others are timed against it")
  with tempfile.TemporaryDirectory() as directory:
    print(json.dumps(measure(args, Path(directory))), flush=True)


if __name__ == "__main__":
  main()
