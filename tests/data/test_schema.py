"""The JSON Schema for editors: shipped, current, and no stricter than the check."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sophia_jax.data
from sophia_jax.data.schema import json_schema, record_errors, schema_of
from sophia_jax.datasets.__main__ import main

FOLDER = Path(sophia_jax.data.__file__).parent
KINDS = {
  "string": str,
  "number": (int, float),
  "integer": int,
  "array": list,
  "object": dict,
  "null": type(None),
}
VALUES = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-2, 30)
  | st.floats(allow_nan=False, allow_infinity=False)
  | st.sampled_from(["auto", "choice", "A", " ", "a\nb", "see <img>", "é"]),
  lambda x: (
    st.lists(x, max_size=3)
    | st.dictionaries(st.sampled_from(["level", "x"]), x, max_size=2)
  ),
)


def holds(schema, value):
  """Whether a value is valid, by the keywords that our schemas use."""
  if "anyOf" in schema:
    return any(holds(s, value) for s in schema["anyOf"])
  if "enum" in schema and value not in schema["enum"]:
    return False
  if "type" in schema:
    kinds = KINDS[schema["type"]]
    if not isinstance(value, kinds) or isinstance(value, bool):
      return False
  if isinstance(value, str):
    pattern = schema.get("pattern", "")
    banned = schema.get("not", {}).get("pattern", "$^")
    return bool(re.search(pattern, value)) and not re.search(banned, value)
  if isinstance(value, list):
    most, items = schema.get("maxItems", len(value)), schema.get("items", {})
    return len(value) <= most and all(holds(items, item) for item in value)
  if isinstance(value, dict):
    known, rest = schema.get("properties", {}), schema["additionalProperties"]
    return (
      set(schema.get("required", ())) <= set(value)
      and all(
        holds(known.get(key, rest or {}), item)
        for key, item in value.items()
        if rest is not False or key in known
      )
      and (rest is not False or set(value) <= set(known))
    )
  return value is None or value >= schema.get("minimum", value)


@pytest.mark.parametrize(
  ("name", "options"), [("problem", []), ("example", ["--examples"])]
)
def test_the_shipped_file_is_current(capsys, name, options):
  """python -m sophia_jax.datasets schema > sophia_jax/data/NAME.schema.json"""
  assert main(["schema", *options]) == 0
  shipped = (FOLDER / f"{name}.schema.json").read_text(encoding="utf-8")
  assert shipped == capsys.readouterr().out


@given(st.booleans(), st.data())
def test_what_the_check_takes_the_schema_takes(examples, data):
  keys = [*schema_of(examples), "anwser"]
  record = data.draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=5))
  last = "response" if examples else "answer"
  record = {"id": "1", "question": "Q", last: "A", **record}
  if not record_errors(record, examples):
    assert holds(json_schema(examples), record)


@pytest.mark.parametrize(
  "change",
  [
    {"anwser": "6"},
    {"answer": 6},
    {"answer": ""},
    {"id": "two\nlines"},
    {"question": "see <img>"},
    {"answer_type": "formula"},
    {"choices": "5, 6"},
    {"choices": ["x"] * 27},
    {"tolerance": [-1]},
    {"tags": {"level": 3}},
  ],
)
def test_what_an_editor_underlines(change):
  right = {"id": "1", "question": "Q", "answer": "6", "hint": None}
  assert holds(json_schema(), right)
  assert not holds(json_schema(), right | change)
  assert json.loads(json.dumps(json_schema())) == json_schema()


HUGE = [10**400, -(10**400), 1e308 * 10, "x" * 10**6, ["y"] * 10**5, {"z": 1}]


@pytest.mark.parametrize(
  "key", [*schema_of(False), *schema_of(True), "k" * 999]
)
@pytest.mark.parametrize("value", HUGE)
def test_a_refusal_is_short_whatever_it_quotes(key, value):
  for examples in (False, True):
    last = "response" if examples else "answer"
    record = {"id": "1", "question": "Q", last: "A", "choices": ["B"]}
    for error in record_errors({**record, key: value}, examples):
      assert len(error) < 300 and "\n" not in error
