"""InternVL and Qwen2.5-VL inside SGLang (PyTorch), doing as our own engine does.

`python -m sophia_jax.serving.sglang.main FLAGS` is `sglang.launch_server` with
this package in it; `launch.serve --backend=sglang` makes the environment and the
flags. A request has the form that `sophia_jax.serving.sglang_jax` describes for
SGLang-JAX.

SGLang looks here for models (SGLANG_EXTERNAL_MODEL_PACKAGE) and for processors
(SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE). None of these modules is imported outside
the server's own environment. Against the plain server:

- model.py: images come as uint8 tiles and are normalised in fp32; the embedding
  cache is emptied when weights change; InternLM2 weights load.
- processor.py: images are cut by `data.images`, and the prompt's own ids say
  where they go; nothing but inline images is opened.
- sampler.py: ids that no answer may hold are never drawn, and log-probabilities
  are the model's own.
- hooks.py: seeds without --enable-deterministic-inference, ids out of range and
  damaged checkpoints answered with 400.
"""
