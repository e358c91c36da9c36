"""Hidden views of images: on the device, on the host, and as PAPO learns them."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sophia_jax.algorithms.registry import build
from sophia_jax.algorithms.views import black_patches
from sophia_jax.data import hiding
from sophia_jax.data.images import ImageConfig, TileCache
from sophia_jax.types import Batch
from tests.train import rounds, toy

SETTINGS = {"n": 4, "kl": 0.0, "eta": 0.0}


def shown(draw, tiles):
  """A batch of tiles alone, and the view of it."""
  nothing = np.zeros((1, 4), np.int32)
  batch = Batch(
    tokens=nothing,
    targets=nothing,
    segment_ids=nothing,
    bundle_ids=nothing,
    positions=nothing,
    tile_slots=nothing,
    tiles=tiles,
    tile_places=np.zeros((len(tiles), 4), np.int32),
    streams={"draw": np.float32([[0, draw, draw, 0]])},
  )
  return np.asarray(black_patches(0.6)(batch, 7).tiles)


# -------------------------------------------------------------------- on a device
def test_whole_patches_are_black_and_the_others_as_they_were():
  tiles = toy.load_tiles("a", 40)
  found = shown(1, tiles)
  patches = lambda x: x.reshape(40, 4, 7, 4, 7, 3).swapaxes(2, 3)
  black = (patches(found) == 0).all(axis=(3, 4, 5))
  np.testing.assert_array_equal(patches(found)[~black], patches(tiles)[~black])
  assert found.dtype == np.uint8
  assert abs(black.mean() - 0.6) < 0.06  # 640 draws: three deviations
  assert len({b.tobytes() for b in black}) > 30


def test_an_image_has_one_draw_a_round_wherever_it_stands():
  a, b = toy.load_tiles("a", 2)
  one, other = shown(3, np.stack([a, b])), shown(3, np.stack([b, b, a]))
  np.testing.assert_array_equal(one[0], other[2])
  np.testing.assert_array_equal(one[1], other[0])
  assert (shown(4, np.stack([a, b])) != one).any()
  assert shown(3, np.zeros((0, 28, 28, 3), np.uint8)).shape[0] == 0


# ---------------------------------------------------------------------- on a host
def test_squares_are_hidden_before_an_image_is_resized(tmp_path):
  path = str(tmp_path / "wide:14.png")
  pixels = np.full((70, 140, 3), 200, np.uint8)
  Image.fromarray(pixels).save(path)
  image = Image.fromarray(pixels)
  name = hiding.name(path, 0.5, 14, 3)
  found = np.asarray(hiding.hidden(image, name))
  assert hiding.plain(name) == path == hiding.plain(path)
  cells = found.reshape(5, 14, 10, 14, 3).swapaxes(1, 2)
  means = cells.mean(axis=(2, 3, 4))
  assert set(means.ravel()) == {0.0, 200.0}
  other = np.asarray(hiding.hidden(image, hiding.name(path, 0.5, 14, 4)))
  assert (other != found).any()
  assert hiding.hidden(image, path) is image
  load = TileCache(ImageConfig(tile_size=28, max_tiles=4))
  whole, hidden = load(path, 3), load(name, 3)
  assert whole.shape == hidden.shape and whole.min() == 200
  assert 0.2 < (hidden < 100).mean() < 0.8
  np.testing.assert_array_equal(load(hiding.name(path, 0.0, 14, 3), 3), whole)


# --------------------------------------------------------------------------- PAPO
def samples(directory, draw=1):
  """Sequences as PAPO's credit gives them; every second one has an image."""
  made = []
  for s in rounds.samples(directory):
    mask = s.streams["mask"]
    streams = {
      "mask": mask,
      "weights": mask,
      "count": mask,
      "advantages": 0 * mask,
      "shown": mask * np.float32(sum(s.tiles) > 0),
      "draw": draw * mask,
    }
    made.append(dataclasses.replace(s, streams=streams))
  return made


def annotated(tmp_path, rounds_of, **settings):
  """Annotated sequences of (draw, order) each, by one program."""
  algorithm = build("papo", {**SETTINGS, **settings})
  mesh = toy.one_device()
  toy.fresh_params()
  reading = rounds.reading(mesh, algorithm.streams)
  found = []
  with rounds.session(tmp_path / "run", algorithm, mesh) as opened:
    for draw, order in rounds_of:
      sequences = samples(tmp_path, draw)
      asked = [sequences[i] for i in order]
      made = opened.annotate(asked, rounds.SHAPE, reading)
      found.append(sorted(made, key=lambda s: int(s.id)))
  return found


def gaps(made):
  """|log pi_view - log pi| of each sequence, and whether it has an image."""
  gap = lambda s: np.abs(s.streams["view_logps"] - s.streams["old_logps"])
  return [(gap(s).max(), bool(s.tiles)) for s in made]


ORDER = [7, 2, 11, 0, 5, 9, 1, 3, 10, 4, 8, 6]


@pytest.mark.parametrize("place", ["tile", "image"])
def test_rollouts_share_the_draw_of_their_image_in_any_packing(tmp_path, place):
  asked = ((1, range(12)), (1, ORDER), (2, range(12)))
  first, other, later = annotated(tmp_path, asked, place=place, patch=7)
  for gap, image in gaps(first):
    assert (gap > 1e-4) == image
  views = lambda made: [s.streams["view_logps"] for s in made]
  for one, two in zip(views(first), views(other)):
    np.testing.assert_allclose(one, two, atol=1e-5)
  changed = zip(views(first), views(later))
  assert any(np.abs(one - two).max() > 1e-4 for one, two in changed)


def test_a_view_that_hides_nothing_is_the_image_itself(tmp_path):
  [made] = annotated(tmp_path, ((1, range(12)),), hidden=0.0)
  assert {gap for gap, _ in gaps(made)} == {0.0}


def learnt(directory, updates, **settings):
  """Metrics of updates on one batch of samples whose advantages are 0."""
  algorithm = build("papo", {**SETTINGS, **settings})
  mesh = toy.one_device()
  toy.fresh_params()
  config = dataclasses.replace(rounds.CONFIG, trained=toy.ALL)
  with rounds.session(directory / "run", algorithm, mesh, config) as opened:
    made = opened.annotate(
      samples(directory), rounds.SHAPE, rounds.reading(mesh, algorithm.streams)
    )
    loader = rounds.loader(made, mesh, 1, updates, algorithm)
    found = []
    for batch in loader:
      opened.update(batch)
      found.append(opened.latest())
  return found


def test_gamma_parts_the_views_and_a_recomputed_view_begins_as_the_constant(
  tmp_path,
):
  constant = learnt(tmp_path / "a", 6, gamma=1.0)
  again = learnt(tmp_path / "b", 6, gamma=1.0, recompute=True, eta_view=0.01)
  for rows in (constant, again):
    kl = [row["actor/kl_prcp"] for row in rows]
    assert kl[-1] > 1.2 * kl[0] > 0
  for key in ("actor/kl_prcp", "actor/view_nll"):
    assert constant[0][key] == pytest.approx(again[0][key], rel=1e-4)
  assert constant[0]["grad_norm"] != pytest.approx(again[0]["grad_norm"], 1e-3)
  # A constant view stays; one with a gradient moves, up where it is likelier
  # than without a view and down elsewhere.
  still = {round(row["actor/view_nll"], 4) for row in constant}
  assert len(still) == 1
  moved = again[-1]["actor/view_nll"] - again[0]["actor/view_nll"]
  assert abs(moved) > 1e-3
