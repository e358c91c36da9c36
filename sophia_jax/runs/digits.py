"""Prepares the quickstart: files and two small models, from nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jax

from sophia_jax.algorithms import reductions
from sophia_jax.algorithms.legacy import sft
from sophia_jax.checkpoints.directories import save_params
from sophia_jax.config import section
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.problems import load_examples
from sophia_jax.digits import corpus, pretrain, scenes, tokenizer
from sophia_jax.files import write_text
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  init_params,
)
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import policies
from sophia_jax.runs.run import Run
from sophia_jax.runs.training import train as train_model
from sophia_jax.train.loop import TrainConfig
from sophia_jax.train.sequences import render


def prepare(run: Run) -> None:
  """Runs what is not done of: data, vision, reasoner."""
  config = run.config.prepare
  corpus_config = run.section(corpus.CorpusConfig, "prepare.corpus")
  data = run.workdir / "data"
  if not run.done("data"):
    with run.stage("data"):
      data.mkdir(exist_ok=True)
      prompts = run.section(Prompts, "prompts")
      corpus.write(data, corpus_config, prompts, run.seed)
  if not run.done("vision"):
    with run.stage("vision"):
      _see(run, corpus_config)
  if not run.done("reasoner"):
    with run.stage("reasoner"):
      _teach(run, section(TrainConfig, config.reasoner.to_dict(), "reasoner"))


def _texts(run: Run) -> Iterator[str]:
  """What the tokenizers are trained on: every word that will be used."""
  for name in ("warmup", "reasoner"):
    with open(run.workdir / "data" / f"{name}.jsonl", encoding="utf-8") as f:
      for line in f:
        row = json.loads(line)
        yield from (row["question"], row["response"])
  prompts = run.config.prompts
  for text in (prompts.system, prompts.slow_thinking, prompts.caption):
    yield from [text] * 100
  yield from ["system\n", "user\n", "assistant\n"] * 100


def _see(run: Run, config: corpus.CorpusConfig) -> None:
  """A policy of random weights but for its vision, which can tell digits."""
  decoder = run.config.prepare.decoder.to_dict()
  image = run.section(ImageConfig, "images")
  start = run.workdir / "models" / "tokenizer"
  words = tokenizer.build(_texts(run), vision=True)
  tokenizer.save(words, start)
  cfg = InternVLConfig(
    vision=VisionConfig(
      **run.config.prepare.encoder.to_dict(),
      image_size=image.tile_size,
      patch_size=image.tile_size // (2 * scenes.GRID),
    ),
    decoder=DecoderConfig(vocab=len(words), **decoder),
    image_token_id=words.get_vocab()["<IMG_CONTEXT>"],
    dtype=run.config.policy.dtype,
    scan_unroll=run.config.policy.scan_unroll,
  )
  scans, _ = scenes.load_scans(run.seed, config.held_out_scans)
  params, history = pretrain.pretrain_vision(
    InternVL(cfg),
    init_params(cfg, jax.random.key(run.seed)),
    scans,
    run.section(pretrain.VisionConfig, "prepare.vision"),
    run.seed,
  )
  metrics = run.workdir / "vision" / "metrics.jsonl"
  metrics.parent.mkdir(exist_ok=True)
  write_text(metrics, "".join(json.dumps(row) + "\n" for row in history))
  save_params(params, cfg, run.path(run.config.policy.path), start)


def _teach(run: Run, config: TrainConfig) -> None:
  """A text-only reasoner, from random weights and worked examples."""
  directory = run.path(run.config.reasoners.easy.path)
  start = run.workdir / "models" / "reasoner_start"
  if not start.exists():
    words = tokenizer.build(_texts(run), vision=False)
    cfg = InternVLConfig(
      decoder=DecoderConfig(
        vocab=len(words), **run.config.prepare.decoder.to_dict()
      ),
      dtype=run.config.policy.dtype,
    )
    place = run.workdir / "models" / "reasoner_tokenizer"
    tokenizer.save(words, place)
    key = jax.random.fold_in(jax.random.key(run.seed), 1)
    save_params(init_params(cfg, key), cfg, start, place)
  model = policies.load(
    start,
    run.section(policies.RuntimeConfig, "policy"),
    run.section(ImageConfig, "images"),
  )
  examples = load_examples(run.workdir / "data" / "reasoner.jsonl")
  params = train_model(
    run,
    model,
    render(examples, model.renderer, reductions.token),
    sft,
    config,
    run.workdir / "reasoner",
  )
  policies.export(model, params, directory)
