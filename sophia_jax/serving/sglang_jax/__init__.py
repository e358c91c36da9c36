"""InternVL and Qwen2.5-VL inside SGLang-JAX, without a fork.

With it come our model classes, our images and new weights.

`python -m sophia_jax.serving.sglang_jax.main FLAGS` is `sgl_jax.launch_server` with our
model classes registered; `launch.serve` makes the environment and the flags.
The routes are those of `serving.guard`; what follows is what a client of the policy
relies on.

POST /generate, one request (every field may also be a list of B of them):

    {"rid": "mv-17/0",                          optional; for /abort_request
     "input_ids": [1, 7, 9, 9, 9, 9, 8, 5],     Renderer.prompt's, whole
     "image_data": ["<base64 of the file>"],    one per image, in their order;
                                                left out where there are none
     "sampling_params": {
       "temperature": 1.0, "top_p": 1.0, "top_k": -1,   -1: off
       "max_new_tokens": 1024, "min_new_tokens": 0,
       "stop_token_ids": [2], "no_stop_trim": true,
       "skip_special_tokens": false,
       "sampling_seed": 7},                     0 to 2**31 - 1
     "return_logprob": true,
     "logprob_start_len": 7}                    len(input_ids) - 1, always

input_ids hold the image tokens already expanded: `<img>`, P `<IMG_CONTEXT>` for
each tile, `</img>`; of Qwen2.5-VL `<|vision_start|>`, an `<|image_pad|>` for each
tile, `<|vision_end|>`. The length of the i-th such run says how many tiles the i-th
image has, thumbnail included; the server cuts the image into exactly that many
with `data.images`, as `load_tiles` does, or answers 400 naming both numbers.
An image is one of
  - base64 of an encoded file (PNG, JPEG, ...), bare or as a
    `data:image/png;base64,` URL;
  - {"tiles": base64 of raw uint8 [n, S, S, 3], "count": n}: tiles already cut,
    where a tile is a whole picture.
Paths, file:// and http(s):// URLs are refused with 400: a server that others
can reach opens nothing for them.

The answer, or a list of B of them:

    {"text": "...", "output_ids": [...],
     "meta_info": {"id": "mv-17/0", "prompt_tokens": 8, "completion_tokens": 4,
       "finish_reason": {"type": "stop" | "length" | "abort", ...},
       "output_token_logprobs": [[-0.1, 31, null], ...]}}

Token ids are read from output_token_logprobs, whose triples are (log-probability,
id, text); output_ids loses special tokens. A log-probability is log p(token) of the
model itself, at temperature 1 and over the full vocabulary, whatever temperature,
top_p and top_k it was drawn with. Ids that are not in the tokenizer are never drawn,
nor are special tokens but the end of a turn, as in the embedded engine. The noise is
keyed by sampling_seed (a random one where none is given; `seed` in a chat) and the
position, so an answer does not depend on what runs beside it.

An answer of 400 has {"error": {"message": "one line"}}: ids below 0 or beyond the
vocabulary (one bad request of a list refuses the list), images and placeholders
that do not fit, an image that cannot be read or is too large, a prompt with
max_new_tokens that does not fit into the context, a sampling parameter that is
unknown or no sensible number, n other than 1 (send n requests), min_p.

Every answer's meta_info also has "weight_versions", [{"version": "3", "start": 0,
"end": 4}], and "weight_version", the last of them. A server starts with version "0".

POST /update_weights_from_disk {"model_path": "DIR", "weight_version": "4"} ->
{"success", "message"}: the checkpoint DIR, of the same shapes, answers from the next
request on; nothing is compiled again. It waits for no request: those that are in
flight are retracted before, by /pause_generation {"mode": "retract"}, and resume
with the new weights after /continue_generation. 400 with one line, and the old
weights keep serving, if DIR is damaged, of another shape, holds NaN or lies
elsewhere than below `serve.weights`, or while requests are running. Image and prefix
caches are emptied with it.
"""
