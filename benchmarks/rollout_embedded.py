"""The embedded engine against Hugging Face generate, on the same weights.

  python -m benchmarks.rollout_embedded [--size=quickstart,75m] [--batch=8,64]
    [--reps=5]

Both continue the same prompts, each with an image, greedily by exactly 128
tokens, interleaved in one process, with all cores. Prints one JSON line for each
size and batch: new tokens/s of both, the median of the paired ratios by wall
clock and by CPU seconds, and the share of equal tokens.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
import transformers
from PIL import Image

from sophia_jax.checkpoints import load_params, save_params
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.digits import tokenizer
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  abstract_params,
)
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.types import Prompt, Request, Sampling

NEW = 128
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
QUESTION = "Describe the image, and whatever is written in it, word by word. "


@dataclasses.dataclass(frozen=True)
class Size:
  """Shapes of a model; `vocab` 0 means the tokenizer's size."""

  vision: VisionConfig
  decoder: dict[str, Any]
  vocab: int
  words: int
  """Repetitions of the question in a prompt, which set its length."""
  prefill_rows: int


SIZES = {
  # configs/quickstart.py
  "quickstart": Size(
    VisionConfig(
      width=64, depth=2, heads=4, mlp=192, image_size=48, patch_size=8
    ),
    {"width": 128, "depth": 3, "heads": 4, "kv_heads": 2}
    | {"head_dim": 32, "mlp": 384},
    vocab=0,
    words=1,
    prefill_rows=64,
  ),
  # A prompt of about 320 tokens, 256 of them the image's.
  "75m": Size(
    VisionConfig(width=384, depth=6, heads=6, mlp=1536),
    {"width": 512, "depth": 8, "heads": 8, "kv_heads": 2}
    | {"head_dim": 64, "mlp": 2048},
    vocab=32_000,
    words=3,
    prefill_rows=8,
  ),
}


class Both:
  """A model in both libraries, and prompts for it."""

  def __init__(
    self,
    size: Size,
    batch: int,
    directory: Path,
    dtype: str = "float32",
    new: int = NEW,
    draw: Callable[[InternVLConfig], Any] | None = None,
  ):
    """Writes a checkpoint with a tokenizer, and pictures, into `directory`.

    Args:
      new: tokens of an answer.
      draw: its weights; `random_params` if absent.
    """
    words = tokenizer.build([QUESTION * 9], vision=True)
    tokenizer.save(words, directory / "words")
    image = ImageConfig(tile_size=size.vision.image_size, max_tiles=1)
    cfg = InternVLConfig(
      vision=size.vision,
      decoder=DecoderConfig(vocab=size.vocab or len(words), **size.decoder),
      image_token_id=words.get_vocab()["<IMG_CONTEXT>"],
      dtype=dtype,
      param_dtype=dtype,
    )
    self.new, draw = new, draw or random_params
    save_params(draw(cfg), cfg, directory / "hf", directory / "words")
    self.renderer = Renderer(
      str(directory / "hf"), image, cfg.tokens_per_tile, "Look."
    )
    self.prompts = [
      self.renderer.prompt(QUESTION * size.words, [str(path)])
      for path in pictures(directory, batch, size.vision.image_size)
    ]
    self.cfg, self.directory, self.image = cfg, directory / "hf", image
    self.prefill_rows = min(batch, size.prefill_rows)

  def ours(self) -> Callable[[], np.ndarray]:
    """Generates with the embedded engine; no token ends a turn or is banned."""
    words = copy.copy(self.renderer)
    words.end_id, words.banned_ids = -1, ()
    words.vocab_size = self.cfg.decoder.vocab
    engine = EmbeddedEngine(
      InternVL(self.cfg),
      load_params(self.directory, self.cfg),
      words,
      EngineConfig(
        slots=len(self.prompts),
        length=len(self.prompts[0]) + self.new,
        prefill_rows=self.prefill_rows,
      ),
      TileCache(self.image),
    )
    how = Sampling(temperature=0.0, max_new_tokens=self.new)
    asked = [
      Request(id=str(i), prompt=prompt, sampling=how)
      for i, prompt in enumerate(self.prompts)
    ]

    def generate() -> np.ndarray:
      done = {c.request_id: c.token_ids for c in engine.generate(asked)}
      return np.array([done[r.id] for r in asked])

    return generate

  def theirs(self) -> Callable[[], np.ndarray]:
    """Generates with transformers and its default attention, on a GPU if there
    is one."""
    dtype = getattr(torch, self.cfg.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = transformers.InternVLForConditionalGeneration.from_pretrained(
      self.directory, dtype=dtype
    )
    model = model.eval().to(device)
    model.generation_config.eos_token_id = None
    ids = torch.tensor(np.stack([p.token_ids for p in self.prompts])).long()
    ids = ids.to(device)
    load = TileCache(self.image)

    def generate() -> np.ndarray:
      tiles = np.concatenate([load(*shown(p)) for p in self.prompts])
      with torch.inference_mode():
        out = model.generate(
          input_ids=ids,
          pixel_values=pixels(tiles).to(device, dtype),
          attention_mask=torch.ones_like(ids),
          do_sample=False,
          min_new_tokens=self.new,
          max_new_tokens=self.new,
        )
      return out[:, ids.shape[1] :].cpu().numpy()

    return generate


def random_params(cfg: InternVLConfig) -> Any:
  """Returns weights whose greedy answers vary; speed does not depend on them."""
  rng = np.random.default_rng(0)

  def draw(path: Any, leaf: Any) -> np.ndarray:
    about = 1.0 if path[-1].key == "scale" else 0.0
    spread = 0.02 if len(leaf.shape) < 2 else leaf.shape[-2] ** -0.5
    return (about + spread * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

  return jax.tree_util.tree_map_with_path(draw, abstract_params(cfg))


def pictures(directory: Path, count: int, side: int) -> list[Path]:
  rng = np.random.default_rng(1)
  paths = [directory / f"{i}.png" for i in range(count)]
  for path in paths:
    Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(path)
  return paths


def shown(prompt: Prompt) -> tuple[str, int]:
  return prompt.images[0], prompt.tiles[0]


def pixels(tiles: np.ndarray) -> torch.Tensor:
  """Normalises uint8 tiles as the model card does."""
  x = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255
  mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
  return (x - mean) / std


def interleaved(
  works: Mapping[str, Callable[[], Any]], reps: int
) -> dict[str, list[tuple[float, float]]]:
  """Measures wall and CPU seconds of each, `reps` times, in alternating order."""
  seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
  for rep in range(reps):
    for name in sorted(works, reverse=bool(rep % 2)):
      wall, cpu = time.perf_counter(), time.process_time()
      works[name]()
      spent = time.perf_counter() - wall, time.process_time() - cpu
      seconds[name].append(spent)
  return seconds


def measure(name: str, batch: int, reps: int) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as directory:
    both = Both(SIZES[name], batch, Path(directory))
    works = {"ours": both.ours(), "hf": both.theirs()}
    same = float((works["ours"]() == works["hf"]()).mean())
    seconds = interleaved(works, reps)
  new = batch * NEW
  wall, cpu = (
    statistics.median(
      t[i] / o[i] for o, t in zip(seconds["ours"], seconds["hf"])
    )
    for i in (0, 1)
  )
  return {
    "model": name,
    "batch": batch,
    "prompt_tokens": len(both.prompts[0]),
    "new_tokens": NEW,
    "reps": reps,
    **{
      f"{key}_tokens_per_s": round(new / statistics.median(t[0] for t in times))
      for key, times in seconds.items()
    },
    "ratio": round(wall, 3),
    "cpu_ratio": round(cpu, 3),
    "same_tokens": round(same, 4),
  }


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__.splitlines()[0],  # type: ignore[union-attr]
    epilog="example: python -m benchmarks.rollout_embedded --size=75m",
  )
  parser.add_argument("--size", default=",".join(SIZES))
  parser.add_argument("--batch", default="8,64")
  parser.add_argument("--reps", type=int, default=5)
  args = parser.parse_args()
  torch.set_num_threads(os.cpu_count() or 1)
  for name in args.size.split(","):
    for batch in map(int, args.batch.split(",")):
      print(json.dumps(measure(name, batch, args.reps)), flush=True)


if __name__ == "__main__":
  main()
