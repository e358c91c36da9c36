"""Prepares the quickstart: files and two small models, from nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from sophia_jax.checkpoints.directories import save_params
from sophia_jax.data.images import ImageConfig
from sophia_jax.digits import (
  clip_files,
  corpus,
  descriptions,
  measures,
  pan_corpus,
  pretrain,
  scenes,
  tokenizer,
)
from sophia_jax.envs.worlds import WorldConfig
from sophia_jax.files import write_text
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  init_params,
)
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs import pans, plays
from sophia_jax.runs.run import Base, Run
from sophia_jax.runs.starts import save_text_only
from sophia_jax.types import Problem, SophiaError

SCENES = ("data/scenes.jsonl", "data/clips_scenes.jsonl")
"""Files of what images and clips show."""
SECTIONS = {
  "corpus": corpus.CorpusConfig,
  "vision": pretrain.VisionConfig,
  "descriptions": descriptions.DescriptionConfig,
  "clips": clip_files.ClipConfig,
  "pans": pan_corpus.PansConfig,
  "world": WorldConfig,
}
"""Sections of config.prepare, apart from the shapes of models."""


def check(run: Run) -> None:
  """Finds values that cannot be in what the config makes.

  Raises:
    SophiaError: names the first such key, or the package that is not there.
  """
  for name, config in SECTIONS.items():
    if run.config.prepare.get(name):
      run.section(config, f"prepare.{name}")
  if run.config.prepare.get("corpus", {}).get("writers"):
    scenes.load_writers(run.path(run.config.prepare.corpus.writers))
  if (
    run.base
    and run.config.prepare.get("corpus")
    and not _corpus_of(run.base.origin)
  ):
    raise SophiaError(
      f"config.base={run.config.base}: its config makes no corpus of digits "
      "(prepare.corpus), whose problems this run continues; name the workdir of "
      "a quickstart, or leave it out"
    )


def prepare(run: Run) -> None:
  """Makes what is not there of: data, a policy that sees, a reasoner's start.

  Worlds of pans or of environments have other data, and a policy that reads.
  """
  others = {"pans": pans.prepare, "world": plays.prepare}
  for name, make in others.items():
    if run.config.prepare.get(name) and "corpus" not in run.config.prepare:
      make(run)
      return
  config = run.section(corpus.CorpusConfig, "prepare.corpus")
  data = run.workdir / "data"
  _corpus(run, config)
  if run.config.prepare.get("descriptions") and not run.made("descriptions"):
    with run.step("descriptions"):
      sizes, seed = _split(run, config)
      descriptions.write(
        data,
        run.section(descriptions.DescriptionConfig, "prepare.descriptions"),
        sizes.held_out_scans,
        run.config.prompts.slow_thinking,
        seed,
      )
  if run.config.prepare.get("world"):
    plays.write(run)
  if run.config.prepare.get("clips") and not run.made("clip_files"):
    with run.step("clip_files"):
      _, seed = made = _split(run, config)
      training, held_out = scenes.load_scans(seed, made[0].held_out_scans)
      clip_files.write(
        data,
        run.section(clip_files.ClipConfig, "prepare.clips"),
        clip_files.Scanned(training, held_out),
        run.config.prompts.slow_thinking,
        seed,
      )
  if not run.made("vision"):
    with run.step("vision"):
      _see(run, config)
      _reasoner_start(run)


def _corpus(run: Run, config: corpus.CorpusConfig) -> None:
  """Writes the problems and examples that the base does not have."""
  here = run.done if _redrawn(run, config) else run.made
  # The examples of a base stay those of its models.
  write = corpus.write_problems if run.made("data") else corpus.write
  wanted = {"data": write}
  if config.practice:
    wanted["practice"] = corpus.write_practice
  for step, make in wanted.items():
    if not here(step):
      with run.step(step):
        data = run.workdir / "data"
        data.mkdir(exist_ok=True)
        sizes, seed = _split(run, config)
        if sizes.writers:
          package = str(run.path(sizes.writers))
          sizes = dataclasses.replace(sizes, writers=package)
        make(data, sizes, run.section(Prompts, "prompts"), seed)


def _redrawn(run: Run, config: corpus.CorpusConfig) -> bool:
  """Returns whether the base has other problems than the config asks for."""
  if run.base is None:
    return False
  base = _corpus_of(run.base)
  unset = corpus.CorpusConfig()
  return any(
    getattr(config, key) != base.get(key, getattr(unset, key))
    for key in ("draw", "writers", "heldout_kind")
  )


def _split(
  run: Run, config: corpus.CorpusConfig
) -> tuple[corpus.CorpusConfig, int]:
  """Returns sizes and seed that keep the base's held-out scans held out."""
  if run.base is None:
    return config, run.seed
  origin = run.base.origin
  held_out = _corpus_of(origin)["held_out_scans"]
  seed = origin.config["seed"]
  return dataclasses.replace(config, held_out_scans=held_out), seed


def _corpus_of(base: Base) -> Mapping[str, Any]:
  """Returns the corpus that a base's config makes; {} if it makes none."""
  return (base.config.get("prepare") or {}).get("corpus") or {}


def readings(
  run: Run, responses: Mapping[str, Sequence[Mapping[str, Any]]], data: str
) -> dict[str, Any]:
  """Measures what answers say about their images (`digits.measures`).

  Args:
    responses: {"before": rows of an evaluation, ...}.
    data: file of the problems that they answer.

  Returns:
    {"before": measures, ...}; {} in a run of other problems. Problems with a tag
    "level" are also measured level by level, as "levels".
  """
  if not run.config.get("prepare") or not responses:
    return {}
  problems = {p.id: p for p in run.problems(data)}
  seen: dict[str, tuple[int | None, ...]] = {}
  for path in map(run.path, SCENES):
    if not path.exists():
      continue
    with open(path, encoding="utf-8") as f:
      lines = map(json.loads, f)
      seen |= {
        r["id"]: tuple(r["digits"]) for r in lines if r["id"] in problems
      }
  if seen.keys() != problems.keys():
    return {}
  found = {}
  for name, rows in responses.items():
    found[name] = measures.measure(rows, problems, seen)
    if levels := _by_level(rows, problems):
      found[name]["levels"] = {
        level: measures.measure(own, problems, seen)
        for level, own in levels.items()
      }
  return found


def _by_level(
  rows: Sequence[Mapping[str, Any]], problems: Mapping[str, Problem]
) -> dict[str, list[Mapping[str, Any]]]:
  """Returns the responses to problems of each level; {} without levels."""
  levels: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    if level := problems[row["id"]].tags.get("level"):
      levels.setdefault(level, []).append(row)
  return dict(sorted(levels.items()))


def _texts(run: Run) -> Iterator[str]:
  """Yields the texts that tokenizers are trained on: every word that is used."""
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
  """Makes a policy of random weights whose vision alone can tell digits."""
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
    run.workdir / "vision" / "checkpoints",
    config.unclear,
  )
  metrics = run.workdir / "vision" / "metrics.jsonl"
  metrics.parent.mkdir(exist_ok=True)
  write_text(metrics, "".join(json.dumps(row) + "\n" for row in history))
  save_params(params, cfg, run.path(run.config.policy.path), start)


def _reasoner_start(run: Run) -> None:
  """Saves the reasoner's start."""
  key = jax.random.fold_in(jax.random.key(run.seed), 1)
  path = run.config.reasoners.easy.start
  save_text_only(run, _texts(run), "reasoner_tokenizer", key, path)
