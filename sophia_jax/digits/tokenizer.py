"""A small word-level BPE tokenizer in InternVL's dialect."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import (
  Regex,
  Tokenizer,
  decoders,
  models,
  pre_tokenizers,
  trainers,
)
from transformers import PreTrainedTokenizerFast

CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION = ("<img>", "</img>", "<IMG_CONTEXT>")

# InternVL's turns, for servers that render a chat themselves.
TURNS = (
  "{% for turn in messages %}"
  "{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}"
  "{% endfor %}"
  "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Whole words and marks, single digits: a number is spelt digit by digit.
PIECES = (
  r"</?think>|\\boxed\{|\*\*Final answer\*\*"
  r"| ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9<\\*]+| ?[<*\\]|\s+"
)


def build(corpus: Iterable[str], vision: bool) -> PreTrainedTokenizerFast:
  """Trains a tokenizer on `corpus`, with bytes as the fallback for any text."""
  tokenizer = Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(Regex(PIECES), "isolated"),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  tokenizer.decoder = decoders.ByteLevel()
  specials = CHAT + (VISION if vision else ())
  tokenizer.train_from_iterator(
    corpus,
    trainers.BpeTrainer(
      vocab_size=1024,
      special_tokens=list(specials),
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      show_progress=False,
    ),
  )
  return PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    eos_token="<|im_end|>",
    pad_token="<|endoftext|>",
    additional_special_tokens=list(specials),
    chat_template=TURNS,
  )


def save(tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
  """Writes the tokenizer's files."""
  tokenizer.save_pretrained(directory)
