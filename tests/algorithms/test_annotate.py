"""Annotators: which model sees what, and nothing outside of the mask."""

import dataclasses

import numpy as np

from sophia_jax.algorithms import annotate
from sophia_jax.algorithms.registry import build
from tests.algorithms import rows

ALGORITHM = build("grpo", {"n": 4})
BATCH = rows.laid_out(rows.learnt(ALGORITHM), ALGORITHM.streams)
MASK = np.asarray(BATCH.streams["mask"]) > 0


def score(annotator, seen=None):
  """The streams of BATCH; `seen` collects (model, outputs)."""

  def say(model, batch, outputs, view=None):
    if seen is not None:
      seen.append((model, outputs))
    shown = view(batch, 7) if view else batch
    return rows.say(rows.MODELS[model], shown)

  return annotator.score(say, BATCH)


def test_each_stream_is_of_its_model_and_0_outside_of_the_mask():
  for annotator, model in (
    (annotate.old_logps(), "policy"),
    (annotate.ref_logps(), "reference"),
  ):
    seen = []
    ((name, found),) = score(annotator, seen).items()
    assert (name,) == annotator.streams
    assert seen == [(model, ("logps",))] == [(*annotator.models, ("logps",))]
    want = np.asarray(rows.say(rows.MODELS[model], BATCH).logps)
    np.testing.assert_allclose(found, np.where(MASK, want, 0), rtol=1e-5)


def test_values_are_of_the_head_or_of_the_critic():
  for model in ("policy", "critic"):
    seen = []
    found = score(annotate.values(model), seen)["values"]
    assert seen == [(model, ("value",))]
    want = np.asarray(rows.MODELS[model]["value"])[np.asarray(BATCH.tokens)]
    np.testing.assert_allclose(found, np.where(MASK, want, 0), rtol=1e-5)


def test_a_view_is_shown_and_the_targets_stay():
  other = (np.asarray(BATCH.tokens) + 1) % rows.VOCAB
  view = lambda batch, patch: dataclasses.replace(batch, tokens=other)
  found = score(annotate.logps("view_logps", view=view))["view_logps"]
  want = rows.say(rows.MODELS["policy"], view(BATCH, 7)).logps
  np.testing.assert_allclose(found, np.where(MASK, want, 0), rtol=1e-5)
  plain = score(annotate.logps("view_logps"))["view_logps"]
  assert np.abs(np.asarray(found) - np.asarray(plain)).max() > 0.1


def test_whitening_one_token_or_equal_values_stays_finite():
  for count in (1, 3):
    mask = np.zeros((2, 4), np.float32)
    mask[0, :count] = 1
    streams = {"advantages": 2.0 * mask, "mask": mask}
    (made,) = annotate.whiten().across([streams], [np.ones((2, 4), int)])
    np.testing.assert_allclose(made["advantages"], 0, atol=1e-6)


def test_a_batch_of_padding_changes_nothing():
  algorithm = build("rloo", {"n": 4})
  sequences = rows.learnt(algorithm)
  full = rows.laid_out(sequences, algorithm.streams)
  empty = rows.laid_out([], algorithm.streams)
  (alone,) = rows.annotated(algorithm, [full])
  beside, padding = rows.annotated(algorithm, [full, empty])
  np.testing.assert_array_equal(
    alone.streams["advantages"], beside.streams["advantages"]
  )
  assert not np.asarray(padding.streams["advantages"]).any()
