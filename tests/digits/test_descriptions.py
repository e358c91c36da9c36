"""Files of descriptions: readable, of other images each, true to their scenes."""

from sophia_jax.data.problems import load_examples, load_problems
from sophia_jax.digits import descriptions
from sophia_jax.digits.descriptions import DescriptionConfig
from sophia_jax.rewards import facts
from sophia_jax.rewards.facts import RIGHT

SIZES = DescriptionConfig(examples=4, labelled=3, problems=5, heldout=2)


def test_files_are_read_and_share_no_image(tmp_path):
  descriptions.write(tmp_path, SIZES, 0.2, "Look.", 0)
  examples = load_examples(tmp_path / "described.jsonl")
  files = {
    name: load_problems(tmp_path / f"{name}.jsonl")
    for name in ("labelled", "descriptions", "descriptions_heldout")
  }
  assert len(examples) == 4 and [*map(len, files.values())] == [3, 5, 2]
  problems = [p for each in files.values() for p in each]
  pixels = set()
  for row in (*examples, *problems):
    (image,) = row.images
    with open(image, "rb") as file:
      pixels.add(file.read())
    assert row.question == descriptions.QUESTION
  assert len(pixels) == 14
  assert all(example.system == "Look." for example in examples)
  for problem in problems:
    scene = facts.scene(problem)
    assert facts.labels(problem.answer, scene) == (RIGHT,) * 3
  first = (tmp_path / "descriptions.jsonl").read_bytes()
  again = tmp_path / "again"
  descriptions.write(again, SIZES, 0.2, "Look.", 0)
  assert (again / "descriptions.jsonl").read_bytes() == first


def test_a_share_of_an_examples_facts_is_random(tmp_path):
  sizes = DescriptionConfig(
    examples=60, labelled=0, problems=0, heldout=0, noise=0.5
  )
  descriptions.write(tmp_path, sizes, 0.2, "Look.", 0)
  true = DescriptionConfig(examples=60, labelled=0, problems=0, heldout=0)
  descriptions.write(tmp_path / "true", true, 0.2, "Look.", 0)
  told, plain = (
    [e.response for e in load_examples(path / "described.jsonl")]
    for path in (tmp_path, tmp_path / "true")
  )
  assert sum(a != b for a, b in zip(told, plain)) > 48
  assert all(len(facts.stated(text)) in (5, 6) for text in told)
