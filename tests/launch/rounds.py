"""A workdir in which a tiny policy can begin its rounds."""

import dataclasses

import numpy as np

from sophia_jax.checkpoints import Format, save_params
from sophia_jax.files import write_jsonl
from sophia_jax.models import InternVL
from tests.rollout import little


def ready(workdir, head_dim=8, format=Format.HF, noise=0.0):
  """Makes a policy that says "A", "B" or nothing, and problems; "A" is right.

  Args:
    noise: spread of what the head has for the three. Without any it cannot tell
      them apart, and nothing is learnt unless the head is.
  """
  words = little.renderer(str(workdir / "models" / "words"), True)
  cfg = little.model(words).cfg
  decoder = dataclasses.replace(cfg.decoder, head_dim=head_dim)
  model = InternVL(dataclasses.replace(cfg, decoder=decoder))
  favourites = [*(words.encode(w)[0] for w in ("A", "B")), words.end_id]
  weights = little.indifferent(model, favourites)
  head = weights["language"]["head"]
  rng = np.random.default_rng(0)
  head[:, favourites] += rng.normal(0, noise, (len(head), 3)).astype("f")
  save_params(
    weights,
    model.cfg,
    workdir / "models" / "policy",
    workdir / "models" / "words",
    format=format,
  )
  images = workdir / "data" / "images"
  images.mkdir(parents=True)
  paths = [path.rpartition("data/")[2] for path in little.pictures(images)[:2]]
  rows = [
    {
      "id": f"p{i}",
      "question": "What do you see" + " paper" * (i % 3),
      "answer": "A",
      "answer_type": "choice",
      "choices": ["red", "ink"],
      "images": paths[i % 2 : i % 2 + 1] * (i % 3 > 0),
    }
    for i in range(10)
  ]
  write_jsonl(workdir / "data" / "problems.jsonl", rows)
  held_out = [{**row, "id": f"h{i}"} for i, row in enumerate(rows[:4])]
  write_jsonl(workdir / "data" / "heldout.jsonl", held_out)
  return workdir
