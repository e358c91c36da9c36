"""The process that computes: model, sampler, and weights that change."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import Any

import jax
from flax import nnx
from sgl_jax.srt.layers.attention import native_backend
from sgl_jax.srt.layers.attention.native_backend import (
  forward_attention as native_attention,
)
from sgl_jax.srt.managers.io_struct import BaseReq
from sgl_jax.srt.managers.scheduler import Scheduler
from sgl_jax.srt.model_executor.model_runner import ModelRunner

from sophia_jax.serving.sglang_jax import checkpoint
from sophia_jax.serving.sglang_jax.attention import per_request
from sophia_jax.serving.sglang_jax.model import Reasoner
from sophia_jax.serving.sglang_jax.sampler import ModelSampler
from sophia_jax.types import SophiaError

IDLE_MS = 20
"""Longest sleep of an idle scheduler that no request wakes."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class UpdateWeights(BaseReq):
  """A message of the HTTP process: serve this checkpoint from now on."""

  model_path: str = ""


@dataclasses.dataclass
class WeightsUpdated(BaseReq):
  """The answer; `message` says why not, in one line."""

  success: bool = False
  message: str = ""
  unfinished: dict[str, int] = dataclasses.field(default_factory=dict)
  """Tokens drawn so far, by the rid of each request that waits to resume."""


class Runner(ModelRunner):
  """Attends and samples as suits the model it has loaded."""

  def load_model(self) -> None:
    super().load_model()
    if isinstance(self.model, Reasoner):
      native_backend.forward_attention = per_request(
        native_attention, self.model_config.context_len
      )
      path = self.model_config.model_path
      allowed = checkpoint.allowed_ids(path, self.model_config.vocab_size)
      rngs = nnx.Rngs(self.server_args.random_seed)
      self.sampler = ModelSampler(rngs, self.mesh, allowed)

  def swap(self, params: Any) -> None:
    """Serves `params` from the next step on; nothing is compiled again."""
    with jax.set_mesh(self.mesh):
      self.model.take(params)
    # The list is what the compiled step is called with, the model what images
    # and embeddings are computed with.
    leaves = jax.tree_util.tree_leaves(nnx.split(self.model)[1])
    self.model_state_leaves[:] = leaves


class ServingScheduler(Scheduler):
  """Takes new weights between requests, or while they are retracted.

  Sleeps while there are none.
  """

  # Scheduler's own, which is untyped.
  last_batch: Any
  running_batch: Any
  waiting_queue: Any

  def __init__(self, *args: Any, **kwargs: Any):
    super().__init__(*args, **kwargs)
    # The only table from a message's type to its handler.
    self._request_dispatcher._mapping.append(
      (UpdateWeights, self.update_weights)
    )

  def pause_generation(self, request: Any) -> None:
    """Retracts requests whose prompt was read in the last step as well.

    SGLang-JAX would forget them: they are in no queue until the next step.
    """
    if request.mode == "retract":
      self._merge_last_prefill()
    super().pause_generation(request)

  def _merge_last_prefill(self) -> None:
    """Does to the last batch what the next step would do first."""
    last = self.last_batch
    if not last:
      return
    excluded = self._prepare_chunked_reqs_to_exclude()
    if self.enable_overlap:
      self.process_batch_result(*self.result_queue.popleft())
    if last.forward_mode.is_extend():
      last.filter_batch(chunked_req_to_exclude=excluded)
      if not last.is_empty():
        if self.running_batch.is_empty():
          self.running_batch = last
        else:
          self.running_batch.merge_batch(last)
    self.last_batch = self.cur_batch = None

  def _can_flush_cache(self) -> tuple[bool, str]:
    """Tells whether no request holds cache memory; retracted ones do not."""
    if not self._engine_paused:
      return super()._can_flush_cache()
    waiting, self.waiting_queue = self.waiting_queue, []
    try:
      return super()._can_flush_cache()
    finally:
      self.waiting_queue = waiting

  def update_weights(self, request: UpdateWeights) -> WeightsUpdated:
    """Reads and checks all of a checkpoint before anything is replaced."""
    since = time.monotonic()
    idle, why = self._can_flush_cache()
    if not idle:
      return WeightsUpdated(
        message="requests are running; pause with mode retract, or ask again "
        f"once they have ended ({why})"
      )
    runner = self.tp_worker.get_model_runner()
    if not isinstance(runner.model, Reasoner):
      name = type(runner.model).__name__
      return WeightsUpdated(message=f"{name} takes no new weights")
    try:
      params = checkpoint.read(request.model_path, runner.model.cfg)
    except SophiaError as e:
      return WeightsUpdated(message=" ".join(str(e).split()))
    self.flush_cache()
    runner.swap(params)
    seconds = time.monotonic() - since
    _log.info("weights of %s in %.2f s", request.model_path, seconds)
    return WeightsUpdated(
      success=True,
      message=f"serving {request.model_path}, {seconds:.2f} s",
      unfinished={req.rid: len(req.output_ids) for req in self.waiting_queue},
    )

  def on_idle(self) -> None:
    super().on_idle()
    if self.is_fully_idle():
      self._sleep()

  def process_input_requests(self, recv_reqs: list[Any]) -> None:
    super().process_input_requests(recv_reqs)
    if self._engine_paused:
      self._sleep()

  def _sleep(self) -> None:
    """Waits for a message; the loop would take a whole core to do so."""
    if self.node_rank == 0:
      self.recv_from_tokenizer.poll(IDLE_MS)
