"""InternLM2's tokenizer file, against ids made by sentencepiece itself."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from sophia_jax.data import sentencepiece
from sophia_jax.data.chat import Renderer
from sophia_jax.data.vocabulary import open_tokenizer
from sophia_jax.types import SophiaError
from tests.data.data_samples import FIXTURES

FOLDER = FIXTURES / "sentencepiece"
ADDED = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "<|im_end|>", 4: "<|im_start|>"}
ADDED |= {460: "<img>", 461: "</img>", 462: "<IMG_CONTEXT>"}


@pytest.mark.parametrize("name", ["plain", "prefix"])
def test_ids_are_sentencepieces(name):
  tokenizer = sentencepiece.load(str(FOLDER / f"{name}.model"), ADDED)
  tokenizer.encode_special_tokens = True
  for text, ids in json.loads((FOLDER / f"{name}.json").read_text()):
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids, text
    assert tokenizer.decode(ids) == text


@pytest.fixture
def original(tmp_path):
  """A directory as OpenGVLab publishes it, with its code."""
  shutil.copy(FOLDER / "plain.model", tmp_path / "tokenizer.model")
  config = {
    "tokenizer_class": "InternLM2Tokenizer",
    "auto_map": {"AutoTokenizer": ["evil.InternLM2Tokenizer", None]},
    "added_tokens_decoder": {
      str(i): {"content": text, "special": True} for i, text in ADDED.items()
    },
    "chat_template": "{{ never_used }}",
  }
  (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
  (tmp_path / "evil.py").write_text("raise SystemExit('code was run')")
  return str(tmp_path)


def test_the_original_directory(original):
  renderer = Renderer(original, tokens_per_tile=4)
  ids = renderer.prompt("the answer\n", (), "").token_ids
  expected = dict(json.loads((FOLDER / "plain.json").read_text()))
  assert ids[:2].tolist() == [1, 4]
  assert (
    ids[-len(expected["assistant\n"]) :].tolist() == expected["assistant\n"]
  )
  assert renderer.end_id == 3
  assert renderer.pad_id == 2
  assert renderer.image_id == 462
  assert renderer.vocab_size == 463
  for text, wanted in expected.items():
    np.testing.assert_array_equal(renderer.encode(text), wanted)
    assert renderer.decode(renderer.response_ids(text)) == text


def test_a_converted_directory_keeps_its_own_spaces(original, tmp_path):
  """The HF repositories name Llama's class, which would put a space in front
  of all text; their tokenizer.json says not to."""
  loaded = open_tokenizer(original)
  core = loaded.backend_tokenizer
  core.normalizer = None
  core.pre_tokenizer = pre_tokenizers.Metaspace(
    prepend_scheme="never", split=False
  )
  hf = tmp_path / "hf"
  loaded.save_pretrained(hf)
  path = hf / "tokenizer_config.json"
  config = json.loads(path.read_text())
  config |= {"tokenizer_class": "LlamaTokenizerFast", "legacy": False}
  path.write_text(json.dumps(config))
  old, new = Renderer(original), Renderer(str(hf))
  for text in ("the answer is 42", " two  spaces", "数学"):
    np.testing.assert_array_equal(
      new.prompt(text).token_ids, old.prompt(text).token_ids
    )
  assert new.prompt("x").token_ids[0] == 1


@pytest.mark.parametrize("keep", [1, 100, 5000])
def test_a_damaged_file(tmp_path, keep):
  path = tmp_path / "tokenizer.model"
  path.write_bytes((FOLDER / "plain.model").read_bytes()[:keep])
  with pytest.raises(SophiaError, match=r"tokenizer\.model: not a Sentence"):
    sentencepiece.load(str(path), {})


def test_special_tokens_must_fit():
  with pytest.raises(SophiaError, match="<img> has id 460, not 470"):
    sentencepiece.load(str(FOLDER / "plain.model"), {470: "<img>"})
