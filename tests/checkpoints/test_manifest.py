"""The seal of a directory, and what is no seal."""

import json

import pytest

from sophia_jax.checkpoints import manifest


@pytest.mark.parametrize(
  "entry", ["x" * 5000, None, 1.5, True, [], ["3", ""], [3, 3], [3, "", 1], {}]
)
def test_a_seal_of_another_form_is_damage(entry, tmp_path):
  (tmp_path / "a").write_text("abc")
  manifest.seal(tmp_path)
  assert manifest.damage(tmp_path, whole=True) is None
  (tmp_path / manifest.NAME).write_text(json.dumps({"a": entry}))
  assert manifest.damage(tmp_path) == f"{manifest.NAME} is damaged"


def test_names_are_shown_in_short(tmp_path):
  (tmp_path / manifest.NAME).write_text(json.dumps({"x" * 5000: 3}))
  assert len(manifest.damage(tmp_path)) < 200
