"""Conversion of a checkpoint between formats, tensor for tensor.

--src is a directory of transformers (InternVL -hf, Qwen2.5-VL, Qwen2, Qwen3,
Llama), one of OpenGVLab's InternVLChatModel, an orbax directory written by this
command, or a saved training: W, W/checkpoints, or one of its steps.

Examples:
  python -m launch.convert --src=InternVL3-8B --dst=InternVL3-8B-hf --format=hf
  python -m launch.convert --src=W/checkpoints --dst=W/served \\
    --format=internvl_chat --dtype=bfloat16 --verify
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags

from launch import cli
from sophia_jax.checkpoints import Format, hub, read_config, staging
from sophia_jax.checkpoints.config import CONFIG
from sophia_jax.checkpoints.directories import (
  difference,
  open_values,
  write_directory,
)
from sophia_jax.data.vocabulary import open_tokenizer
from sophia_jax.runs import opened
from sophia_jax.types import SophiaError

EXAMPLE = "python -m launch.convert --src=DIR --dst=DIR --format=hf"
DTYPES = ("float32", "bfloat16", "float16")
FLAGS = flags.FLAGS


def main() -> None:
  start = time.monotonic()
  convert(
    hub.local(FLAGS.src),
    Path(FLAGS.dst),
    Format(FLAGS.format),
    FLAGS.dtype,
    Path(FLAGS.base).absolute() if FLAGS.base else None,
    FLAGS.verify,
    Path(FLAGS.adapter) if FLAGS.adapter else None,
  )
  done = "written and verified" if FLAGS.verify else "written"
  print(f"{done} in {time.monotonic() - start:.0f} s: {FLAGS.dst}")


def convert(
  src: Path,
  dst: Path,
  format: Format,
  dtype: str | None = None,
  base: Path | None = None,
  verify: bool = False,
  adapter: Path | None = None,
) -> None:
  """Writes the checkpoint `src` to `dst`, whole or not at all.

  Args:
    dtype: dtype of the written tensors; None: unchanged.
    base: the checkpoint that `src` was trained from, where the run's config does
      not name it.
    verify: read everything again before the directory gets its name.
    adapter: adapters in PEFT's format that are merged.

  Raises:
    SophiaError: a directory cannot be read or written, or the check fails.
  """
  src, dst = src.absolute(), dst.absolute()
  if dst == src or dst in src.parents or src in dst.parents:
    raise SophiaError(f"--dst: {dst} and --src overlap; name another directory")
  source = opened.open_checkpoint(src, base, dtype)
  if adapter is not None:
    source = opened.with_adapter(source, adapter)
  with (
    _tokenizer(source.directory, format) as tokenizer,
    staging.replacing(dst) as work,
  ):
    write_directory(source.values, source.cfg, work, tokenizer, format)
    if verify:
      written = open_values(work, read_config(work), None)
      if fault := difference(source.values, written, source.cfg):
        raise SophiaError(f"{dst}: not written: {fault}; is the disk sound?")


@contextlib.contextmanager
def _tokenizer(directory: Path, format: Format) -> Iterator[Path]:
  """Yields the directory that tokenizer files are copied from.

  transformers needs code for the original InternLM2 tokenizer; -hf gets it
  converted to a tokenizer.json.
  """
  plain = (directory / "tokenizer.json").is_file()
  if format is not Format.HF or plain or not any(directory.glob("*.model")):
    yield directory
    return
  with tempfile.TemporaryDirectory() as folder:
    open_tokenizer(str(directory)).save_pretrained(folder)
    for name in (CONFIG, "generation_config.json"):
      if (directory / name).is_file():
        shutil.copyfile(directory / name, Path(folder) / name)
    yield Path(folder)


def define_flags() -> None:
  """Defines the flags of the command."""
  flags.DEFINE_string(
    "src", None, "Checkpoint directory, or its name on the Hub."
  )
  flags.DEFINE_string(
    "dst", None, "Directory to write; an older one is replaced."
  )
  flags.DEFINE_enum(
    "format", None, [f.value for f in Format], "Format of --dst."
  )
  flags.DEFINE_enum(
    "dtype", None, DTYPES, "Dtype of the tensors; unchanged if absent."
  )
  flags.DEFINE_bool("verify", False, "Read --dst again and compare every bit.")
  flags.DEFINE_string(
    "base",
    None,
    "Directory that training started from, with tokenizer and frozen parts; "
    "taken from the run's config if absent.",
  )
  flags.DEFINE_string(
    "adapter", None, "Directory of adapters in PEFT's format, to be merged."
  )


if __name__ == "__main__":
  define_flags()
  jax.config.update("jax_platforms", "cpu")  # no device is needed
  cli.start(main, EXAMPLE, ("src", "dst", "format"))
