"""Checks of a server before the first problem is sampled."""

from __future__ import annotations

import asyncio
import os.path
import time
from typing import Any

from sophia_jax.data.chat import Renderer
from sophia_jax.rollout import wire
from sophia_jax.rollout.endpoints import ClientConfig, Http, Refused
from sophia_jax.rollout.wire import Trouble
from sophia_jax.types import SophiaError

_EVERY_S = 1.0
_TEXT = (
  "Let $x^2 = 144$; how many apples (6 red, 17 green) are left?  "
  "图中共有多少个苹果?"
)
"""Tokenizers that are not the same hardly ever agree on its length."""


async def check(
  http: Http,
  url: str,
  config: ClientConfig,
  model: str,
  tokens: int,
) -> str:
  """Compares a server with what is expected of it; returns its model's name.

  Args:
    model: the checkpoint's directory, or the name the server must give.
    tokens: of the longest prompt and its answer together.

  Raises:
    SophiaError: not there within `ready_s`, another model, or a context that
      is too short.
  """
  info = await _first_answer(http, url, config)
  models = await _known(http, url, "/v1/models", config)
  names = wire.model_names(info, models)
  if names and not any(_is_same(model, name) for name in names):
    raise SophiaError(
      f"{url} serves {' alias '.join(names)}, not {model}; serve that "
      "model, or give the server's name for it in the config (served)"
    )
  length = wire.context_length(models)
  if length is not None and length <= tokens:
    raise SophiaError(
      f"{url} has a context of {length} tokens; prompts and answers of this "
      f"config need more than {tokens}: start it with --context-length="
      f"{tokens + 1} or lower max_new_tokens"
    )
  return names[0] if names else "default"


def _is_same(ours: str, theirs: str) -> bool:
  """Compares directories; where one is on another machine, their last names."""
  if os.path.isdir(ours) and os.path.isdir(theirs):
    return os.path.samefile(ours, theirs)
  ours, theirs = ours.rstrip("/"), theirs.rstrip("/")
  return os.path.basename(ours) == os.path.basename(theirs)


async def _first_answer(http: Http, url: str, config: ClientConfig) -> Any:
  """Waits for a server that is still starting."""
  until = time.monotonic() + config.ready_s
  while True:
    try:
      return await _known(http, url, "/model_info", config)
    except Trouble as e:
      if time.monotonic() > until:
        raise SophiaError(
          f"no rollout server at {url} ({e}); start it with `python -m "
          "launch.serve`, or correct the urls in the config"
        ) from None
    await asyncio.sleep(min(_EVERY_S, config.ready_s / 4))


async def _known(http: Http, url: str, path: str, config: ClientConfig) -> Any:
  """Returns what a GET answers; {} from a server or router without the route."""
  for name in (path, path.replace("/model_info", "/get_model_info")):
    try:
      return await http.call(url + name, None, config.connect_s, "check")
    except Refused as e:
      if e.status not in (404, 405):
        raise
  return {}


async def check_vocabulary(
  http: Http, url: str, config: ClientConfig, renderer: Renderer
) -> None:
  """Checks that the server cuts a text into as many tokens as we do.

  Raises:
    SophiaError: it does not, or does not generate.
  """
  try:
    answer = await http.call(
      f"{url}/generate", wire.text_body(_TEXT), config.deadline_s, "check"
    )
    theirs = wire.prompt_tokens(answer)
  except Trouble as e:
    raise SophiaError(f"{url} is there but does not generate: {e}") from None
  ours = len(renderer.vocabulary.bos_ids) + renderer.count(_TEXT)
  if theirs != ours:
    raise SophiaError(
      f"{url} makes {theirs} tokens of a text that has {ours} in the policy's "
      "vocabulary; it serves another model or another tokenizer"
    )
