"""Changes that SGLang has no setting for, by its own registry of hooks."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sophia_jax.checkpoints import keys, read_config
from sophia_jax.checkpoints.reading import Reader
from sophia_jax.checkpoints.shards import Shards
from sophia_jax.models import InternVLConfig
from sophia_jax.serving import guard
from sophia_jax.types import SophiaError

PACKAGE = "sophia_jax.serving.sglang"
_FORMATS = (
  *(keys.Naming.CHAT, keys.Naming.CHAT_INTERNLM2),
  *(keys.Naming.QWEN_VL, keys.Naming.QWEN_VL_MEMORY),
)


def register() -> None:
  """Registers everything; SGLang applies it whenever a process starts."""
  os.environ["SGLANG_EXTERNAL_MODEL_PACKAGE"] = PACKAGE
  os.environ["SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE"] = PACKAGE
  for target, hook, kind in (
    (
      "sampling.sampling_batch_info.SamplingBatchInfo.from_schedule_batch",
      fill_seeds,
      HookType.AFTER,
    ),
    (
      "managers.tokenizer_manager.TokenizerManager._validate_one_request",
      check_ids,
      HookType.BEFORE,
    ),
    (
      "model_executor.model_runner_components.weight_updater.WeightUpdater."
      "update_weights_from_disk",
      check_update,
      HookType.AROUND,
    ),
  ):
    HookRegistry.register(f"sglang.srt.{target}", hook, kind)


def fill_seeds(info: Any, cls: Any, batch: Any, *args: Any) -> None:
  """Gives every row of a batch the seed of its request.

  SGLang itself does so only with --enable-deterministic-inference, which brings
  slower kernels that do not run on a CPU. A request without a seed draws one.
  """
  del cls, args
  for request in batch.reqs:
    if request.sampling_params.sampling_seed is None:
      request.sampling_params.sampling_seed = random.getrandbits(63)
  seeds = [request.sampling_params.sampling_seed for request in batch.reqs]
  info.sampling_seed = info.top_ks.long().new_tensor(seeds)


def check_ids(manager: Any, request: Any, input_ids: Any) -> None:
  """Refuses ids that would end the server when their embedding is looked up.

  Raises:
    ValueError: an id below 0 or beyond the vocabulary, or image tokens without
      images; SGLang answers with 400.
  """
  size = manager.model_config.vocab_size
  for place, i in enumerate(input_ids or ()):
    if not 0 <= i < size:
      raise ValueError(
        f"input_ids[{place}] is {i}; the vocabulary has 0 to {size - 1}"
      )
  image_id = getattr(manager.mm_processor, "img_context_token_id", None)
  if image_id in (input_ids or ()) and not request.contains_mm_input():
    raise ValueError(
      "input_ids have image tokens and image_data has no image; send both"
    )


def check_update(
  update: Callable[..., tuple[bool, str]],
  updater: Any,
  model_path: str,
  load_format: str,
  *args: Any,
  **kwargs: Any,
) -> tuple[bool, str]:
  """Looks at a checkpoint before any weight is overwritten.

  SGLang itself finds a damaged one half-way, rolls back by reading the same
  files again, and ends. Whatever format a request asks for, it is safetensors,
  never a pickle.
  """
  del load_format
  served = getattr(updater.get_model(), "served", None)
  try:
    guard.check_root(model_path)
    if served is not None:
      check_fits(model_path, served)
  except SophiaError as e:
    return False, str(e)
  return update(updater, model_path, "safetensors", *args, **kwargs)


def check_fits(directory: str, served: InternVLConfig) -> None:
  """Checks that the served model can take a checkpoint over.

  Raises:
    SophiaError: it cannot.
  """
  if read_config(directory) != served:
    raise SophiaError(
      f"{directory}: config.json describes another model than the one served; "
      "start another server for it"
    )
  shards = Shards(directory)
  if keys.detect(shards.tensors) not in _FORMATS:
    raise SophiaError(
      f"{directory}: not in the original format; python -m launch.convert "
      "--format=internvl_chat"
    )
  Reader(shards, served)
