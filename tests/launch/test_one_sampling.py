"""The walk of a new user: own models and data, one sampling, several updates."""

import json
import re
import shutil

import pytest
from transformers import AutoTokenizer

from sophia_jax.data.chat import DEFAULT_SYSTEM
from sophia_jax.data.images import ImageConfig
from sophia_jax.files import write_jsonl
from sophia_jax.runs import policies, scoring
from tests.launch import own
from tests.launch.commands import assert_refused
from tests.rollout.little import SIDE

ALPHA = "--config.stages.sophia.alpha=2.0"


class Walk:
  """A workdir, and what the commands on it said."""

  def __init__(self, mine, workdir, command):
    self.mine, self.workdir, self.command = mine, workdir, command

  def __call__(self, module, *flags):
    done = self.command(module, f"--workdir={self.workdir}", *flags)
    return done

  def well(self, module, *flags):
    done = self(module, *flags)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "PyTorch" not in done.stderr
    return done

  def read(self, name):
    return json.loads((self.workdir / name).read_text())


@pytest.fixture(scope="module")
def walk(tmp_path_factory, command):
  folder = tmp_path_factory.mktemp("user")
  walk = Walk(own.make(folder), folder / "W", command)
  walk.well("launch.sample", *walk.mine.flags)
  walk.samples = (walk.workdir / "trajectories" / "0.jsonl").read_bytes()
  return walk


def test_nothing_is_selected_and_the_remedy_works(walk):
  """A strict selection is refused, says why, and burns nothing."""
  done = walk("launch.train", ALPHA)
  assert done.returncode == 1
  *_, last = done.stderr.splitlines()
  assert "no trajectory is selected" in last and "Traceback" not in done.stderr
  assert re.search(
    r"\(\d+ right, \d+ wrong, \d+ unparseable, .*truncated", last
  )
  assert "lower config.stages.sophia.alpha, now 2.0: the samples stay" in last
  assert not (walk.workdir / "checkpoints").exists()
  walk.well("launch.train", "--config.stages.sophia.alpha=0.0")
  assert (walk.workdir / "export" / "config.json").is_file()


def test_other_settings_beside_the_first_update(walk):
  """The data file has moved: its content counts, its path does not."""
  first = (walk.workdir / "metrics.jsonl").read_bytes()
  moved = walk.mine.folder / "moved.jsonl"
  shutil.copy(walk.mine.problems, moved)
  flags = [
    f"--config.data.problems={moved}",
    "--config.stages.sophia.train.learning_rate=1e-3",
  ]
  assert_refused(
    walk("launch.train", *flags),
    "begun with train.learning_rate = 2e-05, now it is 0.001",
    "another --name",
  )
  done = walk.well("launch.train", "--name=fast", *flags)
  *_, head, base, fast = done.stdout.splitlines()
  assert head.split()[0] == "update" and "train.learning_rate" in head
  assert base.split()[0] == "W" and "2e-05" in base
  assert fast.split()[0] == "fast" and "0.001" in fast
  place = walk.workdir / "updates" / "fast"
  assert (place / "export" / "config.json").is_file()
  assert f"checkpoint: {place / 'export'}" in done.stdout
  assert (walk.workdir / "metrics.jsonl").read_bytes() == first
  store = walk.workdir / "trajectories" / "0.jsonl"
  assert store.read_bytes() == walk.samples
  assert not (place / "trajectories").exists()
  # The workdir's own config has stayed that of its first update.
  kept = walk.read("config.json")
  assert kept["stages"]["sophia"]["train"]["learning_rate"] == 2e-5


def test_commands_on_a_workdir_need_no_config(walk):
  """The config of W is W/config.json, by default or by name."""
  named = f"--config={walk.workdir / 'config.json'}"
  done = walk("launch.train", named, "--config.stages.sophia.alhpa=1")
  assert_refused(done, "config.stages.sophia.alhpa: no such key", "'alpha'")
  done = walk.well("launch.train", "--name=fast")  # all is done
  assert done.stdout.splitlines()[-1].startswith("fast ")


def test_a_name_is_a_name(walk):
  done = walk("launch.train", "--name=../../evil")
  assert_refused(done, "--name=../../evil: use letters")


def test_the_evaluation_of_an_update(walk):
  """Two samples of each problem, each on a card with its own problem."""
  model = walk.workdir / "updates" / "fast" / "export"
  walk.well("launch.evaluate", f"--model={model}", "--samples=2")
  result = walk.read("evals/fast-test.json")
  rows = [(row["id"], row["sample"]) for row in result["responses"]]
  assert rows == [(f"hp{i}", sample) for i in range(4) for sample in range(2)]
  text = (walk.workdir / "evals" / "fast-test.html").read_text()
  cards = text.split("<article")[1:]
  assert [f"hp{i // 2}, sample {i % 2 + 1}<" in c for i, c in enumerate(cards)]
  assert f">{model}<" in text and f">{walk.mine.heldout}<" in text


def test_scores_are_of_the_prompt_that_transformers_renders(walk):
  """The template of an export has the system prompt that training had."""
  model = walk.workdir / "updates" / "fast" / "export"
  words = AutoTokenizer.from_pretrained(model)
  chat = [{"role": "user", "content": "What do you see"}]
  theirs = words.apply_chat_template(
    chat, tokenize=True, add_generation_prompt=True, return_dict=False
  )
  _, renderer = policies.load_words(
    model, ImageConfig(tile_size=SIDE), scoring.default_system(model)
  )
  assert renderer.prompt("What do you see").token_ids.tolist() == theirs
  _, bare = policies.load_words(model, ImageConfig(tile_size=SIDE), "")
  assert len(bare.prompt("What do you see")) < len(theirs)
  assert scoring.default_system(model) == "Look."
  assert scoring.default_system(walk.mine.policy) == DEFAULT_SYSTEM
  data, out = walk.mine.folder / "e.jsonl", walk.mine.folder / "s.jsonl"
  write_jsonl(
    data, [{"id": "e", "question": chat[0]["content"], "response": "A"}]
  )
  flags = [f"--model={model}", f"--data={data}", f"--out={out}"]
  found = []
  for more in ((), ("--system=Look.",)):
    done = walk.command("launch.score", *flags, *more)
    assert done.returncode == 0, done.stderr
    found.append(json.loads(out.read_text())["logprobs"])
  assert found[0] == found[1]


def test_every_file_honours_the_umask(walk):
  modes = {
    path: path.stat().st_mode & 0o077
    for path in walk.workdir.rglob("*")
    if path.is_file()
  }
  assert [path for path, mode in modes.items() if not mode] == []
