"""launch.convert: any format to any other, and saved trainings."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from configs import quickstart
from launch.convert import convert
from sophia_jax.checkpoints import (
  Format,
  load_params,
  read_config,
  save_params,
)
from sophia_jax.runs import scoring
from sophia_jax.train.checkpoint import Checkpoints
from sophia_jax.train.state import create
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import (
  CFG,
  LLAMA,
  VARIANTS,
  assert_same,
  random_params,
  write_tokenizer,
)

ROOT = Path(__file__).parents[2]
PIECES = ROOT / "tests" / "data" / "fixtures" / "sentencepiece"
ROUND = (Format.ORBAX, Format.INTERNVL_CHAT, Format.ORBAX, Format.HF)


def write_source(directory, cfg=CFG, **how):
  """An exported checkpoint of random weights."""
  tokenizer = write_tokenizer(directory.parent / "tokenizer")
  save_params(random_params(cfg), cfg, directory, tokenizer, **how)
  return directory


@pytest.fixture
def source(tmp_path):
  return write_source(tmp_path / "source")


def same_files(a, b):
  return {p.name: p.read_bytes() for p in a.iterdir()} == {
    p.name: p.read_bytes() for p in b.iterdir()
  }


@pytest.mark.parametrize("variant", VARIANTS)
def test_round_and_back_to_the_same_bits(variant, tmp_path):
  """hf -> orbax -> internvl_chat -> orbax -> hf."""
  cfg = VARIANTS[variant]
  first = write_source(tmp_path / "0", cfg)
  for i, format in enumerate(ROUND):
    convert(tmp_path / str(i), tmp_path / str(i + 1), format, verify=True)
    assert read_config(tmp_path / str(i + 1)) == cfg
  assert same_files(first, tmp_path / str(len(ROUND)))


def test_bfloat16_survives_as_well(tmp_path):
  first = write_source(tmp_path / "0", dtype="bfloat16")
  for i, format in enumerate(ROUND):
    convert(tmp_path / str(i), tmp_path / str(i + 1), format, verify=True)
  assert same_files(first, tmp_path / str(len(ROUND)))


@pytest.mark.parametrize("format", Format)
def test_the_dtype_of_the_written_tensors(format, source, tmp_path):
  convert(source, tmp_path / "out", format, "bfloat16", verify=True)
  cfg = read_config(tmp_path / "out")
  assert cfg.dtype == "bfloat16"
  half = dataclasses.replace(cfg, param_dtype="bfloat16")
  want = {
    name: x.astype(jnp.bfloat16)
    for name, x in load_file(source / "model.safetensors").items()
  }
  convert(tmp_path / "out", tmp_path / "hf", Format.HF)
  got = load_file(tmp_path / "hf" / "model.safetensors")
  assert got.keys() == want.keys()
  for name, x in want.items():
    np.testing.assert_array_equal(got[name], x)
  assert (
    load_params(tmp_path / "out", half)["vision"]["cls"].dtype == "bfloat16"
  )


def test_a_text_model(tmp_path):
  first = write_source(tmp_path / "0", LLAMA)
  convert(first, tmp_path / "1", Format.ORBAX, verify=True)
  convert(tmp_path / "1", tmp_path / "2", Format.HF, verify=True)
  assert same_files(first, tmp_path / "2")
  with pytest.raises(SophiaError, match="text-only"):
    convert(first, tmp_path / "3", Format.INTERNVL_CHAT)


def test_code_and_settings_of_the_source_come_along(source, tmp_path):
  chat = tmp_path / "chat"
  convert(source, chat, Format.INTERNVL_CHAT)
  (chat / "modeling_internvl_chat.py").write_text("raise SystemExit\n")
  config = json.loads((chat / "config.json").read_text())
  config["auto_map"] = {"AutoModel": "modeling_internvl_chat.InternVLChatModel"}
  config["template"] = "internvl3"
  config["vision_config"]["drop_path_rate"] = 0.25
  (chat / "config.json").write_text(json.dumps(config))
  convert(chat, tmp_path / "orbax", Format.ORBAX)
  convert(tmp_path / "orbax", tmp_path / "again", Format.INTERNVL_CHAT)
  again = json.loads((tmp_path / "again" / "config.json").read_text())
  assert again == config
  code = tmp_path / "again" / "modeling_internvl_chat.py"
  assert code.read_text() == "raise SystemExit\n"
  # A tokenizer that needs no code has none.
  convert(chat, tmp_path / "hf", Format.HF)
  assert not list((tmp_path / "hf").glob("*.py"))


def test_every_format_scores_alike(source, tmp_path):
  """launch.score on an image and its question; to the last digit."""
  pixels = np.random.RandomState(0).randint(0, 256, (56, 112, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / "1.png")
  example = {"id": "1", "images": ["1.png"], "question": "?", "response": "ab"}
  data = tmp_path / "examples.jsonl"
  data.write_text(json.dumps(example) + "\n")
  scores = set()
  for format in Format:
    convert(source, tmp_path / format, format)
    out = tmp_path / f"{format}.jsonl"
    scoring.score(tmp_path / format, data, out, "float32", None)
    scores.add(out.read_text())
  (line,) = scores
  assert len(json.loads(line)["logprobs"]) == len("ab") + 1


def test_the_original_tokenizer_becomes_one_without_code(tmp_path):
  """tokenizer.model and InternLM2's own class -> tokenizer.json."""
  words = tmp_path / "words"
  words.mkdir()
  shutil.copy(PIECES / "plain.model", words / "tokenizer.model")
  marks = {3: "<|im_end|>", 4: "<|im_start|>"}
  marks |= {460: "<img>", 461: "</img>", 462: "<IMG_CONTEXT>"}
  settings = {
    "tokenizer_class": "InternLM2Tokenizer",
    "auto_map": {"AutoTokenizer": ["evil.InternLM2Tokenizer", None]},
    "added_tokens_decoder": {
      str(i): {"content": text, "special": True} for i, text in marks.items()
    },
  }
  (words / "tokenizer_config.json").write_text(json.dumps(settings))
  (words / "evil.py").write_text("raise SystemExit('code was run')")
  base = VARIANTS["300m-internlm2"]
  cfg = dataclasses.replace(
    base,
    decoder=dataclasses.replace(base.decoder, vocab=464),
    image_token_id=462,
  )
  chat, hf = tmp_path / "chat", tmp_path / "hf"
  save_params(random_params(cfg), cfg, chat, words, format=Format.INTERNVL_CHAT)
  convert(chat, hf, Format.HF, verify=True)
  assert read_config(hf) == cfg
  loaded = AutoTokenizer.from_pretrained(hf, trust_remote_code=False)
  plain = [
    (text, ids)
    for text, ids in json.loads((PIECES / "plain.json").read_text())
    if "<" not in text  # a special token, spelt
  ]
  assert len(plain) > 10
  for text, ids in plain:
    assert loaded(text, add_special_tokens=False).input_ids == ids, text
  assert loaded("a").input_ids[0] == 1
  assert loaded.convert_tokens_to_ids("<IMG_CONTEXT>") == 462
  config = json.loads((hf / "config.json").read_text())
  assert config["text_config"]["eos_token_id"] == 3


# ------------------------------------------------------------- saved trainings
@pytest.fixture
def workdir(source, tmp_path):
  """W of a run that trained the language model from `source`."""
  work = tmp_path / "W"
  params = jax.device_put(random_params(CFG, seed=1))
  state = create(params, optax.adam(1e-3), ("language",))
  checkpoints = Checkpoints(
    work / "checkpoints", 2, {"model": dataclasses.asdict(CFG)}
  )
  for step in (2, 4):
    checkpoints.save(state.replace(step=jnp.int32(step)), {"step": step})
  checkpoints.close()
  run = quickstart.get_config()
  run.order, run.policy.path = ("sophia",), str(source)
  (work / "config.json").write_text(json.dumps(run.to_dict()))
  return work


@pytest.mark.parametrize(
  "where, format",
  [
    (".", Format.HF),
    ("checkpoints", Format.ORBAX),
    ("checkpoints/2", Format.INTERNVL_CHAT),
  ],
)
def test_training_checkpoints(where, format, workdir, source, tmp_path):
  convert(workdir / where, tmp_path / "out", format, verify=True)
  got = load_params(tmp_path / "out", CFG)
  assert_same(got["language"], random_params(CFG, seed=1)["language"])
  frozen = load_params(source, CFG)
  for part in ("vision", "projector"):
    assert_same(got[part], frozen[part])
  assert (tmp_path / "out" / "tokenizer.json").is_file()


def test_a_base_is_asked_for(workdir, source, tmp_path):
  (workdir / "config.json").unlink()
  with pytest.raises(SophiaError, match="give --base"):
    convert(workdir, tmp_path / "out", Format.HF)
  convert(workdir, tmp_path / "out", Format.HF, base=source)
  other = write_source(tmp_path / "6b", VARIANTS["6b-qwen2"])
  with pytest.raises(SophiaError, match="another model"):
    convert(workdir, tmp_path / "out", Format.HF, base=other)


def test_a_damaged_step_is_passed_over(workdir, tmp_path):
  step = workdir / "checkpoints" / "4"
  largest = max(step.rglob("*"), key=lambda p: p.stat().st_size)
  largest.write_bytes(b"")
  convert(workdir, tmp_path / "out", Format.HF, verify=True)
  got = load_params(tmp_path / "out", CFG)
  assert_same(got["language"], random_params(CFG, seed=1)["language"])


# -------------------------------------------------------------------- failures
def test_overlapping_directories_are_refused(source):
  for dst in (source, source / "inside", source.parent):
    with pytest.raises(SophiaError, match="overlap"):
      convert(source, dst, Format.HF)


def test_only_a_checkpoint_is_replaced(source, tmp_path):
  home = tmp_path / "home"
  home.mkdir()
  (home / "thesis.tex").write_text("years of work")
  with pytest.raises(SophiaError, match="something else than a checkpoint"):
    convert(source, home, Format.HF)
  assert [p.name for p in home.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("format", Format)
def test_no_tokenizer(format, source, tmp_path):
  (source / "tokenizer.json").unlink()
  with pytest.raises(SophiaError, match="no tokenizer"):
    convert(source, tmp_path / "out", format)
  assert {p.name for p in tmp_path.iterdir()} == {"source", "tokenizer"}


def test_a_truncated_orbax_directory(source, tmp_path):
  convert(source, tmp_path / "orbax", Format.ORBAX)
  params = tmp_path / "orbax" / "params"
  largest = max(params.rglob("*"), key=lambda p: p.stat().st_size)
  largest.write_bytes(largest.read_bytes()[:-1])
  with pytest.raises(SophiaError, match="was written with") as e:
    convert(tmp_path / "orbax", tmp_path / "out", Format.HF)
  assert str(params) in str(e.value) and largest.name in str(e.value)


def environment(**more):
  return {**os.environ, "JAX_PLATFORMS": "cpu", **more}


def command(*arguments, limit=None):
  """Runs `python -m launch.convert` with no file larger than `limit`."""
  line = [sys.executable, "-m", "launch.convert", *arguments]
  if limit is not None:
    line = ["bash", "-c", f'ulimit -f {limit} && exec "$@"', "bash", *line]
  return subprocess.run(
    line,
    cwd=ROOT,
    env=environment(),
    capture_output=True,
    text=True,
    timeout=300,
  )


def test_the_command(source, tmp_path):
  out = tmp_path / "out"
  done = command(
    f"--src={source}", f"--dst={out}", "--format=internvl_chat", "--verify"
  )
  assert done.returncode == 0, done.stderr
  assert "written and verified" in done.stdout
  assert_same(load_params(out, CFG), load_params(source, CFG))


def test_the_command_explains_itself(source):
  done = command("--help")
  assert done.returncode == 0 and "python -m launch.convert" in done.stdout
  done = command(f"--src={source}", "--dst=x", "--format=gguf")
  assert done.returncode == 1
  assert done.stderr.count("\n") == 1 and "internvl_chat" in done.stderr


@pytest.mark.parametrize("format", ["hf", "orbax"])
def test_a_full_disk_leaves_the_destination_alone(format, source, tmp_path):
  """The tensors have 160 KB, and 16 KB can be written."""
  out = write_source(tmp_path / "out", VARIANTS["6b-qwen2"])
  before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
  beside = set(tmp_path.iterdir())
  done = command(
    f"--src={source}", f"--dst={out}", f"--format={format}", limit=16
  )
  assert done.returncode == 1
  # Threads of orbax may talk at the same time, even into the same line.
  (error,) = re.findall(r"error: /.*", done.stderr)
  assert str(out) in error and "not written" in error
  assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before
  assert set(tmp_path.iterdir()) == beside


SLOWLY = """
import sys, time
from pathlib import Path
from sophia_jax.runs import scoring
from launch.convert import convert
from sophia_jax.checkpoints import Format, writing
write_file = writing._write_file
def slowly(*args):
  yield from write_file(*args)
  print("one file is written", flush=True)
  time.sleep(60)
writing._write_file = slowly
writing.SHARD_BYTES = 20_000
convert(Path(sys.argv[1]), Path(sys.argv[2]), Format.HF)
"""


def test_a_killed_export_leaves_nothing_that_looks_finished(source, tmp_path):
  folder = tmp_path / "exports"
  folder.mkdir()
  process = subprocess.Popen(
    [sys.executable, "-c", SLOWLY, str(source), str(folder / "out")],
    cwd=ROOT,
    env=environment(),
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert "one file" in process.stdout.readline()
  finally:
    process.send_signal(signal.SIGKILL)
    process.wait()
  (left,) = folder.iterdir()
  assert left.name.startswith(".")
  with pytest.raises(SophiaError):
    load_params(left, CFG)
  convert(source, folder / "out", Format.HF, verify=True)
  assert [path.name for path in folder.iterdir()] == ["out"]
