"""The file of responses: nothing is lost, nothing is taken for another."""

import json

import pytest

from sophia_jax.data.problems import asked_digest
from sophia_jax.evals.responses import Response, Responses
from sophia_jax.types import FinishReason, SophiaError
from tests.evals.answering import problem

SETTINGS = {"model": "ab12", "temperature": 1.0, "images": {"max_tiles": 12}}


@pytest.fixture
def path(tmp_path):
  return tmp_path / "evals" / "x.responses.jsonl"


def said(asked, sample=0, text="6"):
  return Response(
    id=asked.id,
    sample=sample,
    text=text,
    finish=FinishReason.STOP,
    tokens=2,
    asked=asked_digest(asked),
  )


def test_appended_responses_are_read_again(path):
  first, second = problem("a/1"), problem("a/2")
  hostile = said(first, 0, 'lone \ud800 "quote"\n\x00</script>')
  with Responses(path, SETTINGS) as responses:
    assert not responses.has(first, 0)
    responses.append(hostile)
    responses.append(said(first, 1, "again"))
    assert responses.read("a/1", 0) == hostile
  with Responses(path, SETTINGS) as responses:
    assert responses.has(first, 0) and responses.has(first, 1)
    assert not responses.has(first, 2) and not responses.has(second, 0)
    assert responses.read("a/1", 0) == hostile
  assert path.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_line_that_was_cut_short_is_not_there(path, cut):
  asked = problem("a/1")
  with Responses(path, SETTINGS) as responses:
    responses.append(said(asked, 0))
    whole = path.read_bytes()
    responses.append(said(asked, 1))
  path.write_bytes(path.read_bytes()[:-cut])
  with Responses(path, SETTINGS) as responses:
    assert path.read_bytes() == whole
    assert responses.has(asked, 0) and not responses.has(asked, 1)
    responses.append(said(asked, 1, "again"))
  with Responses(path, SETTINGS) as responses:
    assert responses.read("a/1", 1).text == "again"


def test_a_response_to_another_question_is_none(path, tmp_path):
  (tmp_path / "1.png").write_bytes(b"any bytes")
  asked = problem("a/1")
  with Responses(path, SETTINGS) as responses:
    responses.append(said(asked))
    for other in (
      problem("a/1", hint="Hint: a letter."),
      problem("a/1", images=(str(tmp_path / "1.png"),)),
      problem("a/1", choices=("x", "y")),
    ):
      assert not responses.has(other, 0)
      responses.append(said(other, 0, "newer"))
      assert responses.has(other, 0) and not responses.has(asked, 0)
      assert responses.read("a/1", 0).text == "newer"
    # A new gold answer asks nothing else.
    assert responses.has(problem("a/1", "7", choices=("x", "y")), 0)


def test_other_settings_are_refused(path):
  with Responses(path, SETTINGS) as responses:
    responses.append(said(problem("a/1")))
  with pytest.raises(
    SophiaError, match=r"made with temperature=1\.0, not 0\.0;"
  ):
    Responses(path, {**SETTINGS, "temperature": 0.0})
  with Responses(path, None) as responses:  # to mark it again
    assert responses.settings == SETTINGS


def test_settings_may_change_before_the_first_response(path):
  with Responses(path, SETTINGS):
    pass
  with Responses(path, {**SETTINGS, "temperature": 0.0}) as responses:
    assert responses.settings["temperature"] == 0.0


def test_one_writer(path):
  with (
    Responses(path, SETTINGS),
    pytest.raises(SophiaError, match="another process is writing it"),
  ):
    Responses(path, SETTINGS)
  with Responses(path, SETTINGS):
    pass


def test_nothing_to_mark_again(path):
  with pytest.raises(SophiaError, match=r"x.responses.jsonl: no responses yet"):
    Responses(path, None)
  assert not path.exists()


def test_a_broken_line_is_named(path):
  path.parent.mkdir()
  line = json.dumps({"id": "1", "sample": 0, "asked": "00"})
  for broken in ("[]", "{", '{"id": 1}', "\x00\x00"):
    path.write_text(f"{line}\n{broken}\n{line}\n")
    with pytest.raises(SophiaError, match=r"x.responses.jsonl:2: not a resp"):
      Responses(path, SETTINGS)


def test_a_flipped_bit_is_named(path):
  """Also one that leaves the line valid JSON: another answer."""
  asked = problem("a/1")
  with Responses(path, SETTINGS) as responses:
    responses.append(said(asked, 0, "It is 6."))
    responses.append(said(asked, 1, "It is 6."))
  whole = path.read_bytes()
  path.write_bytes(whole.replace(b"is 6", b"is 7", 1))
  with pytest.raises(SophiaError, match=r"jsonl:1: not a response; remove"):
    Responses(path, SETTINGS)
  path.write_bytes(whole)
  with Responses(path, SETTINGS) as responses:
    assert responses.has(asked, 0) and responses.has(asked, 1)
