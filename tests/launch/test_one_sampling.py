"""The walk of a new user: own models and data, one sampling, three updates."""

import json
import re
import shutil

import pytest
from transformers import AutoTokenizer

from sophia_jax.data.chat import DEFAULT_SYSTEM
from sophia_jax.data.images import ImageConfig
from sophia_jax.evals.page import SAMPLES
from sophia_jax.files import write_jsonl
from sophia_jax.runs import policies, scoring
from sophia_jax.train import metrics
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
  done = walk.well("launch.train", "--config.stages.sophia.alpha=0.0")
  assert (walk.workdir / "export" / "config.json").is_file()
  said = re.search(r"the data need (\d) tiles a microbatch, not 8", done.stderr)
  assert said and 0 < int(said[1]) < 8
  # Every command that makes a result writes its page, measured or not.
  page = walk.workdir / "report.html"
  assert f"report: {page}" in done.stdout.splitlines()
  text = page.read_text()
  assert "is not measured" in text and "sophia: loss" in text
  counts = walk.read("report.json")["counts"]
  assert (counts["captions"], counts["trajectories"]) == (16, 32)


def test_what_sampling_looks_like_from_outside(walk):
  """Lengths, share truncated and speed are seen while it runs."""
  shard = walk.workdir / "trajectories" / "0"
  *_, last = metrics.read(shard / "metrics.jsonl")
  assert last["step"] == 8 and last["tokens_per_s"] > 0
  assert 0 <= last["truncated"] <= 1 and 0 <= last["reward"] <= 1
  assert 0 < last["caption_tokens"] <= 4 and 0 < last["reasoner_tokens"] <= 4
  assert list(shard.glob("tensorboard/events*"))


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
    "with config.stages.sophia.train.learning_rate = 2e-05, now it is 0.001",
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


def test_more_captions_from_the_same_workdir(walk):
  """What is missing is sampled, and what is there is kept."""
  more = "--config.stages.sophia.captions=3"
  done = walk("launch.train", "--name=more", more)
  assert done.returncode == 1
  *_, last = done.stderr.splitlines()
  assert "asks for more than launch.sample was given" in last
  kept = walk.read("config.json")
  done = walk.well("launch.sample", more)
  assert "8 answers of the caption" in done.stderr
  assert "16 answers of the reasoner" in done.stderr
  assert walk.read("config.json") == kept
  segment = walk.workdir / "trajectories" / "0.jsonl"
  assert segment.read_bytes().startswith(walk.samples)
  named = f"--config={walk.workdir / 'config.json'}"
  fewer = walk.well("launch.sample", named)
  done = walk.well("launch.run", "--name=more", more)
  for nothing_left in (fewer, done):
    assert "--- sophia/sample" not in nothing_left.stderr
  *_, head, base, fast, third = done.stdout.splitlines()
  column = head.split().index("sophia.captions")
  rows = [line.split() for line in (base, fast, third)]
  assert [row[0] for row in rows] == ["W", "fast", "more"]
  assert [row[column] for row in rows] == ["2", "2", "3"]
  assert "%" in third and "%" not in base  # launch.run alone measures pass@1
  result = json.loads(
    (walk.workdir / "updates" / "more" / "report.json").read_text()
  )
  assert result["counts"]["captions"] == 24
  assert result["pass_at_1"]["after"]["n"] == 4


def test_commands_on_a_workdir_need_no_config(walk):
  """The config of W is W/config.json, by default or by name."""
  named = f"--config={walk.workdir / 'config.json'}"
  done = walk("launch.train", named, "--config.stages.sophia.alhpa=1")
  assert_refused(done, "config.stages.sophia.alhpa: no such key", "'alpha'")
  done = walk.well("launch.train", "--name=fast")  # all is done
  assert any(line.startswith("fast ") for line in done.stdout.splitlines())


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
  assert len(cards) == SAMPLES
  for i, card in enumerate(cards):
    assert f"hp{i // 2}, sample {i % 2 + 1}<" in card
    asked = re.search(r"What do you see((?: paper)*)", card)
    assert asked and asked[1].split() == ["paper"] * (i // 2 % 3)
  assert f">{model}<" in text and f">{walk.mine.heldout}<" in text
  for said in ("Date: ", "max_new_tokens", "temperature"):
    assert said in text


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
