"""A checkpoint directory with its tokenizer, image path and model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

from jax.sharding import Mesh

from sophia_jax.checkpoints import adapters as peft
from sophia_jax.checkpoints.config import read_config
from sophia_jax.checkpoints.directories import load_sharded, save_params
from sophia_jax.config import free
from sophia_jax.data.chat import Renderer
from sophia_jax.data.cuts import check_cut
from sophia_jax.data.images import ImageConfig
from sophia_jax.models import (
  InternVL,
  InternVLConfig,
  Params,
  abstract_params,
  logical_axes,
)
from sophia_jax.models.config import Remat
from sophia_jax.models.kernels import IMPLEMENTATIONS
from sophia_jax.models.lora import Lora
from sophia_jax.runs.run import Run
from sophia_jax.train import adapters as placed
from sophia_jax.train import sharding
from sophia_jax.types import SophiaError, quoted

ENGINES = ("embedded", "sglang")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class EngineChoice:
  """Where a model generates; does not change what it generates."""

  engine: str = free("embedded")
  """Engine: "embedded", in this process, or "sglang", in servers; with no `urls`
  in one that is started for as long as it is needed."""
  urls: str = free("")
  """Servers of the model, or one router, separated by commas:
  "http://10.0.0.1:30000,http://10.0.0.2:30000"."""
  served: str = free("")
  """The servers' name for the model, where it is not that of `path`."""

  def __post_init__(self) -> None:
    if self.engine not in ENGINES:
      raise ValueError(
        f"engine must be one of {', '.join(ENGINES)}, not {quoted(self.engine)}"
      )
    if self.urls and self.engine == "embedded":
      raise ValueError("urls are given, engine is 'embedded': set 'sglang'")


@dataclasses.dataclass(frozen=True)
class ReasonerConfig(EngineChoice):
  """A text-only model that thinks; asked in words."""

  path: str = free("")
  """Checkpoint directory; a relative one is inside the workdir."""
  start: str = free("")
  """Checkpoint directory that a stage teaches it from."""


@dataclasses.dataclass(frozen=True)
class TeacherConfig(EngineChoice):
  """A model beside the policy that answers what the policy is asked: from a file
  of responses, from a checkpoint, or in servers that are there already."""

  file: str = free("")
  """JSONL file of examples with its responses, by the ids of problems; "": it
  answers live."""
  path: str = free("")
  """Checkpoint directory of a model that answers in this process."""
  absent: str = "skip"
  """Treatment of an answer that is absent or cut off: "skip", a group does
  without it, or "stop"."""
  cache: str = free("")
  """Directory of live answers by content, which runs may share; "": none. A
  relative one is inside the workdir."""

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.absent not in ("skip", "stop"):
      raise ValueError(f"absent is {quoted(self.absent)}; use skip or stop")
    given = [k for k in ("file", "path", "urls") if getattr(self, k)]
    if len(given) != 1:
      raise ValueError(
        f"{' and '.join(given) or 'nothing'} given; give one of file, path, "
        "urls"
      )
    if self.cache and self.file:
      raise ValueError("cache and file given; a file needs no cache")
    if self.urls and not self.served:
      raise ValueError("urls without served; give the servers' model name")


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
  """The scorer of open-ended answers."""

  engine: str = "words"
  """Scorer: "words", shared with an accepted answer, or "http", a reward
  model."""
  urls: str = free("")
  """Servers of the reward model, separated by commas."""
  name: str = ""
  """Name of the reward model; another name is asked again."""

  def __post_init__(self) -> None:
    if self.engine not in ("words", "http"):
      raise ValueError(f"engine is {quoted(self.engine)}; use words or http")
    if bool(self.urls) != (self.engine == "http"):
      raise ValueError('urls go with engine="http", and only with it')


@dataclasses.dataclass(frozen=True)
class RuntimeConfig(EngineChoice):
  """How a model computes; its own config.json says what it is."""

  path: str = free("")
  """Checkpoint directory; a relative one is inside the workdir."""
  dtype: str = "bfloat16"
  """Type of the computation."""
  param_dtype: str = "float32"
  """Type that trained parameters are kept in."""
  remat: str = free("none")
  """Part recomputed in the backward pass: "none"; all except matrix products
  ("dots"), attention and the up projection ("up"), attention ("attention");
  whole blocks ("block"), their inputs in host memory ("offload")."""
  attention: str = free("auto")
  """An implementation of models/kernels.py; "auto": what the platform has."""
  scan_unroll: int = free(1)
  """Layers per scan step; unrolled layers are faster on CPU."""

  def __post_init__(self) -> None:
    super().__post_init__()
    for name, known in (
      ("remat", get_args(Remat)),
      ("attention", ("auto", *IMPLEMENTATIONS)),
      ("dtype", DTYPES),
      ("param_dtype", DTYPES),
    ):
      if getattr(self, name) not in known:
        raise ValueError(
          f"{name} must be one of {', '.join(known)}, not "
          f"{getattr(self, name)!r}"
        )

  def of(self, cfg: InternVLConfig) -> InternVLConfig:
    """Returns the model's config with these settings."""
    return dataclasses.replace(
      cfg,
      dtype=self.dtype,
      param_dtype=self.param_dtype,
      remat=self.remat,  # type: ignore[arg-type]
      attention=self.attention,
      scan_unroll=self.scan_unroll,
    )


@dataclasses.dataclass(frozen=True)
class Model:
  """A checkpoint: its shapes, tokenizer and image path. `weights` reads it."""

  directory: Path
  module: InternVL
  renderer: Renderer
  image: ImageConfig


def load(
  directory: Path,
  runtime: RuntimeConfig,
  image: ImageConfig,
  system: str | None = None,
) -> Model:
  """Opens a Hugging Face directory: config and tokenizer.

  Raises:
    SophiaError: the directory is not a checkpoint that fits, or its images are
      of another size than `image` says.
  """
  cfg, renderer = load_words(directory, image, system)
  return Model(directory, InternVL(runtime.of(cfg)), renderer, image)


def weights(model: Model, mesh: Mesh, trained: tuple[str, ...] = ()) -> Params:
  """Reads the parameters straight onto the mesh.

  Args:
    trained: parts that keep `param_dtype`; the others are only read, and come
      in the dtype of the computation, which they would be cast to at every use.

  Raises:
    SophiaError: a tensor that is missing, damaged or of another shape.
  """
  cfg = model.module.cfg
  where = sharding.param_shardings(
    abstract_params(cfg), logical_axes(cfg), mesh
  )
  frozen = dataclasses.replace(cfg, param_dtype=cfg.dtype)
  params: Params = {}
  for kind, parts in (
    (cfg, where.keys() & set(trained)),
    (frozen, where.keys() - set(trained)),
  ):
    if parts:
      some = {part: where[part] for part in parts}
      params |= load_sharded(model.directory, kind, some)
  return params


def adapters(
  model: Model, mesh: Mesh, how: Lora, seed: int, start: Path | None
) -> Params:
  """Makes the adapters that a stage trains, on the mesh.

  Args:
    start: directory of adapters in PEFT's format; None: fresh ones.

  Returns:
    The parts that `lora.attach` adds.

  Raises:
    SophiaError: the model has nothing that is so named, or `start` does not
      fit.
  """
  cfg = model.module.cfg
  try:
    tree = None if start is None else peft.load(start, how, cfg)
    return placed.place(cfg, how, mesh, seed, tree)
  except ValueError as e:
    raise SophiaError(f"train.trained, train.lora_targets: {e}") from e


def load_words(
  directory: Path, image: ImageConfig, system: str | None = None
) -> tuple[InternVLConfig, Renderer]:
  """Reads config and tokenizer, enough where the weights are elsewhere.

  Raises:
    SophiaError: as `load`.
  """
  cfg = read_config(directory)
  if cfg.vision is not None:
    check_cut(image, *cfg.vision.cut, str(directory))
  renderer = Renderer(str(directory), image, cfg.tokens_per_tile, system)
  if renderer.vocab_size > cfg.decoder.vocab:
    raise SophiaError(
      f"{directory}: the tokenizer has {renderer.vocab_size} ids, the model "
      f"{cfg.decoder.vocab}; they are not of one checkpoint"
    )
  return cfg, renderer


def load_policy(run: Run, directory: Path, resize: str | None = None) -> Model:
  """Opens the policy in `directory` as the config runs it.

  Args:
    resize: how images are resized, where not as config.images says.
  """
  image = run.section(ImageConfig, "images")
  return load(
    directory,
    run.section(RuntimeConfig, "policy"),
    dataclasses.replace(image, resize=resize) if resize else image,
    run.config.prompts.system,
  )


def load_reasoner(run: Run, directory: Path) -> Model:
  """Opens a text-only model that thinks."""
  return load(
    directory,
    run.section(RuntimeConfig, "policy"),
    ImageConfig(),
  )


def export(
  model: Model, params: Params, directory: Path, system: str | None = None
) -> None:
  """Writes a directory that transformers loads, tokenizer included.

  Args:
    system: system prompt that its chat template has by default.
  """
  save_params(
    params, model.module.cfg, directory, model.directory, system=system
  )
