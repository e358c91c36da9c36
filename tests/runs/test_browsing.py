"""Workdirs as the browser takes them."""

import pytest

from sophia_jax.runs.browsing import Workdir
from sophia_jax.types import SophiaError
from tests.evals.browser import browsed


def test_stores_are_named_by_their_stages(tmp_path):
  sophia = Workdir(str(browsed.sophia_run(tmp_path / "s")), "a")
  (place,) = sophia.places()
  assert (place.name, place.stage) == ("a/trajectories", "sophia")
  assert dict(place.facts)["alpha"] == "0.7"
  assert place.data == tmp_path / "s" / "data" / "problems.jsonl"
  assert not place.rounds
  grpo = Workdir(str(browsed.grpo_run(tmp_path / "g")), "b")
  places = list(grpo.places())
  assert [p.name for p in places] == ["b/rounds/000000", "b/rounds/000001"]
  assert [(p.stage, p.round) for p in places] == [("grpo", 0), ("grpo", 1)]
  assert all(p.rounds for p in places)
  assert list(grpo.metrics()) == ["grpo"]


def test_a_config_of_another_version_costs_the_selection_only(tmp_path):
  workdir = browsed.sophia_run(tmp_path / "s")
  config = workdir / "config.json"
  text = config.read_text().replace('"alpha"', '"another"')
  config.write_text(text)
  found = Workdir(str(workdir), "a")
  (place,) = found.places()
  assert place.algorithm is None and "no selection of sophia" in found.notes[0]
  config.write_text("{")
  found = Workdir(str(workdir), "a")
  assert [p.directory for p in found.places()] == [workdir / "trajectories"]
  assert len(found.notes) == 1
  config.unlink()
  assert len(list(Workdir(str(workdir), "a").places())) == 1


def test_what_is_no_workdir_is_refused(tmp_path):
  with pytest.raises(SophiaError, match="no such workdir"):
    Workdir(str(tmp_path / "absent"), "a")
  with pytest.raises(SophiaError, match="nor a store there"):
    Workdir(str(tmp_path), "a")
