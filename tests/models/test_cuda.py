"""What a GPU would run, lowered for CUDA where there is none.

Shapes, segments, grouped heads, gradients, meshes and fallbacks are checked by
jax; nothing is compiled and nothing runs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax
import pytest

from sophia_jax.algorithms import registry
from sophia_jax.algorithms.contract import Moment
from sophia_jax.models import (
  DecoderConfig,
  InternVL,
  InternVLConfig,
  VisionConfig,
  kernels,
)
from sophia_jax.plans import aot
from sophia_jax.rollout import decoding
from sophia_jax.train import annotate, state
from sophia_jax.train.step import Step, Sums, scalars
from tests.models import on_cuda
from tests.models.test_kernels import OWN

CFG = InternVLConfig(
  vision=VisionConfig(width=128, depth=1, heads=2, mlp=128, image_size=28),
  decoder=DecoderConfig(
    vocab=128, width=128, depth=2, heads=4, kv_heads=2, mlp=128, head_dim=64
  ),
  image_token_id=3,
  remat="attention",
)
SHAPE = aot.Shape(rows=4, length=256, tiles=4, block=64, microbatches=1)
FORWARD = "__cudnn$fmhaSoftmax"
BACKWARD = "__cudnn$fmhaSoftmaxBackward"
PACKED = "PADDING_CAUSAL"
TRITON = "xla.gpu.triton"
MESHES = [{}, {"fsdp": 2, "tensor": 2}]
BOTH = pytest.mark.parametrize(
  "name, sizes",
  [("auto", MESHES[0]), ("auto", MESHES[1]), ("pallas", MESHES[1])],
)
"""Triton also computes batches of more segments than cuDNN's is compiled for."""


def assert_runs(name, text, backward):
  assert TRITON in text
  assert (PACKED in text) == (name == "auto")
  # The encoder's tiles are cuDNN's in any case.
  assert (BACKWARD in text) == backward


def shaped(mesh, *shape, dtype=jnp.bfloat16, axes=("fsdp", None, "tensor")):
  return on_cuda.placed(jax.ShapeDtypeStruct(shape, dtype), mesh, *axes)


def summed(function, *args):
  """The gradients of a sum by the first three arguments."""
  total = lambda *args: jnp.sum(function(*args), dtype=jnp.float32)
  return jax.grad(total, (0, 1, 2))(*args)


@pytest.mark.parametrize("width", [64, 128])
@BOTH
def test_packed_rows_with_grouped_heads(name, width, sizes):
  attend = functools.partial(kernels.attend, name)
  with on_cuda.mesh(**sizes) as mesh:
    q = shaped(mesh, 2, 256, 8, width)
    kv = shaped(mesh, 2, 256, 2, width)
    ids = shaped(mesh, 2, 256, dtype=jnp.int32, axes=("fsdp",))
    forward = on_cuda.lowered(attend, q, kv, kv, ids)
    backward = on_cuda.lowered(
      functools.partial(summed, attend), q, kv, kv, ids
    )
  assert_runs(name, forward, False)
  assert_runs(name, backward, name == "auto")


@pytest.mark.parametrize("sizes", MESHES)
def test_a_tile_is_attended_to_whole_without_padding(sizes):
  """448 x 448 pixels are 1,024 patches and [CLS]."""
  with on_cuda.mesh(**sizes) as mesh:
    tiles = shaped(mesh, 4, 1025, 2, 64, axes=(mesh.axis_names,))
    text = on_cuda.lowered(
      functools.partial(summed, kernels.attend_all), *(tiles,) * 3
    )
  assert FORWARD in text and BACKWARD in text
  assert "x1152x" not in text  # whole lanes of 128


@pytest.mark.parametrize(
  "dtype, length, width, runs, why",
  [
    (jnp.float32, 256, 64, "pallas", "float32 is neither"),
    (jnp.bfloat16, 200, 64, "xla", "200 tokens are no multiple of 128"),
    (jnp.bfloat16, 256, 96, "xla", "a head width of 96"),
  ],
)
def test_another_shape_has_another_kernel_and_one_line(
  dtype, length, width, runs, why, caplog
):
  kernels._log_once.cache_clear()
  attend = functools.partial(kernels.attend, "auto")
  with (
    on_cuda.mesh() as mesh,
    caplog.at_level("INFO", logger="sophia_jax"),
  ):
    q = shaped(mesh, 2, length, 4, width, dtype=dtype)
    ids = shaped(mesh, 2, length, dtype=jnp.int32, axes=("fsdp",))
    text = on_cuda.lowered(attend, q, q, q, ids)
  assert FORWARD not in text and (TRITON in text) == (runs == "pallas")
  assert len(caplog.records) == 1
  assert f"{runs} instead of cudnn: " in caplog.records[0].message
  assert why in caplog.records[0].message


@BOTH
def test_the_train_step(name, sizes):
  cfg = dataclasses.replace(CFG, attention=name)
  algorithm = registry.build("grpo", {})
  with on_cuda.mesh(**sizes) as mesh:
    step, begin, micro = training(cfg, algorithm, mesh)
    counts, (_, *others) = on_cuda.placed(
      jax.eval_shape(step.start, begin.params), mesh
    )
    text = on_cuda.lowered(
      step.accumulate,
      *(Sums(begin.params, *others), begin.params, begin.frozen),
      *(micro, counts, scalars(algorithm, Moment())),
    )
  assert_runs(name, text, True)


def training(cfg, algorithm, mesh):
  """The step, the shapes of its state and of a microbatch."""
  parts = "language", "projector", "vision"
  with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), ())):
    params = aot.placed_params(cfg, mesh, parts, "bfloat16")
  tx = optax.sgd(1e-3)
  begin = state.abstract(params, tx, parts)
  streams = sorted({*algorithm.all_streams} - {*algorithm.numbers})
  micro = aot.abstract_batch(cfg, streams, SHAPE, mesh)
  step = Step(InternVL(cfg), algorithm, tx, state.layout(begin), SHAPE.block)
  return step, begin, micro


@BOTH
def test_the_annotation(name, sizes):
  cfg = dataclasses.replace(CFG, attention=name)
  algorithm = registry.build("grpo", {})
  annotator = next(a for a in algorithm.annotate if a.score is not None)
  with on_cuda.mesh(**sizes) as mesh:
    _, begin, micro = training(cfg, algorithm, mesh)
    modules = tuple((m, InternVL(cfg)) for m in annotator.models)
    params = dict.fromkeys(annotator.models, begin.model_params)
    score = functools.partial(annotate._score, annotator, modules, SHAPE.block)
    text = on_cuda.lowered(score, params, micro)
  assert_runs(name, text, False)


@pytest.mark.parametrize("name", ["auto", "pallas"])
def test_the_engine(name):
  """It computes on one device: prompts by the kernel, a token without one."""
  cfg = dataclasses.replace(CFG, attention=name)
  with on_cuda.mesh() as mesh:
    _, begin, micro = training(cfg, registry.build("grpo", {}), mesh)
    params, model = begin.model_params, InternVL(cfg)
    slots = jax.eval_shape(lambda: decoding.empty(cfg, 4, 256))
    slots = on_cuda.placed(slots, mesh)
    ints = functools.partial(shaped, mesh, dtype=jnp.int32, axes=())
    prompts = on_cuda.lowered(
      functools.partial(decoding.prefill, model),
      *(params, micro.tokens, ints(4), micro.tile_slots),
      *(micro.tiles, micro.tile_places),
    )
    allowed = shaped(mesh, cfg.decoder.vocab, dtype=bool, axes=())
    decode = lambda *args: decoding.decode(model, *args, False, 4)
    tokens = on_cuda.lowered(decode, params, slots, allowed, ints())
  assert_runs(name, prompts, False)
  assert "cudnn" not in tokens and TRITON not in tokens


@OWN
@pytest.mark.parametrize("name", ["tokamax_mosaic", "tokamax_triton"])
def test_tokamaxs_kernels(name, monkeypatch):
  """It asks for the GPU of this process, which it is told is an H100."""
  from tokamax._src import gpu_utils

  yes = lambda device=None: True
  monkeypatch.setattr(kernels, "_has_gpu", yes)
  monkeypatch.setattr(gpu_utils, "_compute_capability", lambda device=None: 9.0)
  monkeypatch.setattr(gpu_utils, "has_mosaic_gpu_support", yes)
  monkeypatch.setattr(gpu_utils, "has_triton_support", yes)
  with on_cuda.mesh(fsdp=2, tensor=2) as mesh:
    q = shaped(mesh, 2, 256, 8, 128)
    kv = shaped(mesh, 2, 256, 2, 128)
    ids = shaped(mesh, 2, 256, dtype=jnp.int32, axes=("fsdp",))
    attend = functools.partial(kernels.attend, name)
    text = on_cuda.lowered(functools.partial(summed, attend), q, kv, kv, ids)
  call = "mosaic_gpu_v2" if name == "tokamax_mosaic" else TRITON
  assert call in text and "cudnn" not in text
