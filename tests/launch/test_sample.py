"""`launch.sample` as processes: killed, in shards, ended politely."""

import functools
import json
import random
import shutil
import signal
import time
from collections import Counter

import pytest

from sophia_jax.data.problems import load_problems
from sophia_jax.files import exclusive, shared
from sophia_jax.rollout.records import Answer, Graded, decode
from sophia_jax.rollout.store import Store
from sophia_jax.runs.shards import Shard
from sophia_jax.types import Problem, SophiaError
from tests.launch.commands import CONFIG, TINY, overrides, until

# Enough to be killed in the middle of; long enough to be found at it.
SIZES = TINY | {"prepare.corpus.problems": 24, "engine.chunk": 1}
OVERRIDES = overrides(SIZES)
TEXTS = 24 * 2 * (1 + 3)


class Place:
  """A workdir in which everything is ready to sample."""

  def __init__(self, workdir, command):
    """Args: command: the fixture `start`."""
    self.workdir, self.command = workdir, command

  def start(self, *flags):
    arguments = [CONFIG, f"--workdir={self.workdir}", *OVERRIDES, *flags]
    return self.command("launch.sample", *arguments)

  def run(self, *flags):
    """Returns the exit code, stdout and stderr."""
    process = self.start(*flags)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err

  def lines(self, segment="*"):
    """All whole records that were ever written, or those of one shard."""
    segments = self.workdir.glob(f"trajectories/{segment}.jsonl")
    lines = [line for s in segments for line in s.read_bytes().splitlines(True)]
    return [r for r in map(decode, lines) if r is not None]

  def texts(self, segment="*"):
    """Returns every generated text, by its place."""
    return [
      ((r.problem_id, r.path), r.completion.text)
      for r in self.lines(segment)
      if isinstance(r, Answer)
    ]

  def store(self):
    return Store(self.workdir / "trajectories", read_only=True)

  def done(self):
    path = self.workdir / "stages.json"
    return "sophia/sample" in json.loads(path.read_text())

  def started_and_at(self, texts, *flags, segment="*"):
    """A process that has been let run until so many texts were written."""
    process = self.start(*flags)
    until(process, lambda: len(self.texts(segment)) >= texts)
    return process


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, start):
  place = Place(tmp_path_factory.mktemp("undisturbed"), start)
  code, place.out, place.err = place.run()
  assert code == 0, place.err
  return place


@pytest.fixture
def place(undisturbed, tmp_path):
  """The same, of which nothing is sampled."""
  copy = Place(tmp_path / "W", undisturbed.command)
  shutil.copytree(undisturbed.workdir, copy.workdir)
  shutil.rmtree(copy.workdir / "trajectories")
  stages = copy.workdir / "stages.json"
  left = json.loads(stages.read_text())
  del left["sophia/sample"]
  stages.write_text(json.dumps(left))
  return copy


def assert_all_is_there_once(place, undisturbed):
  """The test counts: nothing lost, nothing doubled, nothing generated twice."""
  lines = place.lines()
  texts = Counter(where for where, _ in place.texts())
  assert len(texts) == TEXTS and set(texts.values()) == {1}
  graded = Counter(
    (r.problem_id, r.path) for r in lines if isinstance(r, Graded)
  )
  assert len(graded) == 24 * 2 * 3 and set(graded.values()) == {1}
  problems = load_problems(place.workdir / "data/problems.jsonl")
  assert all(map(place.store().complete, problems)) and len(problems) == 24
  assert dict(place.texts()) == dict(undisturbed.texts())
  assert place.done()


def test_an_undisturbed_run(undisturbed):
  assert_all_is_there_once(undisturbed, undisturbed)
  assert undisturbed.out == (
    f"trajectories: {undisturbed.workdir / 'trajectories'}\n"
  )
  log = undisturbed.err
  assert "sophia/sample 24/24" in log and "reward" in log
  assert "sampled 48 answers of the caption, " in log
  assert "144 answers of the reasoner, " in log
  assert "144 answers verified" in log
  code, _, err = undisturbed.run()  # there is nothing to do
  assert code == 0 and "--- sophia/sample" not in err


def test_killed_again_and_again(place, undisturbed):
  rng, seen = random.Random(time.time_ns()), 0
  for share in (0.1, 0.3, 0.5):
    at = max(seen + 1, int(TEXTS * share) + rng.randint(-9, 9))
    process = place.started_and_at(at)
    time.sleep(rng.random() * 0.02)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not place.done()
    seen = len(place.texts())
  assert seen < TEXTS
  code, _, err = place.run()
  assert code == 0, err
  assert_all_is_there_once(place, undisturbed)


def test_two_shards_at_once_one_of_them_killed(place, undisturbed):
  first = place.start("--shard=0/2")
  second = place.started_and_at(20, "--shard=1/2", segment="1-of-2")
  second.kill()
  second.communicate()
  _, err = first.communicate(timeout=300)
  assert first.returncode == 0, err
  assert not place.done()
  assert "problems are left, of other shards" in err
  assert "--- sophia/sample 0-of-2" in err
  own = {p.id for p in problems_of(place) if p in Shard(0, 2)}
  assert own <= {p.id for p in problems_of(place) if place.store().complete(p)}
  # The rest is sampled in another division, and nothing twice.
  code, _, err = place.run()
  assert code == 0, err
  assert_all_is_there_once(place, undisturbed)
  names = sorted(p.name for p in place.workdir.glob("trajectories/*.jsonl"))
  assert names == ["0-of-2.jsonl", "0.jsonl", "1-of-2.jsonl"]
  for shard in (Shard(0, 2), Shard(1, 2)):
    segment = place.workdir / "trajectories" / f"{shard.name}.jsonl"
    records = map(decode, segment.read_bytes().splitlines(True))
    ids = {r.problem_id for r in records if r is not None}
    assert ids and ids <= {p.id for p in problems_of(place) if p in shard}


def problems_of(place):
  return load_problems(place.workdir / "data/problems.jsonl")


def test_sigterm_is_a_success_that_says_so(place, undisturbed):
  process = place.started_and_at(30)
  process.terminate()
  out, err = process.communicate(timeout=120)
  assert process.returncode == 0, err
  assert out.startswith("preempted: SIGTERM") and str(place.workdir) in out
  assert "Traceback" not in err and not place.done()
  assert 30 <= len(place.texts()) < TEXTS
  code, _, err = place.run()
  assert code == 0, err
  assert_all_is_there_once(place, undisturbed)


def test_processes_must_agree_on_the_shards(place):
  process = place.started_and_at(1, "--shard=0/2")
  process.send_signal(signal.SIGSTOP)
  code, out, err = place.run("--shard=0/3")
  assert code == 1 and not out
  assert err.splitlines()[-1].startswith("error: ")
  assert "others are sampling here in 2 shards, not in 3 shards" in err
  code, _, err = place.run("--shard=0/2")
  assert code == 1 and f"process {process.pid} is writing shard '0-of-2'" in err
  process.kill()
  process.communicate()


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0", ""])
def test_a_shard_that_is_none(undisturbed, text):
  with pytest.raises(SophiaError, match=f"--shard={text}: "):
    Shard.of(text)


def test_shards_share_out_the_problems():
  problems = [Problem(id=f"p{i}", question="?", answer="6") for i in range(900)]
  shards = [Shard.of(f"{i}/3") for i in range(3)]
  owners = [[s for s in shards if p in s] for p in problems]
  assert all(len(own) == 1 for own in owners)
  counts = Counter(own[0].index for own in owners)
  assert all(250 < n < 350 for n in counts.values())
  assert all(p in Shard() for p in problems)


def test_locks(tmp_path):
  two = functools.partial(shared, tmp_path / "a", "2 shards")
  with (
    two(),
    two(),
    pytest.raises(SophiaError, match="in 2 shards, not in 1 shard;"),
    shared(tmp_path / "a", "1 shard"),
  ):
    pass
  with shared(tmp_path / "a", "1 shard"), exclusive(tmp_path / "b", "work"):
    pass
