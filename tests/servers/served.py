"""Tiny checkpoints, servers of them, and how both engines are asked."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sophia_jax.checkpoints import Format, save_params
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import TileCache
from sophia_jax.models import InternVL, InternVLConfig
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.servers.supervise import free_port
from sophia_jax.types import Completion, Prompt, Request, Sampling
from tests.rollout import little
from tests.servers.tiny_config import CHUNK, LENGTH

ROOT = Path(__file__).parents[2]
CONFIG = "tests/servers/tiny_config.py"
NEW = 16
TOLERANCE = 1e-4
ENGINE = EngineConfig(slots=4, length=LENGTH, prefill_rows=2, chunk=8)


@dataclasses.dataclass(frozen=True)
class Model:
  """A tiny model with random weights, some of them on disk in `directory`."""

  directory: Path
  module: InternVL
  words: Renderer

  def save(self, name: str, seed: int = 0, **format: Format) -> Path:
    path = self.directory / name
    tokenizer = self.directory / "tokenizer"
    params = little.params(self.module, seed)
    save_params(params, self.module.cfg, path, tokenizer, **format)
    return path

  def prompt(self, question: str, images: Sequence[str] = ()) -> Prompt:
    return self.words.prompt(question, images)

  def embedded(
    self, prompts: Sequence[Prompt], seed: int = 0, new: int = NEW
  ) -> list[Completion]:
    """What the embedded engine says, greedily."""
    weights = little.params(self.module, seed)
    cut = TileCache(self.words.image)
    engine = little.engine(self.module, self.words, weights, ENGINE, cut)
    how = Sampling(temperature=0.0, max_new_tokens=new)
    requests = [
      Request(id=str(i), prompt=p, sampling=how) for i, p in enumerate(prompts)
    ]
    done = {c.request_id: c for c in engine.generate(requests)}
    return [done[request.id] for request in requests]


def make(
  directory: Path, *, vision: str = "", llm: str = "qwen2", head_dim: int
) -> Model:
  """A model of either encoder ("300m", "6b", "": none) and either decoder."""
  words = little.renderer(str(directory / "tokenizer"), bool(vision))
  cfg = little.model(words).cfg
  decoder = dataclasses.replace(
    cfg.decoder,
    head_dim=head_dim,
    qkv_bias=llm == "qwen2",
    qk_norm=llm == "qwen3",
    norm_eps=1e-5,
  )
  cfg = dataclasses.replace(cfg, decoder=decoder)
  if vision == "6b":
    cfg = _big_encoder(cfg)
  return Model(directory, InternVL(cfg), words)


def _big_encoder(cfg: InternVLConfig) -> InternVLConfig:
  assert cfg.vision is not None
  vision = dataclasses.replace(
    cfg.vision, norm="rms_norm", qkv_bias=False, qk_norm=True
  )
  return dataclasses.replace(cfg, vision=vision)


# ------------------------------------------------------------------------ prompts
def prompts(model: Model) -> dict[str, Prompt]:
  """No image, one, tiles with a thumbnail, several, the frames of a video, one
  over a chunk's end."""
  one, other, wide = little.pictures(model.directory)
  asked = {
    "no image": model.prompt("What do you see"),
    "one image": model.prompt("What do you see", [one]),
    "tiles": model.prompt("red ink on paper", [wide]),
    "several images": model.prompt("red ink", [one, wide, other]),
    "sixteen frames": model.prompt("<image>" * 16 + "see", [one, other] * 8),
  }
  for padding in range(CHUNK):
    text = "see " * padding + "<image>"
    asked["over a chunk"] = prompt = model.prompt(text, [wide])
    # `wide` has three tiles: two and the thumbnail.
    image = np.flatnonzero(prompt.roles)
    if image[0] + 6 == CHUNK:
      return asked
  raise AssertionError("no padding puts an image over the end of a chunk")


def body(
  prompt: Prompt, end_id: int, new: int = NEW, **sampling: Any
) -> dict[str, Any]:
  """A request of /generate, as sophia_jax.serving says; greedy by default."""
  out: dict[str, Any] = {
    "input_ids": prompt.token_ids.tolist(),
    "sampling_params": {
      "temperature": 0.0,
      "max_new_tokens": new,
      "stop_token_ids": [end_id],
      "no_stop_trim": True,
      "skip_special_tokens": False,
      **sampling,
    },
    "return_logprob": True,
    "logprob_start_len": len(prompt) - 1,
  }
  if prompt.images:
    out["image_data"] = [encoded(path) for path in prompt.images]
  return out


def encoded(path: str) -> str:
  return base64.b64encode(Path(path).read_bytes()).decode()


# ------------------------------------------------------------------------ servers
@dataclasses.dataclass(frozen=True)
class Served:
  """A server that `python -m launch.serve` has started."""

  url: str
  log: Path
  launcher: subprocess.Popen[str]
  key: str = ""

  def post(self, path: str, body: Any) -> tuple[int, Any]:
    """Status and answer; the text where it is not JSON."""
    headers = {"Content-Type": "application/json"}
    if self.key:
      headers["Authorization"] = f"Bearer {self.key}"
    data = json.dumps(body).encode()
    request = urllib.request.Request(self.url + path, data, headers)
    try:
      with urllib.request.urlopen(request, timeout=300) as answer:
        status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
      status, text = e.code, e.read().decode()
    try:
      return status, json.loads(text)
    except ValueError:
      return status, text

  def ask(self, body: dict[str, Any]) -> tuple[list[int], list[float]]:
    """Token ids and log-probabilities."""
    status, answer = self.post("/generate", body)
    assert status == 200, answer
    return triples(answer)


def triples(answer: dict[str, Any]) -> tuple[list[int], list[float]]:
  found = answer["meta_info"]["output_token_logprobs"]
  return [t[1] for t in found], [t[0] for t in found]


@contextlib.contextmanager
def serving(
  workdir: Path,
  role: str,
  key: str = "",
  devices: int = 1,
  options: Sequence[str] = (),
) -> Iterator[Served]:
  """`python -m launch.serve` for a workdir that holds the role's checkpoint."""
  port = free_port()
  env = {**os.environ, "JAX_PLATFORMS": "cpu", "TEST_KEY": key}
  env["JAX_LOG_COMPILES"] = "1"  # into the server's log
  flags = ["--api_key_env=TEST_KEY"] if key else []
  # Of all folders of this run of the tests.
  flags.append(f"--config.serve.weights={workdir.parent}")
  flags += options
  if devices > 1:
    flags.append(f"--config.serve.tp={devices}")
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
  command = [
    *(sys.executable, "-m", "launch.serve", f"--config={CONFIG}"),
    *(f"--workdir={workdir}", f"--role={role}", f"--port={port}", *flags),
  ]
  log = workdir / f"launch-{role}.log"
  with open(log, "w", encoding="utf-8") as errors:
    launcher = subprocess.Popen(
      command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=errors,
      text=True,
    )  # fmt: skip
  try:
    assert launcher.stdout is not None
    line = launcher.stdout.readline()
    assert line.startswith("http"), log.read_text("utf-8")
    url = line.split()[0]
    yield Served(url, workdir / f"servers/{role}.log", launcher, key)
  finally:
    launcher.terminate()
    launcher.wait()
