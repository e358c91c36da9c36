"""SGLang-JAX with our models: python -m sophia_jax.serving.sglang_jax.main FLAGS.

The flags are those of `sgl_jax.launch_server`. Registration happens on import,
because the scheduler is a spawned process that imports this module again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from typing import Any

import psutil
from sgl_jax.srt import server_args
from sgl_jax.srt.configs import model_config
from sgl_jax.srt.entrypoints import engine, http_server
from sgl_jax.srt.hf_transformers_utils import (
  attach_additional_stop_token_ids,
  get_config,
  get_tokenizer,
)
from sgl_jax.srt.managers import (
  detokenizer_manager,
  scheduler,
  scheduler_output_processor_mixin,
  tokenizer_manager,
  tp_worker,
)
from sgl_jax.srt.models.registry import ModelRegistry
from sgl_jax.srt.multimodal.manager import multimodal_processor

from sophia_jax.data.vocabulary import open_tokenizer
from sophia_jax.serving import guard
from sophia_jax.serving.sglang_jax import frontend
from sophia_jax.serving.sglang_jax.checkpoint import (
  POLICY,
  REASONER,
  is_ours,
  served_config,
)
from sophia_jax.serving.sglang_jax.model import Policy, Reasoner
from sophia_jax.serving.sglang_jax.processor import Processor
from sophia_jax.serving.sglang_jax.scheduler import Runner, ServingScheduler

_log = logging.getLogger(__name__)


def read_config(model: str, *args: Any, **kwargs: Any) -> Any:
  """Returns a checkpoint's config: ours, or SGLang-JAX's for other models."""
  if is_ours(model):
    return served_config(model)
  return get_config(model, *args, **kwargs)


def read_tokenizer(model: str, *args: Any, **kwargs: Any) -> Any:
  """Returns our renderer's tokenizer, or SGLang-JAX's for other models."""
  if not is_ours(model):
    return get_tokenizer(model, *args, **kwargs)
  tokenizer = open_tokenizer(model)
  attach_additional_stop_token_ids(tokenizer)
  return tokenizer


def register() -> None:
  """Puts ours in the places where SGLang-JAX looks its parts up."""
  ModelRegistry.models[POLICY] = Policy
  ModelRegistry.models[REASONER] = Reasoner
  multimodal_processor.PROCESSOR_MAPPING[POLICY] = Processor
  model_config.get_config = read_config
  server_args.get_config = read_config
  for module in (tokenizer_manager, scheduler, detokenizer_manager):
    module.get_tokenizer = read_tokenizer
  # Our image processor needs nothing but the tokenizer.
  tokenizer_manager.get_processor = read_tokenizer
  tp_worker.ModelRunner = Runner
  scheduler.Scheduler = ServingScheduler
  engine.TokenizerManager = frontend.Frontend
  http_server.OpenAIServingChat = frontend.Chat
  # Every 50th token a request that does not stream would hand out a part, whose
  # ids and log-probabilities then come twice.
  scheduler_output_processor_mixin.DEFAULT_FORCE_STREAM_INTERVAL = 1 << 30


def end_with_children() -> None:
  """Ends this process once one that it has spawned is gone; never returns.

  SGLang-JAX notices a scheduler that fails, not one that is killed, and would
  take requests that are never answered.
  """
  while True:
    for child in multiprocessing.active_children():
      # Its own SIGCHLD handler has reaped it, so multiprocessing cannot tell.
      if not psutil.pid_exists(child.pid or 0):
        _log.error("Error: %s is gone, process %s", child.name, child.pid)
        os._exit(1)
    time.sleep(1.0)


register()

if __name__ == "__main__":
  from sgl_jax.launch_server import main

  frontend.add_routes()
  threading.Thread(target=end_with_children, daemon=True).start()
  guard.install(http_server.app)
  main()
