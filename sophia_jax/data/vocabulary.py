"""THE tokenizer: text to ids and back, special tokens kept apart from text.

The only place that imports transformers, and of it only tokenizers. No code of
a checkpoint is run.
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
TURN_MARKS = ("<|im_start|>", "<|im_end|>")

_CACHED = 1024

Ids = Int32[np.ndarray, "n"]


class Vocabulary:
  """Text to ids and back, with special tokens kept apart from text."""

  def __init__(self, loaded: Any, where: str):
    """Takes what is needed from the Hugging Face tokenizer `loaded`."""
    tokenizer: Tokenizer = loaded.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    self.bos_ids = _bos_ids(loaded)
    self.marks = _marks(tokenizer)
    """Special tokens: text -> id."""
    self.has_images = all(mark in self.marks for mark in IMAGE_MARKS)
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
    # What the tokenizer does not know becomes <unk>, which is no smuggling.
    self._forbidden = set(self.marks.values()) - {loaded.unk_token_id}
    longest_first = sorted(self.marks, key=len, reverse=True)
    self._mark = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
    # Not their number: a vocabulary may have gaps.
    self._size = 1 + max(tokenizer.get_vocab().values())
    self._cache: dict[str, Ids] = {}
    self._tokenizer = tokenizer
    self._tokenizer.encode_special_tokens = True

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, "_cache": {}}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    # The one setting that a pickled tokenizer forgets.
    self._tokenizer.encode_special_tokens = True

  def __len__(self) -> int:
    return self._size

  def encode(self, text: str) -> Ids:
    """Ids of `text`; a special token spelt in it is encoded as characters."""
    try:
      ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    except (TypeError, UnicodeEncodeError):
      # A lone surrogate, which JSON can carry but no tokenizer takes.
      text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
      ids = self._tokenizer.encode(text, add_special_tokens=False).ids
    if not self._forbidden.isdisjoint(ids):
      ids = [i for part in self._broken_up(text) for i in self._plain(part)]
    return np.asarray(ids, np.int32)

  def _broken_up(self, text: str) -> Iterator[str]:
    """Cuts after the first character of each mark, so that none is spelt.

    For marks that the tokenizer matches though they are not flagged special.
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
    """`encode` for text that comes again and again."""
    ids = self._cache.get(text)
    if ids is None:
      if len(self._cache) >= _CACHED:
        self._cache.clear()
      ids = self._cache[text] = self.encode(text)
    return ids

  def counts(self, texts: Iterable[str]) -> list[int]:
    """Tokens of each text; threads of the tokenizer share the work."""
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
    """Text up to the end of the turn, special tokens left out."""
    special = self._forbidden
    kept = []
    for i in map(int, ids):
      if i == self.end_id:
        break
      if i not in special:
        kept.append(i)
    return self._tokenizer.decode(kept, skip_special_tokens=True)

  def split_marks(self, text: str) -> list[str]:
    """Splits text at special tokens, which are parts of their own."""
    return [p for p in re.split(f"({self._mark.pattern})", text) if p]


def open_tokenizer(where: str) -> Any:
  """Loads the tokenizer of a checkpoint directory, of any published layout.

  Raises:
    SophiaError: no tokenizer there, or none that can be used.
  """
  files = ("tokenizer.json", "tokenizer.model", "vocab.json")
  found = [f for f in files if os.path.isfile(os.path.join(where, f))]
  if not found:
    raise SophiaError(
      f"{where}: no tokenizer here (none of {', '.join(files)}); give a "
      "checkpoint directory"
    )
  # Imported here: it takes seconds, and workers unpickle a Renderer without it.
  import transformers

  # It would warn that it does not know the model, whose code is not needed.
  verbosity = transformers.logging.get_verbosity()
  transformers.logging.set_verbosity_error()
  try:
    if found[0] == "tokenizer.json":
      # AutoTokenizer builds what the class named in the config would build:
      # for InternLM2 as a Llama tokenizer, with a space in front of all text.
      # The file itself says what the model was trained with.
      # Nor may it name special tokens anew: in a form that only the version of
      # transformers that wrote it reads. They are flagged in the file.
      return transformers.PreTrainedTokenizerFast.from_pretrained(
        where, local_files_only=True, extra_special_tokens={}
      )
    if found[0] == "tokenizer.model" and _class_of(where).startswith("Intern"):
      return _internlm2(where)
    return transformers.AutoTokenizer.from_pretrained(
      where, local_files_only=True, trust_remote_code=False, use_fast=True
    )
  except (OSError, ValueError, KeyError, ImportError) as e:
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
  """The tokenizer of the original InternLM2 checkpoints, without their code."""
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
  """What the tokenizer itself puts in front: `<s>` for InternLM2, or nothing."""
  bos = loaded.bos_token_id
  if bos is None:
    return ()
  added = loaded.backend_tokenizer.encode("", add_special_tokens=True).ids
  return (int(bos),) if added[:1] == [bos] else ()


def _marks(tokenizer: Tokenizer) -> dict[str, int]:
  """Special tokens, and those of images and turns however they are flagged."""
  marks = {
    token.content: i
    for i, token in tokenizer.get_added_tokens_decoder().items()
    if token.special
  }
  for mark in (*IMAGE_MARKS, *TURN_MARKS):
    i = tokenizer.token_to_id(mark)
    if i is not None:
      marks[mark] = i
  return marks
