"""The classes that SGLang-JAX serves: its Qwen2 layers, our tensors and encoder.

Qwen2, Qwen3, Llama and InternLM2 are one architecture; what differs is the bias
of q, k and v, their norms, and how a checkpoint names and fuses its tensors, which
our key table knows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from sgl_jax.srt.layers.logits_processor import LogitsProcessor
from sgl_jax.srt.models.qwen2 import Qwen2ForCausalLM
from sgl_jax.srt.models.qwen3 import QWen3Attention
from sgl_jax.srt.multimodal.common.modality_enum import Modality
from sgl_jax.srt.multimodal.in_model.interface import InModelMultimodalContract
from transformers import PretrainedConfig

from sophia_jax.models import Params, QwenVisionConfig
from sophia_jax.serving.sglang_jax import checkpoint
from sophia_jax.serving.sglang_jax.vision import Encoder, NativeEncoder
from sophia_jax.types import SophiaError


class RealLogits(LogitsProcessor):
  """Logits over a vocabulary that is padded: what no id has is impossible."""

  def __init__(self, padded: int, vocab: int, mesh: Mesh):
    super().__init__(padded, mesh=mesh)
    self._real = vocab

  def _get_logits(self, hidden_states: Array, lm_head: Any) -> Array:
    logits = super()._get_logits(hidden_states, lm_head)
    real = jax.sharding.reshard(
      jnp.arange(self.vocab_size) < self._real,
      NamedSharding(self.mesh, PartitionSpec("tensor")),
    )
    return jnp.where(real, logits, -jnp.inf)


class Reasoner(Qwen2ForCausalLM):
  """A text model: SGLang-JAX's decoder with the tensors of a checkpoint."""

  def __init__(
    self,
    config: PretrainedConfig,
    mesh: Mesh,
    dtype: Any = jnp.bfloat16,
  ):
    super().__init__(config, mesh, dtype)
    self.cfg = checkpoint.described(
      str(config.name_or_path), jnp.dtype(dtype).name
    )
    self.logits_processor = RealLogits(
      config.vocab_size, self.cfg.decoder.vocab, mesh
    )
    for i, layer in enumerate(self.model.layers):
      if self.cfg.decoder.qk_norm:
        layer.self_attn = self._normed_attention(i)
      elif not self.cfg.decoder.qkv_bias:
        for name in ("q_proj", "k_proj", "v_proj"):
          getattr(layer.self_attn, name).bias = None

  def _normed_attention(self, layer: int) -> QWen3Attention:
    """Makes what SGLang-JAX's Qwen3 has in the place of Qwen2's attention."""
    config = self.config
    return QWen3Attention(
      hidden_size=config.hidden_size,
      num_heads=config.num_attention_heads,
      # With its copies, where there are more devices than heads.
      num_kv_heads=config.num_key_value_heads,
      max_position_embeddings=config.max_position_embeddings,
      mesh=self.mesh,
      rope_theta=self.cfg.decoder.rope_theta,
      head_dim=config.head_dim,
      rms_norm_eps=self.cfg.decoder.norm_eps,
      layer_id=layer,
      dtype=self.dtype,
    )

  def load_weights(self, model_config: Any) -> None:
    """Reads a checkpoint and takes it; called once, at the start.

    Raises:
      SophiaError: the checkpoint is damaged, or its rotary angles would have to
        be stretched for so long a context.
    """
    limit = self.cfg.decoder.max_positions
    if self.cfg.decoder.rope_scaling and model_config.context_len > limit:
      raise SophiaError(
        f"{model_config.model_path}: a context of {model_config.context_len} "
        f"tokens stretches its rotary angles beyond {limit}, which this server "
        "does not do; lower the context length"
      )
    self.take(checkpoint.read(model_config.model_path, self.cfg))

  def take(self, params: Params) -> None:
    """Replaces its parameters by ours."""
    language = params["language"]
    self._rows(self.model.embed_tokens.embedding, language["embedding"])
    self._put(self.model.norm.scale, language["norm"]["scale"])
    if not self.cfg.decoder.tied_head:
      self._rows(self.lm_head.embedding, language["head"].T)
    for i, layer in enumerate(self.model.layers):
      ours = jax.tree.map(lambda x, i=i: x[i], language["layers"])
      self._put(layer.input_layernorm.scale, ours["attn_norm"]["scale"])
      self._put(layer.post_attention_layernorm.scale, ours["mlp_norm"]["scale"])
      for name in ("gate", "up", "down"):
        self._linear(getattr(layer.mlp, f"{name}_proj"), ours["mlp"][name])
      for name in "qkvo":
        linear = getattr(layer.self_attn, f"{name}_proj")
        part = ours["attn"][name]
        if name in "kv":
          part = jax.tree.map(self._copied, part)
        self._linear(linear, part)
      if self.cfg.decoder.qk_norm:
        for name in ("q_norm", "k_norm"):
          scale = getattr(layer.self_attn, name).scale
          self._put(scale, ours["attn"][name]["scale"])

  def _rows(self, variable: Any, array: Float[np.ndarray, "V D"]) -> None:
    """Adds rows of zeros for the padding: one row for each id."""
    missing = self.config.vocab_size - len(array)
    self._put(variable, np.pad(array, ((0, missing), (0, 0))), "tensor")

  def _linear(self, linear: Any, ours: Params) -> None:
    self._put(linear.weight, ours["kernel"], *linear.kernel_axes)
    if linear.bias is not None:
      self._put(linear.bias, ours["bias"], linear.kernel_axes[-1])

  def _copied(
    self, x: Float[np.ndarray, "... heads*H"]
  ) -> Float[np.ndarray, "... more*H"]:
    """Repeats key and value heads for each device that needs them."""
    d = self.cfg.decoder
    copies = self.config.num_key_value_heads // d.kv_heads
    heads = x.reshape(*x.shape[:-1], d.kv_heads, d.head_dim)
    return np.repeat(heads, copies, axis=-2).reshape(*x.shape[:-1], -1)

  def _put(self, variable: Any, array: np.ndarray, *axes: str | None) -> None:
    assert variable.value.shape == array.shape
    sharding = NamedSharding(self.mesh, PartitionSpec(*axes))
    variable.value = jax.device_put(np.ascontiguousarray(array), sharding)


class Policy(Reasoner, InModelMultimodalContract):
  """The same with our vision encoder and projector."""

  def __init__(
    self,
    config: PretrainedConfig,
    mesh: Mesh,
    dtype: Any = jnp.bfloat16,
  ):
    super().__init__(config, mesh, dtype)
    kind = Encoder
    if isinstance(self.cfg.vision, QwenVisionConfig):
      kind, self.mrope_position_axes = NativeEncoder, 3
    self.encoder = kind(self.cfg, mesh.devices)

  def __call__(
    self, forward_batch: Any, memory_pools: Any, logits_metadata: Any
  ) -> Any:
    """Does as SGLang-JAX's Qwen2, with positions of three axes where there are."""
    if forward_batch.mrope_positions is not None:
      forward_batch.positions = forward_batch.mrope_positions
    return super().__call__(forward_batch, memory_pools, logits_metadata)

  def take(self, params: Params) -> None:
    super().take(params)
    self.encoder.place(params)

  def get_input_embeddings(self) -> Callable[[Array], Array]:
    return self.model.embed_tokens

  def get_multimodal_encode_funcs(self) -> dict[Any, Callable[..., Array]]:
    return {Modality.IMAGE: self.encode_images}

  def encode_images(self, items: list[Any]) -> Float[Array, "capacity D"]:
    """Returns embeddings of the items' tiles, back to back, then padding."""
    rows = self.encoder([item.feature for item in items])
    return jax.device_put(rows, NamedSharding(self.mesh, PartitionSpec()))

  def get_multimodal_embedding_packed_capacities(self) -> tuple[int, ...]:
    return tuple(n * self.cfg.tokens_per_tile for n in self.encoder.buckets)

  def precompile_multimodal(self) -> None:
    self.encoder.precompile()
