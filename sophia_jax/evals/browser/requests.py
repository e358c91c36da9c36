"""An answer as the request that samples it again, in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sophia_jax.evals.browser.table import Place
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.rollout.store import HEADER
from sophia_jax.rollout.world import request_name, seed_of
from sophia_jax.types import Group, Problem, Rollout

SAMPLING = {
  "caption": "captioning",
  "policy": "answering",
  "reasoner": "reasoning",
  "describer": "describing",
  "reader": "reading",
}


def request(place: Place, group: Group, rollout: Rollout) -> str:
  """Returns the JSON of a chat request with the prompt, the sampling and the seed
  of a rollout's first turn.

  Images are file URLs. A role whose prompt the store does not keep, such as a
  teacher's, is asked the problem's text.
  """
  meta = _meta(place.directory)
  prompts = meta.get("prompts", {})
  role = _role(group, rollout)
  name = request_name(role, rollout.problem_id, rollout.path)
  how = meta.get(SAMPLING.get(role, "teaching"), {})
  body = {
    "messages": _messages(role, prompts, group, rollout),
    "temperature": how.get("temperature", 1.0),
    "top_p": how.get("top_p", 1.0),
    "max_tokens": how.get("max_new_tokens"),
    "seed": seed_of(int(meta.get("seed", 0)), name, place.round),
    "logprobs": True,
    "user": name,
  }
  return json.dumps(body, ensure_ascii=False, indent=1)


def _role(group: Group, rollout: Rollout) -> str:
  own = group.children(rollout.path) and rollout.author == "policy"
  return "caption" if own else rollout.author


def _messages(
  role: str, prompts: Mapping[str, str], group: Group, rollout: Rollout
) -> list[dict[str, Any]]:
  problem = group.problem
  if role == "reasoner":
    parent = [r for r in group.rollouts if r.path == rollout.path[:-1]]
    seen = parent[0].completion.text if parent else ""
    text = Prompts(reasoning=prompts.get("reasoning", ""))
    return [{"role": "user", "content": text.reason(problem.text, seen)}]
  system = prompts.get("system" if role == "caption" else "slow_thinking", "")
  describes = role in ("caption", "captioner")
  asked = prompts.get("caption", "") if describes else problem.text
  turns = [{"role": "user", "content": _content(problem, asked)}]
  return [{"role": "system", "content": system}, *turns] if system else turns


def _content(problem: Problem, text: str) -> Sequence[dict[str, Any]]:
  images = [
    {"type": "image_url", "image_url": {"url": Path(path).absolute().as_uri()}}
    for path in problem.images
  ]
  return [*images, {"type": "text", "text": text}]


def _meta(directory: Path) -> Mapping[str, Any]:
  try:
    header = json.loads((directory / HEADER).read_text(encoding="utf-8"))
    return dict(header["meta"])
  except (OSError, ValueError, KeyError, TypeError):
    return {}
