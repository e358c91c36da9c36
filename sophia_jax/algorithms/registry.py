"""The methods by name, and what is refused before anything is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sophia_jax.algorithms import (
  buckets,
  chains,
  cispo,
  clause_rewards,
  dapo,
  describe,
  dpo,
  dr_grpo,
  embodied_r,
  fgaif,
  grpo,
  grpo_care,
  gspo,
  mpo,
  openvlthinker,
  papo,
  ppo,
  rl_plus,
  rloo,
  screen,
  seed_bench_r1,
  sft,
  sophia,
  starpo,
  vision_ekipl,
  vlaa,
)
from sophia_jax.algorithms.contract import Algorithm
from sophia_jax.config import nearest, section
from sophia_jax.types import Sampling, SophiaError

ALGORITHMS: dict[str, tuple[type, Callable[[Any], Algorithm]]] = {
  "sft": (sft.Config, sft.sft),
  "sophia": (sophia.Config, sophia.sophia),
  "grpo": (grpo.Config, grpo.grpo),
  "dapo": (dapo.Config, dapo.dapo),
  "dr_grpo": (dr_grpo.Config, dr_grpo.dr_grpo),
  "rloo": (rloo.Config, rloo.rloo),
  "gspo": (gspo.Config, gspo.gspo),
  "cispo": (cispo.Config, cispo.cispo),
  "ppo": (ppo.Config, ppo.ppo),
  "dpo": (dpo.Config, dpo.dpo),
  "mpo": (mpo.Config, mpo.mpo),
  "openvlthinker": (openvlthinker.Config, openvlthinker.openvlthinker),
  "vision_ekipl": (vision_ekipl.Config, vision_ekipl.vision_ekipl),
  "vlaa": (vlaa.Config, vlaa.vlaa),
  "chains": (chains.Config, chains.chains),
  "buckets": (buckets.Config, buckets.buckets),
  "screen": (screen.Config, screen.screen),
  "describe": (describe.Config, describe.describe),
  "rl_plus": (rl_plus.Config, rl_plus.rl_plus),
  "papo": (papo.Config, papo.papo),
  "papo_d": (papo.ConfigD, papo.papo_d),
  "seed_bench_r1": (seed_bench_r1.Config, seed_bench_r1.seed_bench_r1),
  "grpo_care": (grpo_care.Config, grpo_care.grpo_care),
  "starpo": (starpo.Config, starpo.starpo),
  "starpo_s": (starpo.ConfigS, starpo.starpo),
  "embodied_r": (embodied_r.Config, embodied_r.embodied_r),
  "clause_rewards": (clause_rewards.Config, clause_rewards.clause_rewards),
  "fgaif": (fgaif.Config, fgaif.fgaif),
}
"""Name -> (frozen config dataclass, builder of the method)."""


def config_of(name: str) -> type:
  """Returns the config dataclass of a method.

  Raises:
    SophiaError: there is no such method; names the nearest.
  """
  if name not in ALGORITHMS:
    raise SophiaError(
      f"algorithm {name!r} is unknown; {nearest(name, ALGORITHMS)}"
    )
  return ALGORITHMS[name][0]


def build(name: str, settings: Mapping[str, Any] | None = None) -> Algorithm:
  """Builds a method from its settings.

  Raises:
    SophiaError: an unknown method or setting, or one that cannot work.
  """
  config: Any = section(config_of(name), settings or {}, name)
  return ALGORITHMS[name][1](config)


def check_sampling(algorithm: Algorithm, sampling: Sampling) -> None:
  """Raises SophiaError if importance ratios would be biased by the sampler.

  Log-probabilities are those of the whole distribution at temperature 1; tokens
  that were drawn from another one have other ratios (a kept mass of 0.9 makes
  the mean ratio 0.9).
  """
  ratio = {"old_logps", "behaviour_logps"} & {*algorithm.all_streams}
  draws = {
    "top_p": (sampling.top_p, sampling.top_p < 1, 1),
    "top_k": (sampling.top_k, sampling.top_k > 0, 0),
    "temperature": (sampling.temperature, sampling.temperature != 1, 1),
  }
  for key, (value, biased, remedy) in draws.items():
    if ratio and biased:
      raise SophiaError(
        f"sampling.{key}: {value} biases the importance ratios of the method; "
        f"use {remedy}"
      )
