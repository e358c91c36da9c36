"""Where each role generates: in this process, or in SGLang servers.

config.policy and every one of config.reasoners say it by `engine` and `urls`.
Weights are read only where they are needed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sophia_jax.checkpoints import Format, read_config
from sophia_jax.checkpoints.config import CONFIG
from sophia_jax.checkpoints.directories import open_values, write_directory
from sophia_jax.checkpoints.shards import read_json
from sophia_jax.checkpoints.staging import replacing
from sophia_jax.config import section
from sophia_jax.data.chat import Renderer
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.models import InternVLConfig, VisionConfig
from sophia_jax.rollout.embedded import EmbeddedEngine, EngineConfig
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.scorers import CommonWords, ScoreClient
from sophia_jax.rollout.sglang import SGLangChat, SGLangEngine, SGLangScorer
from sophia_jax.runs import policies
from sophia_jax.runs.policies import (
  EngineChoice,
  Model,
  ReasonerConfig,
  RuntimeConfig,
  ScorerConfig,
)
from sophia_jax.runs.run import Run
from sophia_jax.servers import supervise
from sophia_jax.servers.backends.base import Role
from sophia_jax.train import sharding
from sophia_jax.types import Sampling

PolicyEngine = EmbeddedEngine | SGLangEngine
"""Generates in a vocabulary that is ours."""
ReasonerEngine = EmbeddedEngine | SGLangChat


@contextlib.contextmanager
def policy(
  run: Run, directory: Path, max_new_tokens: int, resize: str | None = None
) -> Iterator[PolicyEngine]:
  """Opens the policy of a checkpoint directory.

  Args:
    max_new_tokens: the longest answer that is going to be asked for.
    resize: how images are resized, where not as config.images says; a server
      always resizes as "pil" does.

  Raises:
    SophiaError: no such checkpoint, or servers that will not do.
  """
  choice = run.section(RuntimeConfig, "policy")
  if choice.engine == "embedded":
    yield embedded(run, policies.load_policy(run, directory, resize))
    return
  image = run.section(ImageConfig, "images")
  supervise.refuse_videos(image)
  cfg, words = policies.load_words(directory, image, run.config.prompts.system)
  tokens = max_new_tokens
  if cfg.vision:
    tokens += cfg.tokens_per_tile * image.most
  directory = directory if choice.urls else _servable(run, directory)
  with (
    _urls(run, choice, "policy", directory) as urls,
    SGLangEngine(urls, _client(run), words) as engine,
  ):
    engine.check(choice.served or str(directory), tokens)
    yield engine


@contextlib.contextmanager
def scoring(
  run: Run, directory: Path, words: Renderer, tokens: int
) -> Iterator[SGLangScorer]:
  """Opens the served policy for the log-probabilities of given responses.

  Args:
    words: the policy's renderer.
    tokens: of the longest question and response together.

  Raises:
    SophiaError: servers that will not do.
  """
  choice = run.section(RuntimeConfig, "policy")
  directory = directory if choice.urls else _servable(run, directory)
  with (
    _urls(run, choice, "policy", directory) as urls,
    SGLangScorer(urls, _client(run), words) as engine,
  ):
    engine.check(choice.served or str(directory), tokens)
    yield engine


@contextlib.contextmanager
def reasoner(run: Run, name: str) -> Iterator[ReasonerEngine]:
  """Opens the text-only model that thinks about problems of difficulty `name`.

  Raises:
    SophiaError: no such checkpoint, or servers that will not do.
  """
  values = run.config.reasoners[name].to_dict()
  choice = section(ReasonerConfig, values, f"reasoners.{name}")
  if choice.engine == "embedded":
    yield embedded(run, policies.load_reasoner(run, run.path(choice.path)))
    return
  directory = run.path(choice.path)
  how = (run.section(Sampling, key) for key in ("captioning", "reasoning"))
  with (
    _urls(run, choice, "reasoner", directory, name) as urls,
    SGLangChat(urls, _client(run)) as engine,
  ):
    engine.check(
      choice.served or str(directory), sum(h.max_new_tokens for h in how)
    )
    yield engine


@contextlib.contextmanager
def chat(run: Run, choice: EngineChoice) -> Iterator[SGLangChat]:
  """Opens servers that are there already, whose vocabulary is not ours."""
  with SGLangChat(_listed(choice), _client(run)) as engine:
    yield engine


@contextlib.contextmanager
def scorer(run: Run) -> Iterator[CommonWords | ScoreClient]:
  """Opens the scorer of open-ended answers."""
  choice = run.section(ScorerConfig, "scorer")
  if choice.engine == "words":
    yield CommonWords()
    return
  with ScoreClient(_listed(choice), _client(run)) as engine:
    yield engine


def embedded(
  run: Run, model: Model, sizes: EngineConfig | None = None
) -> EmbeddedEngine:
  """Puts a model into the embedded engine, on the devices of config.mesh.

  Args:
    sizes: None: those of config.engine.
  """
  mesh = sharding.make_mesh(run.section(sharding.MeshConfig, "mesh"))
  return EmbeddedEngine(
    model.module,
    policies.weights(model, mesh),
    model.renderer,
    sizes or run.section(EngineConfig, "engine"),
    TileCache(model.image),
  )


def backend(run: Run) -> str:
  """Returns the backend of the servers that a run starts on this machine."""
  platform, _ = supervise.find_platform()
  chosen = supervise.serve_config(run.config).backend
  return chosen or supervise.default_backend(platform)


def served_format(run: Run, cfg: InternVLConfig) -> Format:
  """Returns the format in which the servers that a run starts take its policy.

  SGLang reads an InternVL in the original format alone.
  """
  internvl = isinstance(cfg.vision, VisionConfig)
  if internvl and backend(run) == "sglang":
    return Format.INTERNVL_CHAT
  return Format.HF


def _servable(run: Run, directory: Path) -> Path:
  """Returns a policy's checkpoint as our own server reads it.

  Stages export transformers' format: where the server reads another it gets a
  copy, W/servers/policy.
  """
  kind = read_json(directory / CONFIG).get("model_type")
  if backend(run) != "sglang" or kind != "internvl":
    return directory
  cfg = read_config(directory)
  copy = run.workdir / "servers" / "policy"
  with replacing(copy) as work:
    values = open_values(directory, cfg, None)
    write_directory(values, cfg, work, directory, Format.INTERNVL_CHAT)
  return copy


@contextlib.contextmanager
def _urls(
  run: Run, choice: EngineChoice, role: Role, directory: Path, name: str = ""
) -> Iterator[list[str]]:
  """Yields the servers of a role; starts one for the block if none is named."""
  if choice.urls:
    yield _listed(choice)
    return
  with supervise.running(run.config, run.workdir, role, directory, name) as url:
    yield [url]


def _listed(choice: EngineChoice | ScorerConfig) -> list[str]:
  return [url.strip() for url in choice.urls.split(",")]


def _client(run: Run) -> ClientConfig:
  given = run.config.get("client")
  return section(ClientConfig, given.to_dict() if given else {}, "client")
