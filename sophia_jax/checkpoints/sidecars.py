"""Files beside the tensors: tokenizer, generation, processor, remote code."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

from sophia_jax.checkpoints.config import (
  CONFIG,
  IMAGE_TOKEN,
  added_tokens,
  image_token,
)
from sophia_jax.checkpoints.config_writer import Format
from sophia_jax.checkpoints.shards import read_json
from sophia_jax.checkpoints.tiling import PREPROCESSOR, PROCESSOR, Tiling
from sophia_jax.models import (
  CLIP_MEAN,
  CLIP_STD,
  IMAGE_MEAN,
  IMAGE_STD,
  InternVLConfig,
  QwenVisionConfig,
  VisionConfig,
)
from sophia_jax.types import SophiaError

GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
END_OF_TURN = "<|im_end|>"
TOKENIZER_FILES = (
  "tokenizer.json",
  TOKENIZER_CONFIG,
  "tokenizer.model",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  TEMPLATE,
  "chat_template.json",
  GENERATION,
)

_TURNS = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{ 'IMAGE' }}
{%- elif part['type'] == 'text' -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- endif -%}
"""
# As transformers' InternVLProcessor renders; the image comes before the text.
CHAT_TEMPLATE = _TURNS.replace("IMAGE", "<IMG_CONTEXT>\\n")

# In front of a template: what it says where a chat brings no system prompt.
_NO_SYSTEM = "{%- if messages[0]['role'] != 'system' -%}\n"
_SYSTEM_TURN = "{{ '<|im_start|>system\\n' + %s + '<|im_end|>\\n' }}\n"
_END = "{%- endif -%}\n"
_SYSTEM = re.compile(
  re.escape(_NO_SYSTEM)
  + re.escape(_SYSTEM_TURN).replace("%s", '(".*")')
  + re.escape(_END)
)


def with_system(template: str, system: str | None) -> str:
  """Returns a chat template whose default system prompt is `system`.

  Args:
    system: None or "": no system turn by default.
  """
  bare = _SYSTEM.sub("", template, count=1)
  if not system:
    return bare
  return _NO_SYSTEM + _SYSTEM_TURN % _literal(system) + _END + bare


def _literal(text: str) -> str:
  """Returns a string literal of Jinja; it escapes characters beyond U+FFFF."""
  return json.dumps(text, ensure_ascii=False)


def system_of(directory: pathlib.Path) -> str | None:
  """Returns the default system prompt that an export's template was given."""
  path = directory / TEMPLATE
  if not path.is_file():
    return None
  found = _SYSTEM.match(path.read_text(encoding="utf-8"))
  return json.loads(found[1]) if found else None


def copy_tokenizer(source: pathlib.Path, work: pathlib.Path) -> None:
  """Copies the tokenizer, and when generation stops if the source says so.

  Raises:
    SophiaError: there is no tokenizer in `source`.
  """
  found = [name for name in TOKENIZER_FILES if (source / name).is_file()]
  if not {"tokenizer.json", "tokenizer.model", "vocab.json"} & set(found):
    raise SophiaError(f"{source}: no tokenizer in this directory")
  for name in found:
    shutil.copyfile(source / name, work / name)


def copy_code(source: pathlib.Path, work: pathlib.Path) -> None:
  """Copies the modules that the original format is loaded with, if any."""
  for path in sorted(source.glob("*.py")):
    shutil.copyfile(path, work / path.name)


def source_config(source: pathlib.Path | None) -> dict[str, Any]:
  """Returns config.json of the directory a model came from; {} without one.

  Without the modules that `auto_map` names it would break the loader.
  """
  if source is None or not (source / CONFIG).is_file():
    return {}
  config = read_json(source / CONFIG)
  if not any(source.glob("*.py")):
    config.pop("auto_map", None)
  return config


def special_ids(work: pathlib.Path, chat: bool) -> dict[str, int]:
  """Returns the ids of bos, eos and pad by the tokenizer.

  A chat model's eos is the end of its turn.
  """
  settings = _settings(work)
  ids, special = added_tokens(work), {}
  for key in ("bos_token", "eos_token", "pad_token"):
    token = settings.get(key)
    token = token["content"] if isinstance(token, dict) else token
    if token in ids:
      special[f"{key}_id"] = ids[token]
  # InternVL's InternLM2 tokenizers name </s>, which its chats never write.
  if chat and END_OF_TURN in ids:
    special["eos_token_id"] = ids[END_OF_TURN]
  return special


def check_ids(cfg: InternVLConfig, work: pathlib.Path) -> None:
  """Compares the model with the tokenizer that is written beside it.

  Raises:
    SophiaError: the image token has another id there, or the tokenizer has
      ids for which the embedding has no row.
  """
  ids = added_tokens(work)
  token = image_token(cfg)
  own = ids.get(token, -1)
  if cfg.vision is not None and len({own, cfg.image_token_id, -1}) == 3:
    raise SophiaError(
      f"image_token_id is {cfg.image_token_id}, but {token} is {own} in "
      "the tokenizer; take the model's own tokenizer"
    )
  token, last = max(ids.items(), key=lambda item: item[1], default=("", -1))
  if last >= cfg.decoder.vocab:
    raise SophiaError(
      f"the tokenizer numbers {token!r:.80} {last}, the embedding ends at "
      f"{cfg.decoder.vocab - 1}; take the model's own tokenizer"
    )


def write_generation(work: pathlib.Path, special: Mapping[str, int]) -> None:
  """Writes when generation stops, unless the source has said so."""
  if special and not (work / GENERATION).is_file():
    write_json(work / GENERATION, special)


def write_processor(
  cfg: InternVLConfig,
  work: pathlib.Path,
  format: Format,
  tiling: Tiling,
  system: str | None = None,
) -> None:
  """Writes how images become tiles; for -hf also how a chat becomes a prompt.

  Args:
    system: default system prompt of the chat template; None: as it was.

  Raises:
    SophiaError: tile limits that the format cannot express.
  """
  assert isinstance(cfg.vision, VisionConfig)
  side = cfg.vision.image_size
  if format is Format.INTERNVL_CHAT:
    write_json(work / PREPROCESSOR, _clip(side))
    settings = _settings(work)
    # transformers would look for the files of a processor that is not there.
    if settings.pop("processor_class", None):
      write_json(work / TOKENIZER_CONFIG, settings)
    return
  write_json(work / PREPROCESSOR, _got_ocr2(side, tiling))
  processor = {
    "processor_class": "InternVLProcessor",
    "image_seq_length": cfg.tokens_per_tile,
  }
  write_json(work / PROCESSOR, processor)
  settings = _settings(work)
  if settings:
    _name_image_tokens(work, settings)
  template = work / TEMPLATE
  if system is not None and template.is_file():
    text = template.read_text(encoding="utf-8")
    template.write_text(with_system(text, system), encoding="utf-8")


QWEN_SYSTEM = "You are a helpful assistant."
"""System prompt of Qwen2.5-VL's own template."""
QWEN_CHAT_TEMPLATE = _TURNS.replace(
  "{{ 'IMAGE' }}\n",
  "{{ '<|vision_start|><|image_pad|><|vision_end|>' }}\n"
  "{%- elif part['type'] == 'video' -%}\n"
  "{{ '<|vision_start|><|video_pad|><|vision_end|>' }}\n",
)
_QWEN_FILES = (PREPROCESSOR, PROCESSOR, "video_preprocessor_config.json")


def write_qwen_processor(
  vision: QwenVisionConfig,
  source: pathlib.Path | None,
  work: pathlib.Path,
  system: str | None,
) -> None:
  """Writes how images become patches, and how a chat becomes a prompt.

  Args:
    source: the directory the model came from, whose processor it keeps.
    system: default system prompt of the chat template; None: as it was.
  """
  files = [] if source is None else [source / name for name in _QWEN_FILES]
  for path in files:
    if path.is_file():
      shutil.copyfile(path, work / path.name)
  if not (work / PREPROCESSOR).is_file():
    write_json(work / PREPROCESSOR, _qwen_pixels(vision))
  template = work / TEMPLATE
  said = template.is_file() or (work / "chat_template.json").is_file()
  if system is not None or not said:
    # Its own template has a default system prompt that is not one of ours.
    own = with_system(
      QWEN_CHAT_TEMPLATE, QWEN_SYSTEM if system is None else system
    )
    template.write_text(own, encoding="utf-8")
    (work / "chat_template.json").unlink(missing_ok=True)


def _qwen_pixels(vision: QwenVisionConfig) -> dict[str, Any]:
  area = vision.image_size**2
  return {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 4 * area,
    "max_pixels": 16384 * area,
    "patch_size": vision.patch_size,
    "temporal_patch_size": vision.frames,
    "merge_size": vision.grid,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
  }


def _name_image_tokens(work: pathlib.Path, settings: dict[str, Any]) -> None:
  """Names the tokens that InternVLProcessor asks its tokenizer for."""
  known = added_tokens(work)
  if not {"<img>", "</img>", IMAGE_TOKEN} <= known.keys():
    return
  listed = settings.get("extra_special_tokens")
  if isinstance(listed, list):
    settings["additional_special_tokens"] = listed
  # The processor needs some token for videos, and a new one would lie outside
  # of the embedding: where there is none, one that no prompt is written with.
  videos = [t for t in ("<video>", "<|video_pad|>", "</img>") if t in known]
  settings["extra_special_tokens"] = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": IMAGE_TOKEN,
    "video_token": videos[0],
  }
  settings["processor_class"] = "InternVLProcessor"
  # Named by the original format's tokenizer, whose code does not come along.
  if settings.pop("auto_map", None) and (work / "tokenizer.json").is_file():
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
  settings.pop("chat_template", None)
  write_json(work / TOKENIZER_CONFIG, settings)
  template = work / TEMPLATE
  if not template.is_file() or IMAGE_TOKEN not in template.read_text("utf-8"):
    template.write_text(CHAT_TEMPLATE, encoding="utf-8")


def _settings(work: pathlib.Path) -> dict[str, Any]:
  path = work / TOKENIZER_CONFIG
  return read_json(path) if path.is_file() else {}


def _clip(side: int) -> dict[str, Any]:
  """Returns the original format's preprocessor; its own code tiles."""
  return {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": side,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": list(IMAGE_MEAN),
    "image_std": list(IMAGE_STD),
    "resample": 3,
    "size": side,
  }


def _got_ocr2(side: int, tiling: Tiling) -> dict[str, Any]:
  return {
    "image_processor_type": "GotOcr2ImageProcessor",
    "processor_class": "InternVLProcessor",
    **tiling.hf(),
    "do_convert_rgb": True,
    "do_resize": True,
    "size": {"height": side, "width": side},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(IMAGE_MEAN),
    "image_std": list(IMAGE_STD),
  }


def write_json(path: pathlib.Path, value: object) -> None:
  path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
