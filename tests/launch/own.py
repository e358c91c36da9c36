"""What a new user brings: a small InternVL, a text-only reasoner and problems."""

from pathlib import Path

from sophia_jax.checkpoints import save_params
from sophia_jax.files import write_jsonl
from tests.launch.commands import overrides
from tests.rollout import little

CONFIG = "--config=tests/launch/own_config.py"


class Own:
  """A folder of a user: models, data, and the flags that name them."""

  def __init__(self, folder: Path):
    self.folder = folder
    self.policy, self.reasoner = folder / "vl", folder / "reasoner"
    self.problems, self.heldout = folder / "train.jsonl", folder / "test.jsonl"

  @property
  def flags(self):
    named = {
      "policy.path": self.policy,
      "reasoners.easy.path": self.reasoner,
      "data.problems": self.problems,
      "data.heldout": self.heldout,
    }
    return [CONFIG, *overrides(named)]


def make(folder):
  """Writes models that say "A", "B" or nothing, and problems; "A" is right."""
  own = Own(folder)
  for path, vision in ((own.policy, True), (own.reasoner, False)):
    source = folder / f"words of {path.name}"
    words = little.renderer(str(source), vision)
    model = little.model(words)
    favourites = [*(words.encode(w)[0] for w in ("A", "B")), words.end_id]
    weights = little.indifferent(model, favourites)
    save_params(weights, model.cfg, path, source)
  (folder / "images").mkdir()
  pictures = little.pictures(folder / "images")
  rows = [
    {
      "id": f"p{i}",
      "question": "What do you see" + " paper" * (i % 3),
      "answer": "A",
      "answer_type": "choice",
      "choices": ["red", "ink"],
      "images": [f"images/{Path(pictures[i % 2]).name}"],
    }
    for i in range(8)
  ]
  write_jsonl(own.problems, rows)
  write_jsonl(own.heldout, [row | {"id": f"h{row['id']}"} for row in rows[:4]])
  return own
