"""A checkpoint of any format as any other, tensor for tensor.

--src is a directory of transformers (InternVL -hf, Qwen2, Llama), one of
OpenGVLab's InternVLChatModel, an orbax directory written by this command, or
what training saved: W, W/checkpoints, or one step of it.

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
from sophia_jax.checkpoints import Format, read_config, staging
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
    Path(FLAGS.src),
    Path(FLAGS.dst),
    Format(FLAGS.format),
    FLAGS.dtype,
    Path(FLAGS.base).absolute() if FLAGS.base else None,
    FLAGS.verify,
  )
  said = "written and verified" if FLAGS.verify else "written"
  print(f"{said} in {time.monotonic() - start:.0f} s: {FLAGS.dst}")


def convert(
  src: Path,
  dst: Path,
  format: Format,
  dtype: str | None = None,
  base: Path | None = None,
  verify: bool = False,
) -> None:
  """Writes the checkpoint `src` to `dst`, whole or not at all.

  Args:
    dtype: of the tensors written; None keeps each one's own.
    base: what `src` was trained from, where its run's config does not say.
    verify: read all of it again before it is called `dst`.
  """
  src, dst = src.absolute(), dst.absolute()
  if dst == src or dst in src.parents or src in dst.parents:
    raise SophiaError(f"--dst: {dst} and --src overlap; name another directory")
  source = opened.open_checkpoint(src, base, dtype)
  with (
    _tokenizer(source.directory, format) as tokenizer,
    staging.replacing(dst) as work,
  ):
    write_directory(source.values, source.cfg, work, tokenizer, format)
    if verify:
      written = open_values(work, read_config(work), None)
      if found := difference(source.values, written, source.cfg):
        raise SophiaError(f"{dst}: not written: {found}; is the disk sound?")


@contextlib.contextmanager
def _tokenizer(directory: Path, format: Format) -> Iterator[Path]:
  """Where tokenizer files are copied from.

  transformers needs the code of the original InternLM2 tokenizer: for -hf what
  it does is written down as tokenizer.json.
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
  flags.DEFINE_string("src", None, "Checkpoint directory.")
  flags.DEFINE_string("dst", None, "Directory to write; an older one goes.")
  flags.DEFINE_enum("format", None, [f.value for f in Format], "Of --dst.")
  flags.DEFINE_enum("dtype", None, DTYPES, "Of the tensors; as they are.")
  flags.DEFINE_bool("verify", False, "Read --dst again, compare every bit.")
  flags.DEFINE_string(
    "base",
    None,
    "Directory that training started from, with tokenizer and frozen parts; "
    "found by itself for W/checkpoints.",
  )


if __name__ == "__main__":
  define_flags()
  jax.config.update("jax_platforms", "cpu")  # a host's work
  cli.start(main, EXAMPLE, ("src", "dst", "format"))
