"""Input speed: from an image file and a question to tiles and token ids.

  python -m benchmarks.input [--images=DIR] [--rounds=3] [--limit=N]

Four paths, interleaved image by image in one process, CPU seconds of one core:

  hf          GotOcr2ImageProcessorPil, float32 pixel_values, and its tokenizer:
              InternVL's input in transformers
  hf_uint8    the same without rescaling and normalising
  pil         ours; the model normalises on the device
  fast        ours with config.images.resize="fast"

Every path reads the file itself. Prints one JSON line for each set of images:
images/s of each path, ratios over `hf` and `hf_uint8`, whether our normalised
tiles are HF's bit for bit, and by how many levels `fast` differs from Pillow.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
  GotOcr2ImageProcessorPil,
)

from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, load_tiles
from sophia_jax.digits import tokenizer

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
QUESTION = "What is the area of the shaded region of figure {}?"
P = 256
Inputs = tuple[np.ndarray, np.ndarray]
"""Tiles and token ids."""
DATA = Path(__file__).parents[2] / "shared/data/mathvision/images"


def photo(path: Path, width: int, height: int) -> None:
  """Writes a JPEG with the detail of a photograph: smooth, plus grain."""
  rng = np.random.default_rng(0)
  rough = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
  smooth = np.asarray(Image.fromarray(rough).resize((width, height)), int)
  grain = rng.integers(-15, 16, smooth.shape)
  pixels = np.clip(smooth + grain, 0, 255).astype(np.uint8)
  Image.fromarray(pixels).save(path, quality=85)


def paths(words: str) -> dict[str, Callable[[str, str], Inputs]]:
  """Returns name -> function of (image, question) to tensors."""
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(words)
  size = {"height": 448, "width": 448}
  processor = GotOcr2ImageProcessorPil(
    size=size, image_mean=MEAN, image_std=STD, crop_to_patches=True
  )

  def hf(path: str, question: str, **options: Any) -> Inputs:
    with Image.open(path) as image:
      made = processor(image, return_tensors="pt", **options)
    context = "<IMG_CONTEXT>" * P * int(made["num_patches"][0])
    text = (
      f"<|im_start|>user\n<img>{context}</img>\n{question}<|im_end|>\n"
      "<|im_start|>assistant\n"
    )
    ids = theirs(text, return_tensors="pt")["input_ids"][0]
    return made["pixel_values"].numpy(), ids.numpy()

  def hf_uint8(path: str, question: str) -> Inputs:
    return hf(path, question, do_rescale=False, do_normalize=False)

  def ours(resize: str) -> Callable[[str, str], Inputs]:
    config = ImageConfig(resize=resize)
    renderer = Renderer(words, config, P, default_system="")

    def run(path: str, question: str) -> Inputs:
      prompt = renderer.prompt(question, (path,))
      return load_tiles(path, prompt.tiles[0], config), prompt.token_ids

    return run

  return {
    "hf": hf,
    "hf_uint8": hf_uint8,
    "pil": ours("pil"),
    "fast": ours("fast"),
  }


def normalise(tiles: np.ndarray) -> np.ndarray:
  """Normalises as the published recipe does, channels first."""
  mean, std = np.float32(MEAN), np.float32(STD)
  floats = (tiles.astype(np.float32) / np.float32(255) - mean) / std
  return floats.transpose(0, 3, 1, 2)


def measure(
  files: list[Path], runs: dict[str, Callable[[str, str], Inputs]], rounds: int
) -> dict[str, Any]:
  """Sums the best CPU seconds of each path on each file."""
  best = {name: dict.fromkeys(files, math.inf) for name in runs}
  equal, levels = True, collections.Counter()
  names = list(runs)
  for turn in range(rounds):
    for i, file in enumerate(files):
      os.utime(file)  # forgets the remembered size
      question = QUESTION.format(f"{turn}.{i}")  # no cached token ids
      made = {}
      for name in names[i % len(names) :] + names[: i % len(names)]:
        start = time.process_time()
        made[name] = runs[name](str(file), question)
        spent = time.process_time() - start
        best[name][file] = min(best[name][file], spent)
      if turn == 0:
        equal &= same(made)
        off = np.abs(made["fast"][0].astype(int) - made["pil"][0])
        levels.update(dict(enumerate(np.bincount(off.ravel()).tolist())))
  rate = {n: len(files) / sum(seconds.values()) for n, seconds in best.items()}
  total = sum(levels.values())
  return {
    "images": len(files),
    "images_per_s": {name: round(value, 2) for name, value in rate.items()},
    **{
      f"{name}_over_{base}": round(rate[name] / rate[base], 2)
      for base in ("hf", "hf_uint8")
      for name in ("pil", "fast")
    },
    "pil_bit_equal": bool(equal),
    "fast_levels_off": {k: n / total for k, n in sorted(levels.items()) if n},
  }


def same(made: dict[str, Inputs]) -> bool:
  """Compares tiles and ids of `pil` with those of transformers."""
  tiles, ids = made["pil"]
  theirs = made["hf_uint8"][0].transpose(0, 2, 3, 1)
  return (
    np.array_equal(theirs, tiles)
    and np.array_equal(made["hf"][0], normalise(tiles))
    and np.array_equal(made["hf"][1], ids)
  )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--images", type=Path, default=DATA)
  parser.add_argument("--rounds", type=int, default=3)
  parser.add_argument("--limit", type=int, default=0, help="0: all of them")
  args = parser.parse_args()
  torch.set_num_threads(1)
  with tempfile.TemporaryDirectory() as folder:
    photo(Path(folder, "photo.jpg"), 1600, 1200)
    words = tokenizer.build([QUESTION] * 100, vision=True)
    tokenizer.save(words, Path(folder, "words"))
    runs = paths(f"{folder}/words")
    sets = {"photo_1600x1200": [Path(folder, "photo.jpg")]}
    if args.images.is_dir():
      copies = Path(shutil.copytree(args.images, f"{folder}/images"))
      copies.chmod(0o755)
      sets[args.images.parent.name] = sorted(copies.glob("*.*"))
    for name, files in sets.items():
      few = files[: args.limit or None]
      result = measure(few, runs, args.rounds * (4 if len(few) == 1 else 1))
      print(json.dumps({"benchmark": "input", "set": name, **result}))


if __name__ == "__main__":
  main()
