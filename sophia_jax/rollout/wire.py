"""The HTTP form of requests and answers, the same for both SGLang servers.

Pure functions: dicts to send, and parsed JSON, which may hold anything, read into
plain values. The docstrings say what the servers get wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

from sophia_jax.types import Chat, FinishReason, Prompt, Sampling, SophiaError

T = TypeVar("T")

_SEEDS = 1 << 31
"""SGLang keeps a seed in 32 bits, signed."""

_NUMBER = re.compile("[0-9]{1,18}")

_LARGEST = 1e30
"""Bound of log-probabilities; JSON also brings NaN and huge integers."""

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class Trouble(Exception):
  """An attempt that failed in a way the next one need not."""


# --------------------------------------------------------------------- to send
def generate_body(
  prompt: Prompt, how: Sampling, end_id: int, images: Sequence[str]
) -> dict[str, Any]:
  """Returns a request of /generate, by exact token ids.

  Every request asks for log-probabilities and from the prompt's last token on:
  SGLang-JAX mixes up the lists of requests that ask differently, and repeats
  every entry after the 50th of those that leave the start out.

  Args:
    images: base64 of the files, as many as the prompt has.
  """
  body: dict[str, Any] = {
    "input_ids": prompt.token_ids.tolist(),
    "sampling_params": {
      **_sampling(how),
      "max_new_tokens": how.max_new_tokens,
      "sampling_seed": how.seed % _SEEDS,
      "stop_token_ids": [end_id],
      "no_stop_trim": True,
      "skip_special_tokens": False,
    },
    "return_logprob": True,
    "logprob_start_len": len(prompt) - 1,
  }
  if images:
    body["image_data"] = list(images)
  return body


def text_body(text: str) -> dict[str, Any]:
  """Returns a request of /generate for one token after `text`, as it is."""
  return {
    "text": text,
    "sampling_params": {"temperature": 0.0, "max_new_tokens": 1},
    "return_logprob": True,
    "logprob_start_len": 0,
  }


def scoring_body(ids: Sequence[int]) -> dict[str, Any]:
  """Returns a request of /generate for the log-probabilities of given ids.

  The servers answer with those of the prompt; one token more is the least.
  """
  return {
    "input_ids": [*ids],
    "sampling_params": {"temperature": 0.0, "max_new_tokens": 1},
    "return_logprob": True,
    "logprob_start_len": 0,
  }


def chat_body(
  chat: Chat, how: Sampling, model: str, images: Sequence[str] = ()
) -> dict[str, Any]:
  """Returns a request of /v1/chat/completions, rendered by the server.

  Args:
    images: data URLs of the images, as many as the question has.
  """
  content: Any = _whole(chat.text)
  if images:
    shown = [{"type": "image_url", "image_url": {"url": i}} for i in images]
    content = [*shown, {"type": "text", "text": content}]
  messages = [{"role": "user", "content": content}]
  if chat.system is not None:
    messages.insert(0, {"role": "system", "content": _whole(chat.system)})
  return {
    "model": model,
    "messages": messages,
    **_sampling(how),
    "max_tokens": how.max_new_tokens,
    "seed": how.seed % _SEEDS,
    # Thoughts stay in the text, between the marks the model wrote.
    "separate_reasoning": False,
  }


def _sampling(how: Sampling) -> dict[str, Any]:
  return {
    "temperature": how.temperature,
    "top_p": how.top_p,
    "top_k": how.top_k or -1,
  }


def _whole(text: str) -> str:
  """Removes lone surrogates, which no server's JSON parser takes."""
  return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ----------------------------------------------------------------- as received
class Generated(NamedTuple):
  """An answer of /generate."""

  ids: tuple[int, ...]
  logps: tuple[float, ...] | None
  reason: FinishReason
  versions: tuple[tuple[int, int], ...]
  """(weight version, tokens) of each stretch; () where the server has none."""


def read_generated(
  answer: Any, prompt_tokens: int, how: Sampling, vocab: int, where: str
) -> Generated:
  """Reads an answer of /generate.

  Ids come from the log-probability triples: `output_ids` loses special tokens,
  and repeats others where a character was cut. The log-probabilities are those
  of softmax(logits / temperature) before top-p and top-k, with greedy taken as
  temperature 1: at other temperatures log p at temperature 1 is not known.

  Args:
    vocab: ids there are.
    where: names request and server in errors.

  Raises:
    Trouble: not what a healthy server answers.
    SophiaError: the server read a prompt of another length.
  """
  meta = _field(answer, "meta_info", dict)
  reason = _finish(_field(_field(meta, "finish_reason", dict), "type", str))
  read = _field(meta, "prompt_tokens", int)
  if read != prompt_tokens:
    raise SophiaError(
      f"{where}: the server read a prompt of {read} tokens where ours has "
      f"{prompt_tokens}; it tiles or tokenizes in another way: serve the "
      "checkpoint of config.policy with `python -m launch.serve`"
    )
  triples = _field(meta, "output_token_logprobs", list)
  if not 0 < len(triples) <= how.max_new_tokens:
    raise Trouble(f"{len(triples)} tokens, asked for {how.max_new_tokens}")
  ids, logps = _tokens_of(triples)
  if max(ids) >= vocab:
    raise Trouble(f"id {max(ids)} is not one of {vocab}")
  return Generated(
    ids,
    logps if how.temperature in (0, 1) else None,
    reason,
    _versions(meta, len(ids)),
  )


def read_scored(
  answer: Any, ids: Sequence[int], count: int
) -> tuple[float, ...]:
  """Returns the log-probabilities of the last `count` ids of a scoring request.

  Raises:
    Trouble: not what a healthy server answers, or those of other ids.
  """
  meta = _field(answer, "meta_info", dict)
  triples = _field(meta, "input_token_logprobs", list)
  if not count:
    return ()
  if len(triples) < count:
    raise Trouble(f"{len(triples)} log-probabilities, asked for {count}")
  found, logps = _tokens_of(triples[-count:])
  if found != (*ids[-count:],):
    raise Trouble("log-probabilities of other ids than were sent")
  return logps


def _versions(meta: dict[str, Any], count: int) -> tuple[tuple[int, int], ...]:
  """Returns (version, tokens) of each stretch of an answer.

  A version that is no number was not given by us: such weights never change.
  """
  if "weight_versions" not in meta:
    whole = {"version": meta.get("weight_version"), "start": 0, "end": count}
    found = [whole]
  else:
    found = _field(meta, "weight_versions", list)
  stretches, at = [], 0
  for stretch in found:
    version = stretch.get("version") if isinstance(stretch, dict) else None
    if type(version) is not str or not _NUMBER.fullmatch(version):
      return ()
    start, end = (_field(stretch, key, int) for key in ("start", "end"))
    if start != at or end <= start:
      raise Trouble("weight_versions are not stretches of the answer")
    stretches.append((int(version), end - start))
    at = end
  if at != count:
    raise Trouble(f"weight_versions of {at} tokens, where there are {count}")
  return tuple(stretches)


def read_chat(answer: Any) -> tuple[str, FinishReason]:
  """Returns text and finish reason of an answer of /v1/chat/completions.

  A server that takes thoughts out of the text gets them put back in front.

  Raises:
    Trouble: not what a healthy server answers.
  """
  choices = _field(answer, "choices", list)
  if not choices:
    raise Trouble("no choices")
  reason = _finish(_field(choices[0], "finish_reason", str))
  message = _field(choices[0], "message", dict)
  text = _text(message, "content")
  thoughts = _text(message, "reasoning_content")
  if thoughts:
    return f"<think>\n{thoughts}\n</think>\n\n{text}", reason
  # A model may end its turn at once; that is a token, and no text.
  if not text and not _tokens(answer):
    raise Trouble("an empty text")
  return text, reason


def _tokens(answer: Any) -> int:
  usage = _field(answer, "usage", dict)
  return _field(usage, "completion_tokens", int)


def _text(message: dict[str, Any], key: str) -> str:
  return "" if message.get(key) is None else _field(message, key, str)


def _finish(name: str) -> FinishReason:
  if name not in _FINISH:
    raise Trouble(f"it ended by {name[:40]!r}")
  return _FINISH[name]


def _tokens_of(
  triples: list[Any],
) -> tuple[tuple[int, ...], tuple[float, ...]]:
  """Returns ids and log-probabilities, column by column: most of the time."""
  if set(map(type, triples)) != {list} or min(map(len, triples)) < 2:
    raise Trouble("output_token_logprobs holds no (logprob, id, text)")
  logps, ids = (tuple(map(itemgetter(i), triples)) for i in (0, 1))
  # Exact types: bool is an int to isinstance.
  numbers = set(map(type, logps)) <= {int, float}
  if not numbers or not all(-_LARGEST < logp < _LARGEST for logp in logps):
    raise Trouble("output_token_logprobs holds no log-probability")
  if set(map(type, ids)) != {int} or min(ids) < 0:
    raise Trouble("output_token_logprobs holds no token id")
  return ids, tuple(map(float, logps))


def _field(values: Any, key: str, kind: type[T]) -> T:
  """Returns values[key], which must be of exactly this type.

  Raises:
    Trouble: it is not.
  """
  found = values.get(key) if isinstance(values, dict) else None
  if type(found) is not kind:
    raise Trouble(f"no {key} in the answer, or not a {kind.__name__}")
  return found


def model_names(info: Any, models: Any) -> list[str]:
  """Returns the names of a server's model, the one for requests in front."""
  found = [card.get("id") for card in _cards(models)]
  if isinstance(info, dict):
    found += [info.get(key) for key in ("served_model_name", "model_path")]
  names = [name for name in found if isinstance(name, str) and name]
  return list(dict.fromkeys(names))


def context_length(models: Any) -> int | None:
  """Returns the most tokens of prompt and answer, None if it is hidden."""
  for card in _cards(models):
    if type(card.get("max_model_len")) is int:
      return card["max_model_len"]
  return None


def prompt_tokens(answer: Any) -> int:
  """Returns the number of tokens the server made of a prompt of /generate."""
  return _field(_field(answer, "meta_info", dict), "prompt_tokens", int)


def _cards(models: Any) -> list[dict[str, Any]]:
  cards = models.get("data") if isinstance(models, dict) else None
  if not isinstance(cards, list):
    return []
  return [card for card in cards if isinstance(card, dict)]
