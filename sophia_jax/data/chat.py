"""The renderer: questions, images and answers as token ids.

The only module that knows the chat template. Turns and images come from the
template; a question, a caption or an answer stays text, even where it spells a
special token.

  renderer = Renderer("InternVL3-8B", ImageConfig(), tokens_per_tile=256)
  prompt = renderer.prompt("How many apples?", images=("17.jpg",))
  sequence = renderer.sequence(prompt, "Six.", id="17", streams={"weights": 1})
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, Int8

from sophia_jax.data import clips
from sophia_jax.data.images import ImageConfig, count_tiles
from sophia_jax.data.vocabulary import (
  IMAGE_MARKS,
  QWEN_IMAGE_MARKS,
  QWEN_VIDEO_MARK,
  Ids,
  Vocabulary,
  open_tokenizer,
)
from sophia_jax.types import Prompt, Role, SophiaError, TokenSequence

DEFAULT_SYSTEM = (
  "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及"
  "多家合作单位联合开发的多模态大语言模型。"
)
"""System prompt that InternVL2.5 and InternVL3 were trained with."""
QWEN_SYSTEM = "You are a helpful assistant."
"""System prompt that Qwen2.5-VL was trained with."""

PLACEHOLDER = "<image>"
"""Position of an image in a question."""

# Slots of a template: private-use characters, which no template alters.
_SYSTEM, _QUESTION = "\ue000system\ue001", "\ue000question\ue001"
_ANSWER = "\ue000answer\ue001"
_SYSTEM_TURN = f"<|im_start|>system\n{_SYSTEM}<|im_end|>\n"
_QUESTION_TURN = (
  f"<|im_start|>user\n{_QUESTION}<|im_end|>\n<|im_start|>assistant\n"
)

Piece = str | Ids


class Renderer:
  """Renders text and images for one tokenizer; thread-safe and picklable.

  With image tokens in the vocabulary it uses InternVL's template, or Qwen2.5-VL's
  where images keep their size (`ImageConfig.method`); without them the tokenizer's
  chat template, or InternVL's turns where there is none.
  """

  def __init__(
    self,
    tokenizer_dir: str,
    image: ImageConfig | None = None,
    tokens_per_tile: int = 256,
    default_system: str | None = None,
  ):
    """Loads the tokenizer.

    Args:
      tokenizer_dir: a checkpoint directory with tokenizer files.
      image: settings of tiling; None: InternVL's defaults.
      tokens_per_tile: image tokens P of a tile; 0: of a model without vision,
        which is refused images whatever its vocabulary has.
      default_system: system prompt where a prompt has `system=None`. None:
        DEFAULT_SYSTEM or QWEN_SYSTEM; in a text-only vocabulary, the template's.

    Raises:
      SophiaError: the directory has no usable tokenizer.
    """
    loaded = open_tokenizer(tokenizer_dir)
    vocabulary = self.vocabulary = Vocabulary(loaded, tokenizer_dir)
    self.image = image or ImageConfig()
    self.tokens_per_tile = tokens_per_tile
    self._native = self.image.method == "native"
    marks = QWEN_IMAGE_MARKS if self._native else IMAGE_MARKS
    self.has_images = all(mark in vocabulary.marks for mark in marks)
    self.default_system = default_system
    if self.has_images and default_system is None:
      self.default_system = QWEN_SYSTEM if self._native else DEFAULT_SYSTEM
    self.end_id = vocabulary.end_id
    """Id of the end of a turn, the last token of a finished response."""
    self.pad_id = vocabulary.pad_id
    self._image_marks = tuple(vocabulary.marks.get(mark, -1) for mark in marks)
    self.image_id = vocabulary.marks.get(marks[1])
    """Id that image embeddings replace; None in a text-only vocabulary."""
    self._video_id = vocabulary.marks.get(QWEN_VIDEO_MARK)
    if self.image.video_rate and self._video_id is None:
      raise SophiaError(
        f"{tokenizer_dir}: no {QWEN_VIDEO_MARK} in the vocabulary; set "
        "images.video_rate=0"
      )
    self.banned_ids = tuple(
      sorted({*vocabulary.marks.values()} - {vocabulary.end_id})
    )
    """Ids that must not be sampled: all special tokens except `end_id`."""
    self.vocab_size = len(vocabulary)
    """Number of ids; a model's embedding may have more rows."""
    self._where = tokenizer_dir
    self._read_template(loaded)

  def _read_template(self, loaded: Any) -> None:
    """Splits the template of turns into text, special ids and slots."""
    vocabulary, where = self.vocabulary, self._where
    own = not self.has_images and getattr(loaded, "chat_template", None)
    between = f"<|im_end|>\n{_QUESTION_TURN}"
    if own:
      bare, with_system = _own_template(loaded, where)
      between = _next_turn(loaded)
      bos: list[Piece] = []
    elif vocabulary.has_turns:
      bare, with_system = _QUESTION_TURN, _SYSTEM_TURN + _QUESTION_TURN
      bos = [np.array(vocabulary.bos_ids, np.int32)]
    else:
      raise SophiaError(
        f"{where}: no chat template, and no <|im_start|> and <|im_end|> "
        "in the vocabulary; use the tokenizer of a chat model"
      )
    # A tokenizer's template may add a system prompt where there is none.
    self._empty_is_bare = not own
    self._bare = bos + _parse(bare, vocabulary)
    self._with_system = bos + _parse(with_system, vocabulary)
    self._between = _parse(between, vocabulary) if between else []

  # ------------------------------------------------------------------- prompts
  def prompt(
    self,
    question: str,
    images: Sequence[str] = (),
    system: str | None = None,
  ) -> Prompt:
    """Renders one question; reads the headers of images, no pixels.

    Images come first (`<image>\\n`; several: `Image-1: <image>\\n...`; of
    Qwen2.5-VL just `<image>` each) unless the question places each with an
    `<image>`. Without images `<image>` is text like any other. With
    `ImageConfig.video_rate` a `<video>` shows all images that no `<image>` does.

    Args:
      question: the user's turn.
      images: paths in the order in which the question shows them.
      system: system prompt; None: the default; "": no system turn.

    Raises:
      SophiaError: placeholders do not match the images, an image cannot be
        opened, or the model or its vocabulary has no image tokens.
    """
    question, images = self._with_video(question, images)
    config = self.image.share(len(images))
    tiles = tuple(count_tiles(path, config) for path in images)
    user = self._user_turn(question, images, tiles)
    if system is None:
      system = self.default_system
    bare = system is None or (not system and self._empty_is_bare)
    pieces: list[Piece] = []
    for piece in self._bare if bare else self._with_system:
      if not isinstance(piece, str):
        pieces.append(piece)
      elif piece == _QUESTION:
        pieces.extend(user)
      else:
        pieces.append((system or "") if piece == _SYSTEM else piece)
    token_ids = self._join(pieces)
    roles = self._roles(token_ids, images)
    return Prompt(
      token_ids=token_ids, roles=roles, images=tuple(images), tiles=tiles
    )

  def extend(
    self,
    prompt: Prompt,
    answer: Sequence[int],
    text: str,
    images: Sequence[str] = (),
  ) -> Prompt:
    """Returns the prompt of the turn after an answer.

    It begins with the ids of prompt and answer, unchanged. A cut answer gets the
    end of its turn, as part of the prompt.

    Args:
      prompt: what was answered.
      answer: the ids that were sampled.
      text: the user's next turn.
      images: paths of its images, shown before the text.

    Raises:
      SophiaError: as for `prompt`, or the template knows no second turn.
    """
    ids = np.asarray(answer, np.int32)
    if not self._between:
      raise SophiaError(
        f"{self._where}: its chat template does not show a second turn after "
        "the first; give a tokenizer with a plain chat template"
      )
    first, *pieces = self._between
    if isinstance(first, str) or first[0] != self.end_id:
      pieces = self._between
    if not len(ids) or ids[-1] != self.end_id:
      pieces = [np.array([self.end_id], np.int32), *pieces]
    text, images = self._with_video(text, images)
    config = self.image.share(len(prompt.images) + len(images))
    tiles = tuple(count_tiles(path, config) for path in images)
    user = self._user_turn(text, images, tiles)
    at = [isinstance(p, str) and p == _QUESTION for p in pieces].index(True)
    added = self._join([*pieces[:at], *user, *pieces[at + 1 :]])
    roles = self._roles(added, images)
    response = np.full(len(ids), Role.RESPONSE, np.int8)
    return Prompt(
      token_ids=np.concatenate([prompt.token_ids, ids, added], dtype=np.int32),
      roles=np.concatenate([prompt.roles, response, roles]),
      images=(*prompt.images, *images),
      tiles=(*prompt.tiles, *tiles),
    )

  def _with_video(
    self, question: str, images: Sequence[str]
  ) -> tuple[str, Sequence[str]]:
    """Returns a question with an `<image>` in the place of its `<video>`, and its
    images with the video in the place of its frames.

    Raises:
      SophiaError: several videos, or one without frames or of no rate.
    """
    found = [*clips.MARK.finditer(question)] if self.image.video_rate else []
    if not found or not images:
      return question, images
    mark = found[0]
    before, after = question[: mark.start()], question[mark.end() :]
    start = before.count(PLACEHOLDER)
    stop = len(images) - after.count(PLACEHOLDER)
    rate = float(mark[1] or self.image.video_rate)
    if len(found) > 1 or start >= stop or not rate:
      raise SophiaError(
        f"question {question[:60]!r} has {len(found)} <video> for "
        f"{max(stop - start, 0)} frame(s); write one, of more than 0 frames a "
        "second, and give images that no <image> shows"
      )
    video = clips.name(images[start:stop], rate)
    shown = (*images[:start], video, *images[stop:])
    return f"{before}{PLACEHOLDER}{after}", shown

  def _roles(
    self, token_ids: Ids, images: Sequence[str]
  ) -> Int8[np.ndarray, "L"]:
    """Returns the roles of a prompt's tokens."""
    roles = np.full(len(token_ids), Role.PROMPT, np.int8)
    if images:
      roles[token_ids == self.image_id] = Role.IMAGE
    if self.image.video_rate:
      roles[token_ids == self._video_id] = Role.IMAGE
    return roles

  def _user_turn(
    self, question: str, images: Sequence[str], tiles: Sequence[int]
  ) -> list[Piece]:
    if not images:
      return [question]
    if not self.has_images:
      raise SophiaError(
        f"{images[0]}: this tokenizer is text-only (no "
        f"{(QWEN_IMAGE_MARKS if self._native else IMAGE_MARKS)[1]}); render "
        "images with the policy's tokenizer"
      )
    if not self.tokens_per_tile:
      raise SophiaError(
        f"{images[0]}: the model is text-only and cannot see images; use a "
        "vision-language checkpoint"
      )
    places = question.count(PLACEHOLDER)
    if places == 0:
      question = _placeholders(len(images), self._native) + question
    elif places != len(images):
      raise SophiaError(
        f"question {question[:60]!r} has {places} <image> for {len(images)} "
        "image(s); write one for each image, or none at all"
      )
    first, *rest = question.split(PLACEHOLDER)
    pieces: list[Piece] = [first]
    for image, count, text in zip(images, tiles, rest):
      pieces += [self._image_block(image, count), text]
    return pieces

  def _image_block(self, image: str, tiles: int) -> Ids:
    start, context, end = self._image_marks
    if clips.read(image) is not None and self._video_id is not None:
      context = self._video_id
    block = np.full(self.tokens_per_tile * tiles + 2, context, np.int32)
    block[0], block[-1] = start, end
    return block

  def _join(self, pieces: Sequence[Piece]) -> Ids:
    """Joins pieces; each run of text between special tokens is encoded whole."""
    out: list[Ids] = []
    text = ""
    for piece in pieces:
      if isinstance(piece, str):
        text += piece
        continue
      if text:
        out.append(self.vocabulary.encode_cached(text))
        text = ""
      out.append(piece)
    if text:
      out.append(self.vocabulary.encode_cached(text))
    return np.concatenate(out, dtype=np.int32)

  # ----------------------------------------------------------------- sequences
  def response_ids(self, text: str) -> Ids:
    """Returns the ids of a finished response: text and end of turn."""
    return np.append(self.vocabulary.encode(text), np.int32(self.end_id))

  def sequence(
    self,
    prompt: Prompt,
    response: str | Sequence[int],
    *,
    id: str,
    streams: Mapping[str, Any] = MappingProxyType({}),
  ) -> TokenSequence:
    """Appends a response to a prompt.

    Args:
      response: text, which gets the end of the turn; or the ids that a policy
        sampled, unchanged (a truncated response has no end of turn).
      id: the sequence's name in errors.
      streams: name -> one number for all response tokens, or one for each
        (end of turn included). Prompt and image tokens get 0.

    Raises:
      SophiaError: a stream has not one value for each response token.
    """
    if isinstance(response, str):
      ids = self.response_ids(response)
    else:
      ids = np.asarray(response, np.int32).reshape(-1)
    values = {
      name: _spread(value, len(prompt), len(ids), f"{id}: stream {name!r}")
      for name, value in streams.items()
    }
    roles = np.full(len(ids), Role.RESPONSE, np.int8)
    return TokenSequence(
      id=id,
      token_ids=np.concatenate([prompt.token_ids, ids], dtype=np.int32),
      roles=np.concatenate([prompt.roles, roles]),
      images=prompt.images,
      tiles=prompt.tiles,
      streams=values,
    )

  # ---------------------------------------------------------------------- text
  def encode(self, text: str) -> Ids:
    """Encodes plain text, without turns and without an end."""
    return self.vocabulary.encode(text)

  def count(self, text: str) -> int:
    """Counts the tokens of a text, end of turn excluded."""
    return len(self.vocabulary.encode(text))

  def counts(self, texts: Iterable[str]) -> list[int]:
    """Counts the tokens of many texts at once, on all cores."""
    return self.vocabulary.counts(texts)

  def decode(self, ids: Iterable[int]) -> str:
    """Decodes up to the end of the turn; leaves special tokens out."""
    return self.vocabulary.decode(ids)


def _placeholders(images: int, native: bool) -> str:
  if native:
    return PLACEHOLDER * images
  if images == 1:
    return f"{PLACEHOLDER}\n"
  return "".join(f"Image-{i + 1}: {PLACEHOLDER}\n" for i in range(images))


def _spread(
  value: Any, before: int, length: int, what: str
) -> Float[np.ndarray, "L"]:
  values = np.asarray(value, np.float32)
  if values.ndim and values.shape != (length,):
    raise SophiaError(
      f"{what}: {values.size} values for {length} response tokens; give one for "
      "each token, end of turn included"
    )
  out = np.zeros(before + length, np.float32)
  out[before:] = values
  return out


def _parse(template: str, vocabulary: Vocabulary) -> list[Piece]:
  """Splits constant template text into text, special ids and slots."""
  pieces: list[Piece] = []
  for text in re.split(f"({_SYSTEM}|{_QUESTION})", template):
    for part in vocabulary.split_marks(text):
      mark = vocabulary.marks.get(part)
      pieces.append(part if mark is None else np.array([mark], np.int32))
  return pieces


def _own_template(loaded: Any, where: str) -> tuple[str, str]:
  """Returns the tokenizer's template with slots, without and with a system
  turn."""
  user = {"role": "user", "content": _QUESTION}
  system = {"role": "system", "content": _SYSTEM}
  out = []
  for messages, slots in (([user], [_QUESTION]), ([system, user], None)):
    text = loaded.apply_chat_template(
      messages, tokenize=False, add_generation_prompt=True
    )
    for slot in slots or (_SYSTEM, _QUESTION):
      if text.count(slot) != 1:
        name = "system" if slot == _SYSTEM else "user"
        raise SophiaError(
          f"{where}: its chat template does not show the {name} text once; "
          "give a tokenizer with a plain chat template"
        )
    out.append(text)
  return out[0], out[1]


def _next_turn(loaded: Any) -> str:
  """Returns what the tokenizer's template puts between an answer and the next
  one, with a slot for the question; "" where an answer changes what is before."""
  messages = [
    {"role": "user", "content": _SYSTEM},
    {"role": "assistant", "content": _ANSWER},
    {"role": "user", "content": _QUESTION},
  ]
  text = loaded.apply_chat_template(
    messages, tokenize=False, add_generation_prompt=True
  )
  _, found, after = text.partition(_ANSWER)
  return after if found and after.count(_QUESTION) == 1 else ""
