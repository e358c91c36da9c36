"""The file of the tokens that are kept of a round."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sophia_jax.rollout import tokens
from sophia_jax.types import SophiaError

NAMES = st.text(st.characters(codec=None), max_size=9)
VALUES = st.floats(width=32)
ROLLOUTS = st.dictionaries(
  NAMES,
  st.lists(st.tuples(st.integers(0, 1 << 31), VALUES, VALUES), max_size=5),
  max_size=4,
)


def learnt(rows):
  ids, logps, others = zip(*rows) if rows else ((), (), ())
  values = {"logp": np.array(logps), "x": np.array(others)}
  return tokens.Learnt(token_ids=ids, values=values)


@settings(max_examples=30)
@given(ROLLOUTS)
def test_what_is_written_is_read(tmp_path_factory, rollouts):
  folder = tmp_path_factory.mktemp("round")
  tokens.write(folder, {name: learnt(rows) for name, rows in rollouts.items()})
  assert tokens.names(folder) == tuple(sorted(rollouts))
  for name, rows in rollouts.items():
    found = tokens.read(folder, name)
    wanted = learnt(rows)
    assert found.token_ids == wanted.token_ids
    for key, values in wanted.values.items():
      finite = np.where(np.isfinite(values), values, np.nan)
      np.testing.assert_allclose(found.values[key], finite, rtol=1e-5)
  assert tokens.read(folder, "another name") is None


def test_a_round_without_the_file_keeps_none(tmp_path):
  assert tokens.names(tmp_path) == ()
  assert tokens.read(tmp_path, "p1/0") is None


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("", 1),
    ("[]", 1),
    ("{", 1),
    ('{"rollouts": 3}', 1),
    ('{"rollouts": []}\n{', 2),
    ('{"rollouts": []}\n{"id": "a"}', 2),
    ('{"rollouts": []}\n{"id": "a", "token_ids": [1], "values": [1]}', 2),
    ('{"rollouts": []}\n{"id": "a", "token_ids": [Infinity], "values": {}}', 2),
    (
      '{"rollouts": []}\n{"id": "a", "token_ids": [1], "values": {"x": [1, 2]}}',
      2,
    ),
    (
      '{"rollouts": []}\n{"id": "a", "token_ids": [1], "values": {"x": ["<b>"]}}',
      2,
    ),
  ],
)
def test_a_damaged_file_is_named_with_its_line(tmp_path, text, line):
  (tmp_path / tokens.FILE).write_text(text)
  with pytest.raises(SophiaError, match=rf"{tokens.FILE}:{line}: not "):
    tokens.names(tmp_path)
    tokens.read(tmp_path, "a")
