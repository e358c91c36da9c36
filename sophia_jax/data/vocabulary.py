"""The tokenizer: text to ids and back, special tokens kept apart from text.

The only module that imports transformers, and only for tokenizers. No code of a
checkpoint is run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer, processors

from sophia_jax.data import sentencepiece
from sophia_jax.types import SophiaError

IMAGE_MARKS = ("<img>", "<IMG_CONTEXT>", "</img>")
"""Marks before, in place of and after an image, of InternVL."""
QWEN_IMAGE_MARKS = ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>")
"""The same of Qwen2.5-VL. Text models of Qwen have them, too."""
QWEN_VIDEO_MARK = "<|video_pad|>"
"""Mark in place of a video, of Qwen2.5-VL."""
TURN_MARKS = ("<|im_start|>", "<|im_end|>")

_CACHED = 1024
"""Most texts in the cache of encoded ones."""

Ids = Int32[np.ndarray, "n"]


class Vocabulary:
  """Text to ids and back, with special tokens kept apart from text."""

  def __init__(self, loaded: Any, where: str):
    """Takes ids and settings from a Hugging Face tokenizer.

    Args:
      where: its directory, for errors.

    Raises:
      SophiaError: it has no token that ends a turn.
    """
    tokenizer: Tokenizer = loaded.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    self.bos_ids = _bos_ids(loaded)
    self.marks = _marks(tokenizer)
    """Special tokens, text -> id."""
    self.has_turns = all(mark in self.marks for mark in TURN_MARKS)
    eos = self.marks["<|im_end|>"] if self.has_turns else loaded.eos_token_id
    if eos is None:
      raise SophiaError(
        f"{where}: the tokenizer has neither <|im_end|> nor an eos_token; set "
        "eos_token in tokenizer_config.json"
      )
    self.end_id = int(eos)
    pad = loaded.pad_token_id
    self.pad_id = self.end_id if pad is None else int(pad)
    # <unk> is allowed: text becomes it only where the tokenizer knows no other.
    self._forbidden = set(self.marks.values()) - {loaded.unk_token_id}
    longest_first = sorted(self.marks, key=len, reverse=True)
    self._mark = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    # The largest id and not the number of ids: a vocabulary may have gaps.
    self._size = 1 + max(tokenizer.get_vocab().values())
    self._cache: dict[str, Ids] = {}
    self._tokenizer = tokenizer
    self._tokenizer.encode_special_tokens = True

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_cache": {}}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    # The only setting that pickling a tokenizer loses.
    self._tokenizer.encode_special_tokens = True

  def __len__(self) -> int:
    return self._size

  @property
  def table(self) -> dict[str, int]:
    """Ids of all tokens, special ones included."""
    return self._tokenizer.get_vocab(with_added_tokens=True)

  def encode(self, text: str) -> Ids:
    """Encodes text; a special token that it spells is encoded as characters."""
    try:
      ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    except (TypeError, UnicodeEncodeError):
      # A lone surrogate: JSON can hold one, no tokenizer accepts it.
      text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
      ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    if not self._forbidden.isdisjoint(ids):
      ids = [i for part in self._without_marks(text) for i in self._plain(part)]
    return np.asarray(ids, np.int32)

  def _without_marks(self, text: str) -> Iterator[str]:
    """Cuts after the first character of each mark, so that no part spells one.

    For marks that the tokenizer matches although they are not flagged special.
    """
    start = 0
    for match in self._mark.finditer(text):
      yield text[start : match.start() + 1]
      start = match.start() + 1
    yield text[start:]

  def _plain(self, text: str) -> list[int]:
    ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    return [i for i in ids if i not in self._forbidden]

  def encode_cached(self, text: str) -> Ids:
    """Encodes text that repeats, with a cache."""
    ids = self._cache.get(text)
    if ids is None:
      if len(self._cache) >= _CACHED:
        self._cache.clear()
      ids = self._cache[text] = self.encode(text)
    return ids

  def counts(self, texts: Iterable[str]) -> list[int]:
    """Counts the tokens of each text, in threads of the tokenizer."""
    texts = list(texts)
    try:
      batch = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):
      return [len(self.encode(text)) for text in texts]
    return [
      len(self.encode(text) if not self._forbidden.isdisjoint(e.ids) else e.ids)
      for text, e in zip(texts, batch)
    ]

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the end of the turn; leaves special tokens out."""
    special = self._forbidden
    kept = []
    for i in map(int, ids):
      if i == self.end_id:
        break
      if i not in special:
        kept.append(i)
    return self._tokenizer.decode(kept, skip_special_tokens=True)

  def split_marks(self, text: str) -> list[str]:
    """Splits text at special tokens, which become separate parts."""
    return [p for p in re.split(f"({self._mark.pattern})", text) if p]


def open_tokenizer(where: str) -> Any:
  """Loads the tokenizer of a checkpoint directory of any published layout.

  Raises:
    SophiaError: the directory has no tokenizer, or none that can be used.
  """
  files = ("tokenizer.json", "tokenizer.model", "vocab.json")
  present = [f for f in files if os.path.isfile(os.path.join(where, f))]
  if not present:
    raise SophiaError(
      f"{where}: no tokenizer here (none of {', '.join(files)}); give a "
      "checkpoint directory"
    )
  # Imported here: it takes seconds, and a worker unpickles a Renderer without it.
  import transformers

  # Silences the warning about an unknown model, whose code is not needed.
  verbosity = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  try:
    if present[0] == "tokenizer.json":
      # AutoTokenizer would build the class that the config names: for InternLM2
      # a Llama tokenizer, with a space before all text. The file describes the
      # tokenizer that the model was trained with. Extra special tokens of the
      # config are ignored: other versions of transformers cannot read their
      # form, and the file flags the same tokens.
      return transformers.PreTrainedTokenizerFast.from_pretrained(
        where, local_files_only=True, extra_special_tokens={}
      )
    if present[0] == "tokenizer.model" and _class_of(where).startswith(
      "Intern"
    ):
      return _internlm2(where)
    return transformers.AutoTokenizer.from_pretrained(
      where, local_files_only=True, trust_remote_code=False, use_fast=True
    )
  except Exception as e:  # tokenizers raises nothing narrower
    first, *_ = str(e).strip().splitlines() or [type(e).__name__]
    raise SophiaError(
      f"{where}: cannot load the tokenizer ({first}); restore its files or "
      "save it as tokenizer.json"
    ) from e
  finally:
    transformers.logging.set_verbosity(verbosity)


def _json(where: str, name: str) -> dict[str, Any]:
  try:
    with open(os.path.join(where, name), encoding="utf-8") as file:
      return json.load(file)
  except FileNotFoundError:
    return {}


def _class_of(where: str) -> str:
  return str(_json(where, "tokenizer_config.json").get("tokenizer_class", ""))


def _internlm2(where: str) -> Any:
  """Builds the tokenizer of the original InternLM2 checkpoints, without their
  code."""
  import transformers

  config = _json(where, "tokenizer_config.json")
  names = {
    f"{role}_token": config.get(f"{role}_token") or default
    for role, default in (
      ("unk", "<unk>"),
      ("bos", "<s>"),
      ("eos", "</s>"),
      ("pad", "</s>"),
    )
  }
  added = {0: "<unk>", 1: "<s>", 2: "</s>"}
  added |= {i: text for text, i in _json(where, "added_tokens.json").items()}
  decoder = config.get("added_tokens_decoder", {})
  added |= {int(i): token["content"] for i, token in decoder.items()}
  core = sentencepiece.load(os.path.join(where, "tokenizer.model"), added)
  if config.get("add_bos_token", True):
    bos = names["bos_token"]
    core.post_processor = processors.TemplateProcessing(
      single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
    )
  loaded = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names)
  loaded.chat_template = config.get("chat_template")
  return loaded


def _bos_ids(loaded: Any) -> tuple[int, ...]:
  """Returns the ids before all text: `<s>` for InternLM2, or none."""
  bos = loaded.bos_token_id
  if bos is None:
    return ()
  added = loaded.backend_tokenizer.encode("", add_special_tokens=True).ids
  return (int(bos),) if added[:1] == [bos] else ()


def _marks(tokenizer: Tokenizer) -> dict[str, int]:
  """Returns special tokens, and those of images and turns, flagged or not."""
  marks = {
    token.content: i
    for i, token in tokenizer.get_added_tokens_decoder().items()
    if token.special
  }
  for mark in (*IMAGE_MARKS, *QWEN_IMAGE_MARKS, *TURN_MARKS):
    i = tokenizer.token_to_id(mark)
    if i is not None:
      marks[mark] = i
  return marks
