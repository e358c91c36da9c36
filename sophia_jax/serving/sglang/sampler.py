"""Drawing tokens from what an answer may hold, with the model's own log p."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sglang.srt.layers.sampler import Sampler
from sglang.srt.runtime_context import get_model

from sophia_jax.checkpoints.config import CONFIG
from sophia_jax.checkpoints.shards import read_json
from sophia_jax.data.vocabulary import Vocabulary, open_tokenizer

_NEVER = -1e30  # SGLang's own value: it survives a division by the temperature


class ModelSampler(Sampler):
  """Draws as `rollout.sampling.draw`: masked, log-probabilities unmasked.

  Log-probabilities are at temperature 1 over the whole vocabulary, with
  SGLANG_RETURN_ORIGINAL_LOGPROB=1 in the environment.
  """

  def __init__(self) -> None:
    super().__init__()
    where = get_model().model_path
    self._words = Vocabulary(open_tokenizer(where), where)
    self._sees = "vision_config" in read_json(Path(where) / CONFIG)
    self._banned: Any = None

  def forward(
    self,
    logits_output: Any,
    sampling_info: Any,
    return_logprob: bool,
    *args: Any,
    **kwargs: Any,
  ) -> Any:
    logits = logits_output.next_token_logits
    if self._banned is None:
      ids = banned_ids(self._words, logits.shape[-1], self._sees)
      # On the device once and for all: a copy would hold up every step.
      self._banned = sampling_info.top_ks.long().new_tensor(ids)
    if return_logprob:
      kwargs["logprob_logits"] = logits.clone()
    logits.index_fill_(1, self._banned, _NEVER)
    return super().forward(
      logits_output, sampling_info, return_logprob, *args, **kwargs
    )


def banned_ids(words: Vocabulary, size: int, sees: bool) -> list[int]:
  """Returns the rows of a head of `size` rows that no answer holds.

  They are rows of no token, and special tokens except the end of a turn where the
  model sees images. A text-only model may end its turns with any of its special
  tokens.
  """
  marks = set(words.marks.values()) if sees else set()
  return sorted((marks - {words.end_id}) | set(range(len(words), size)))
