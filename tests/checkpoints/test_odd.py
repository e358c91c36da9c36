"""Odd checkpoints that people reported elsewhere, and what a format may lose."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from launch.convert import convert
from sophia_jax.checkpoints import (
  Format,
  load_params,
  manifest,
  read_config,
  save_params,
  shards,
)
from sophia_jax.checkpoints.tiling import Tiling, read_tiling
from sophia_jax.types import SophiaError
from tests.checkpoints.toy import (
  CFG,
  IMAGE_TOKEN,
  LLAMA,
  assert_same,
  edit,
  random_params,
  write_tokenizer,
)

HF, CHAT, ORBAX = Format.HF, Format.INTERNVL_CHAT, Format.ORBAX
TIED = dataclasses.replace(
  CFG, decoder=dataclasses.replace(CFG.decoder, tied_head=True)
)


@pytest.fixture(scope="module")
def base(params, tmp_path_factory):
  """base(format) -> a directory with a tokenizer, made once."""
  root = tmp_path_factory.mktemp("base")
  words = write_tokenizer(root / "words")

  def make(format):
    if not (root / format).exists():
      save_params(params, CFG, root / format, words, format=format)
    return root / format

  return make


@pytest.fixture
def copy(base, tmp_path):
  """copy(format) -> a directory to spoil."""

  def make(format):
    return shutil.copytree(base(format), tmp_path / "odd")

  return make


def rewrite(directory, change):
  tensors = load_file(directory / shards.SINGLE)
  change(tensors)
  save_file(tensors, directory / shards.SINGLE)
  (directory / manifest.NAME).unlink(missing_ok=True)


def section(directory, key, **changes):
  """Changes a section of config.json; None removes a key."""
  config = json.loads((directory / "config.json").read_text())
  config[key] = {
    k: v for k, v in (config[key] | changes).items() if v is not None
  }
  (directory / "config.json").write_text(json.dumps(config))


def refused(directory, match, tmp_path):
  """Neither read nor exported, in one line that names the file."""
  with pytest.raises(SophiaError, match=match) as e:
    read_config(directory)
  assert "config.json" in str(e.value) and "\n" not in str(e.value)
  with pytest.raises(SophiaError, match=match):
    convert(directory, tmp_path / "out", HF, verify=True)
  assert not (tmp_path / "out").exists()


def split(directory, drop=None, index=True):
  """Two shards with an index; `drop` is in the index and in no shard."""
  tensors = load_file(directory / shards.SINGLE)
  names, where = sorted(tensors), {}
  for i in range(2):
    part = names[i::2]
    name = f"model-0000{i + 1}-of-00002.safetensors"
    save_file({n: tensors[n] for n in part if n != drop}, directory / name)
    where |= dict.fromkeys(part, name)
  (directory / shards.SINGLE).unlink()
  (directory / manifest.NAME).unlink(missing_ok=True)
  if index:
    (directory / shards.INDEX).write_text(json.dumps({"weight_map": where}))
  return tensors


# --------------------------------------------------------------------- the head
def without_head(tensors):
  for name in [name for name in tensors if "lm_head" in name]:
    del tensors[name]


@pytest.mark.parametrize("format", [HF, CHAT])
def test_a_lost_head_is_not_taken_for_a_tied_one(copy, format, tmp_path):
  odd = copy(format)
  rewrite(odd, without_head)
  text = "text_config" if format is HF else "llm_config"
  section(odd, text, tie_word_embeddings=False)
  edit(odd, tie_word_embeddings=False)
  refused(odd, "no tensor is the head .* fetch the weights again", tmp_path)


@pytest.mark.parametrize("inner", [True, False, None])
@pytest.mark.parametrize("outer", [True, False, None])
@pytest.mark.parametrize("format", [HF, CHAT])
def test_which_flags_say_tied(copy, format, outer, inner):
  """As transformers reads them: -hf the outer one, true by default."""
  odd = copy(format)
  rewrite(odd, without_head)
  text = "text_config" if format is HF else "llm_config"
  section(odd, text, tie_word_embeddings=inner)
  edit(odd, tie_word_embeddings=outer)
  flags = [outer, inner]
  first = next((flag for flag in flags if flag is not None), True)
  if first if format is HF else True in flags:
    assert read_config(odd).decoder.tied_head
    return
  with pytest.raises(SophiaError, match="no tensor is the head"):
    read_config(odd)


def test_a_head_that_is_there_is_used_whatever_the_flags(copy, params):
  odd = copy(HF)
  section(odd, "text_config", tie_word_embeddings=True)
  edit(odd, tie_word_embeddings=True)
  cfg = read_config(odd)
  assert not cfg.decoder.tied_head
  assert_same(params, load_params(odd, cfg))


def test_a_text_model_without_head_or_flag(tmp_path):
  save_params(random_params(LLAMA), LLAMA, tmp_path / "llm")
  rewrite(tmp_path / "llm", without_head)
  edit(tmp_path / "llm", tie_word_embeddings=None)
  with pytest.raises(SophiaError, match="no tensor is the head"):
    read_config(tmp_path / "llm")


@pytest.mark.parametrize("format", [HF, ORBAX])
@pytest.mark.parametrize("source", [HF, CHAT])
def test_a_tied_model_stays_tied(base, tmp_path, format, source):
  """Also where an orbax directory keeps the words of InternVLChatModel."""
  params = random_params(TIED)
  save_params(params, TIED, tmp_path / "x", base(source), format=format)
  cfg = read_config(tmp_path / "x")
  assert cfg == TIED
  assert_same(params, load_params(tmp_path / "x", cfg))


# ------------------------------------------------------------------------- ids
@pytest.mark.parametrize(
  "key", ["image_token_id", "image_token_index", "img_context_token_id"]
)
@pytest.mark.parametrize("format", [HF, CHAT])
def test_an_image_token_that_the_tokenizer_contradicts(
  copy, format, key, tmp_path
):
  odd = copy(format)
  edit(odd, image_token_id=None)
  edit(odd, **{key: IMAGE_TOKEN - 1})
  refused(odd, f"{key} is {IMAGE_TOKEN - 1}, but .* set it to", tmp_path)


def test_the_older_name_of_the_image_token(copy):
  odd = copy(HF)
  edit(odd, image_token_id=None, image_token_index=IMAGE_TOKEN)
  assert read_config(odd) == CFG
  edit(odd, image_token_index=None)
  assert read_config(odd) == CFG, "the tokenizer says it"
  (odd / "tokenizer.json").unlink()
  (odd / "tokenizer_config.json").unlink()
  with pytest.raises(SophiaError, match="image_token_id is missing"):
    read_config(odd)


def test_a_tokenizer_of_another_model_is_not_exported(params, base, tmp_path):
  moved = dataclasses.replace(CFG, image_token_id=IMAGE_TOKEN - 2)
  for format in Format:
    with pytest.raises(SophiaError, match=f"{IMAGE_TOKEN} in the tokenizer"):
      save_params(params, moved, tmp_path / "x", base(HF), format=format)
  assert [*tmp_path.iterdir()] == []


def test_a_tokenizer_that_outgrew_the_embedding(copy, tmp_path):
  odd = copy(HF)
  file = json.loads((odd / "tokenizer.json").read_text())
  last = file["added_tokens"][-1]
  file["added_tokens"] += [
    {**last, "id": last["id"] + i, "content": f"<seg{i}>"} for i in (1, 2, 3)
  ]
  (odd / "tokenizer.json").write_text(json.dumps(file))
  with pytest.raises(SophiaError, match="'<seg3>' 264, the embedding ends at"):
    convert(odd, tmp_path / "out", HF)
  assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
  "content", ['{"added_tokens": [{}]}', '{"added_tokens": 3}', "[]", "{"]
)
def test_a_damaged_tokenizer(copy, content):
  odd = copy(HF)
  (odd / "tokenizer.json").write_text(content)
  with pytest.raises(SophiaError, match=r"tokenizer\.json"):
    read_config(odd)


# ------------------------------------------------------------------ tile limits
SIX = Tiling(min_tiles=2, max_tiles=6)


def limits(directory):
  """What the reader of the format itself finds."""
  config = json.loads((directory / "config.json").read_text())
  if "max_dynamic_patch" in config:
    return config["min_dynamic_patch"], config["max_dynamic_patch"]
  file = json.loads((directory / "preprocessor_config.json").read_text())
  return file["min_patches"], file["max_patches"]


@pytest.mark.parametrize(
  "through", [(HF,), (CHAT,), (ORBAX, HF), (ORBAX, CHAT)]
)
@pytest.mark.parametrize("start", [HF, CHAT])
def test_tile_limits_survive_every_way(copy, tmp_path, start, through):
  at = copy(start)
  if start is CHAT:
    edit(at, min_dynamic_patch=2, max_dynamic_patch=6)
  else:
    path = at / "preprocessor_config.json"
    file = json.loads(path.read_text())
    path.write_text(json.dumps(file | {"min_patches": 2, "max_patches": 6}))
  for i, format in enumerate((*through, start)):
    convert(at, tmp_path / str(i), format)
    at = tmp_path / str(i)
    assert read_tiling(at) == SIX
    assert limits(at) == (2, 6)


def test_limits_inside_transformers_5s_processor_file(copy):
  odd = copy(HF)
  path = odd / "preprocessor_config.json"
  file = {"image_processor": json.loads(path.read_text()) | {"max_patches": 6}}
  path.unlink()
  (odd / "processor_config.json").write_text(json.dumps(file))
  assert read_tiling(odd) == Tiling(max_tiles=6)


def test_what_hf_cannot_say_is_refused(copy, tmp_path):
  odd = copy(CHAT)
  edit(odd, use_thumbnail=False)
  with pytest.raises(SophiaError, match="use_thumbnail is false"):
    convert(odd, tmp_path / "out", HF)
  convert(odd, tmp_path / "out", CHAT)
  assert read_tiling(tmp_path / "out") == Tiling(thumbnail=False)
  edit(odd, use_thumbnail=True, pad2square=True)
  with pytest.raises(SophiaError, match="pad2square"):
    read_config(odd)


@pytest.mark.parametrize(
  "change", [{"max_patches": 0}, {"max_patches": "6"}, {"min_patches": 13}]
)
def test_limits_that_are_none(copy, change):
  odd = copy(HF)
  path = odd / "preprocessor_config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(SophiaError, match="tiles of an image"):
    read_tiling(odd)


def test_pixels_that_are_normalised_otherwise(copy):
  odd = copy(HF)
  path = odd / "preprocessor_config.json"
  file = json.loads(path.read_text()) | {"image_mean": [0.5, 0.5, 0.5]}
  path.write_text(json.dumps(file))
  with pytest.raises(SophiaError, match="image_mean"):
    read_tiling(odd)


def test_a_template_survives_hf(copy, tmp_path):
  """Another template is another system prompt; -hf has no word for it."""
  odd = copy(CHAT)
  edit(odd, template="internlm2-chat")
  convert(odd, tmp_path / "hf", HF)
  convert(tmp_path / "hf", tmp_path / "chat", CHAT)
  config = json.loads((tmp_path / "chat/config.json").read_text())
  assert config["template"] == "internlm2-chat"


# --------------------------------------------------------------- other settings
def test_the_base_of_rope_under_either_name(copy, tmp_path):
  odd = copy(HF)
  new = {"rope_type": "default", "rope_theta": 500000.0}
  section(odd, "text_config", rope_parameters=new, rope_theta=10000.0)
  assert read_config(odd).decoder.rope_theta == 500000
  section(
    odd, "text_config", rope_parameters={}, rope_theta=5e5, rope_scaling={}
  )
  convert(odd, tmp_path / "out", HF)
  text = json.loads((tmp_path / "out/config.json").read_text())["text_config"]
  assert text["rope_theta"] == text["rope_parameters"]["rope_theta"] == 500000


def test_a_left_over_quantization_config_is_not_written_on(copy, tmp_path):
  odd = copy(HF)
  section(odd, "text_config", quantization_config={"quant_method": "fp8"})
  convert(odd, tmp_path / "out", HF, verify=True)
  assert "quantization_config" not in (tmp_path / "out/config.json").read_text()


@pytest.mark.parametrize(
  ("key", "changes", "match"),
  [
    ("llm_config", {"model_type": "qwen2_moe"}, "qwen2_moe.* expected one of"),
    ("llm_config", {"layer_types": ["sliding_attention"] * 2}, "layer_types"),
    ("vision_config", {"num_channels": 4}, "num_channels"),
  ],
)
def test_models_of_another_kind(copy, key, changes, match, tmp_path):
  odd = copy(CHAT)
  section(odd, key, **changes)
  refused(odd, match, tmp_path)


@pytest.mark.parametrize("format", [HF, CHAT])
def test_tokenizers_of_other_writers(copy, format, tmp_path):
  odd = copy(format)
  path = odd / "tokenizer_config.json"
  file = json.loads(path.read_text())
  file["tokenizer_class"] = "TokenizersBackend"
  file["extra_special_tokens"] = ["<img>", "</img>", "<IMG_CONTEXT>"]
  file["eos_token"] = {"__type": "AddedToken", "content": "<|im_end|>"}
  path.write_text(json.dumps(file))
  convert(odd, tmp_path / "out", HF, verify=True)
  added = json.loads((odd / "tokenizer.json").read_text())["added_tokens"]
  (end,) = (t["id"] for t in added if t["content"] == "<|im_end|>")
  config = json.loads((tmp_path / "out/config.json").read_text())
  assert config["text_config"]["eos_token_id"] == end


# ------------------------------------------------------------------------ shards
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_a_model_that_was_saved_through_a_wrapper(copy, prefix, tmp_path):
  odd = copy(CHAT)
  wrapped = {prefix + n: x for n, x in load_file(odd / shards.SINGLE).items()}
  save_file(wrapped, odd / shards.SINGLE)
  refused(odd, f"all tensors begin with {prefix}, a wrapper's", tmp_path)


def test_adapters_that_were_not_merged(copy, tmp_path):
  odd = copy(CHAT)
  name = "language_model.base_model.model.lm_head.lora_A.default.weight"
  rewrite(odd, lambda t: t.update({name: np.zeros((2, 4), np.float32)}))
  refused(odd, "is an adapter's tensor; merge the adapters", tmp_path)


def test_an_index_that_promises_too_much(copy):
  odd = copy(HF)
  split(odd, drop="language_model.model.norm.weight")
  with pytest.raises(SophiaError, match=r"language_model\.model\.norm"):
    read_config(odd)


def test_a_shard_that_was_not_fetched(copy):
  odd = copy(HF)
  split(odd)
  (odd / "model-00002-of-00002.safetensors").unlink()
  with pytest.raises(SophiaError, match="model-00002-of-00002"):
    read_config(odd)


def test_the_index_wins_over_files_that_were_left(copy, params):
  odd = copy(HF)
  tensors = split(odd)
  zeros = {name: np.zeros_like(x) for name, x in tensors.items()}
  for name in (shards.SINGLE, "model-00001-of-00004.safetensors"):
    save_file(zeros, odd / name)
  assert_same(params, load_params(odd, read_config(odd)))


def test_an_orbax_directory_with_a_file_cut_short(copy, tmp_path):
  odd = copy(ORBAX)
  files = [p for p in (odd / "params").rglob("*") if p.stat().st_size > 200]
  largest = max(
    (p for p in files if p.is_file()), key=lambda p: p.stat().st_size
  )
  largest.write_bytes(largest.read_bytes()[:-100])
  with pytest.raises(SophiaError, match=largest.name):
    convert(odd, tmp_path / "out", HF)
  assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------- any value
VALUES = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-3, 3),
  st.just(10**400),
  st.floats(),
  st.text(max_size=3),
  st.lists(st.integers(0, 3), max_size=3),
  st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)


@pytest.mark.parametrize("format", [HF, CHAT])
@settings(
  max_examples=60,
  deadline=None,
  suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_value_of_any_key_is_read_or_refused_in_one_line(
  base, format, data
):
  """Never a traceback, whatever a model directory says."""
  source = base(format) / "config.json"
  config = json.loads(source.read_text())
  inner = [k for k, v in config.items() if isinstance(v, dict)]
  where = data.draw(st.sampled_from(["", *inner]))
  part = config[where] if where else config
  key = data.draw(st.sampled_from(sorted(part)))
  part[key] = data.draw(VALUES)
  text = json.dumps(config)
  before = source.read_text()
  source.write_text(text)
  try:
    cfg = read_config(base(format))
    assert cfg.decoder.vocab > 0
  except SophiaError as e:
    assert "\n" not in str(e) and len(str(e)) < 500
  finally:
    source.write_text(before)
