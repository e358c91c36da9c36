"""The HTTP process: refuses bad requests, and completes the others.

Everything that could stop the scheduler is refused here, before any request of a
list is sent on.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import secrets
from collections.abc import AsyncIterator
from typing import Any

from fastapi.responses import JSONResponse
from sgl_jax.srt.entrypoints import http_server
from sgl_jax.srt.entrypoints.openai.serving_chat import OpenAIServingChat
from sgl_jax.srt.managers.io_struct import GenerateReqInput
from sgl_jax.srt.managers.tokenizer_manager import (
  TokenizerManager,
  _Communicator,
)
from sgl_jax.srt.sampling.sampling_params import SamplingParams

from sophia_jax.serving import guard, versions
from sophia_jax.serving.sglang_jax.scheduler import (
  UpdateWeights,
  WeightsUpdated,
)
from sophia_jax.types import SophiaError

SEEDS = 1 << 31
_KNOWN = frozenset(inspect.signature(SamplingParams).parameters)
_NUMBERS = (
  "temperature",
  "top_p",
  "min_p",
  "frequency_penalty",
  "presence_penalty",
  "repetition_penalty",
)
_COUNTS = ("top_k", "max_new_tokens", "min_new_tokens", "n", "sampling_seed")


class Frontend(TokenizerManager):
  """Checks requests, gives them a seed and one log-probability mode.

  Every answer says which version of the weights drew which of its tokens.
  """

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    self.weight_version = versions.FIRST
    self._changes: dict[str, list[versions.Change]] = {}
    """Changes of weights during a request, by its rid."""
    self._update = _Communicator(self.send_to_scheduler, 1)
    self._updating = asyncio.Lock()
    self._result_dispatcher._mapping.append(
      (WeightsUpdated, self._update.handle_recv)
    )

  async def update_weights(
    self, directory: str, version: str | None
  ) -> WeightsUpdated:
    """Serves the checkpoint `directory`, or the old weights if that fails."""
    self.auto_create_handle_loop()
    async with self._updating:
      # The scheduler has read all of these before it reads the update.
      sent = set(self.rid_to_state)
      done = (await self._update(UpdateWeights(model_path=directory)))[0]
      if done.success:
        for rid in sent:
          # One that is not unfinished has drawn all its tokens; its last answer
          # is on its way by another process.
          count = done.unfinished.get(rid, versions.ALL)
          change = self.weight_version, count
          self._changes.setdefault(rid, []).append(change)
        self.weight_version = version or versions.FIRST
    return done

  def _add_versions(self, answer: dict[str, Any]) -> None:
    meta = answer["meta_info"]
    changes = self._changes.get(meta["id"], [])
    count = meta.get("completion_tokens", 0)
    found = versions.spans(changes, self.weight_version, count)
    meta["weight_versions"] = found
    last = found[-1]["version"] if found else self.weight_version
    meta["weight_version"] = last

  async def generate_request(
    self, obj: Any, request: Any = None
  ) -> AsyncIterator[Any]:
    """Answers a request as SGLang-JAX does, with checks and versions.

    Raises:
      ValueError: what is wrong with the request, in one line; becomes a 400.
    """
    if isinstance(obj, GenerateReqInput):
      self._check(obj)
    try:
      async for answer in super().generate_request(obj, request):
        for one in answer if isinstance(answer, list) else [answer]:
          self._add_versions(one)
        yield answer
    except ValueError:
      # Of a list, those before the bad one are in flight.
      for rid in _rids(obj):
        if rid in self.rid_to_state:
          self.abort_request(rid)
      raise
    finally:
      for rid in _rids(obj):
        self._changes.pop(rid, None)

  def _check(self, obj: GenerateReqInput) -> None:
    ids = obj.input_ids or []
    rows = ids if ids and isinstance(ids[0], list) else [ids]
    config = self.model_config
    vocab = getattr(config.hf_config, "known_ids", config.vocab_size)
    for row in rows:
      check_ids(row, vocab)
    image_id = config.image_token_id
    if image_id and not obj.image_data and any(image_id in row for row in rows):
      raise ValueError(
        "input_ids have image tokens and image_data has no image; send both"
      )
    params = obj.sampling_params
    if isinstance(params, list):
      obj.sampling_params = [seeded(checked(p or {})) for p in params]
    elif rows[1:] or isinstance(obj.text, list):
      count = len(obj.text) if isinstance(obj.text, list) else len(rows)
      params = checked(params or {})
      obj.sampling_params = [seeded(params) for _ in range(count)]
    else:
      obj.sampling_params = seeded(checked(params or {}))

  def _create_tokenized_object(
    self, obj: Any, input_text: Any, input_ids: Any, mm_inputs: Any = None
  ) -> Any:
    # A batch whose requests differ in what they ask gets its lists mixed up.
    if not obj.return_logprob or obj.logprob_start_len == -1:
      obj.return_logprob = True
      obj.logprob_start_len = len(input_ids) - 1
    return super()._create_tokenized_object(
      obj, input_text, input_ids, mm_inputs
    )


def _rids(obj: Any) -> list[str]:
  return obj.rid if isinstance(obj.rid, list) else [obj.rid]


def check_ids(ids: list[int], vocab: int) -> None:
  """Refuses ids that no embedding has; a negative one would end the server.

  Raises:
    ValueError: names the place and the id.
  """
  for place, i in enumerate(ids):
    if not 0 <= i < vocab:
      raise ValueError(
        f"input_ids[{place}] is {i}; the vocabulary has 0 to {vocab - 1}"
      )


def checked(params: Any) -> dict[str, Any]:
  """Returns the sampling parameters, each known and a sensible number.

  Raises:
    ValueError: names the parameter.
  """
  if not isinstance(params, dict):
    raise ValueError(f"sampling_params: {params!r} is not an object")
  unknown = sorted(params.keys() - _KNOWN)
  if unknown:
    raise ValueError(f"sampling_params.{unknown[0]}: no such parameter")
  _check_numbers(params)
  seed = params.get("sampling_seed")
  if seed is not None and not 0 <= seed < SEEDS:
    raise ValueError(f"sampling_params.sampling_seed: {seed} is not in 31 bits")
  stops = params.get("stop_token_ids") or []
  if not isinstance(stops, list) or any(type(i) is not int for i in stops):
    raise ValueError("sampling_params.stop_token_ids: not a list of ids")
  if params.get("n") not in (None, 1):
    raise ValueError(
      "sampling_params.n: one request is one sample here; send n requests"
    )
  if params.get("min_p"):
    raise ValueError("sampling_params.min_p: only top_p and top_k are known")
  return params


def _check_numbers(params: dict[str, Any]) -> None:
  for name in (*_NUMBERS, *_COUNTS):
    value = params.get(name)
    kinds = (int,) if name in _COUNTS else (int, float)
    if value is not None and (
      type(value) not in kinds or not math.isfinite(value)
    ):
      raise ValueError(f"sampling_params.{name}: {value!r} is not a number")


def seeded(params: dict[str, Any]) -> dict[str, Any]:
  """Adds a random seed where none is given."""
  if params.get("sampling_seed") is not None:
    return params
  return {**params, "sampling_seed": secrets.randbelow(SEEDS)}


class Chat(OpenAIServingChat):
  """Honours `seed`, which SGLang-JAX reads and forgets."""

  def _build_sampling_params(
    self, request: Any, stop: Any, tool_call_constraint: Any
  ) -> dict[str, Any]:
    params = super()._build_sampling_params(request, stop, tool_call_constraint)
    return {**params, "sampling_seed": request.seed}


async def update_weights_from_disk(body: dict[str, Any]) -> JSONResponse:
  """Answers POST {"model_path": DIR, "weight_version": "3"}."""
  directory, version = body.get("model_path"), body.get("weight_version")
  if not isinstance(directory, str) or not directory:
    done = WeightsUpdated(message="model_path must name a checkpoint directory")
  elif version is not None and not isinstance(version, str):
    done = WeightsUpdated(message="weight_version must be a string")
  else:
    try:
      guard.check_root(directory)
    except SophiaError as e:
      done = WeightsUpdated(message=str(e))
    else:
      manager = http_server._global_state.tokenizer_manager
      done = await manager.update_weights(directory, version)
  return JSONResponse(
    {"success": done.success, "message": done.message},
    status_code=200 if done.success else 400,
  )


def add_routes() -> None:
  """Adds the weight update, and SGLang's (PyTorch) name for the model's info."""
  app = http_server.app
  app.add_api_route(
    "/update_weights_from_disk", update_weights_from_disk, methods=["POST"]
  )
  app.add_api_route("/model_info", http_server.get_model_info)
