"""The chat template of an export says which system prompt training had."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from sophia_jax.checkpoints import sidecars

ASKED = {"role": "user", "content": "What?"}
TURN = "<|im_start|>{}\n{}<|im_end|>\n"


def rendered(template, *messages):
  # As transformers compiles it.
  made = Environment(trim_blocks=True, lstrip_blocks=True)
  return made.from_string(template).render(messages=messages)


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_text_is_the_default_and_is_read_again(text):
  template = sidecars.with_system(sidecars.CHAT_TEMPLATE, text)
  assert rendered(template, ASKED) == (
    TURN.format("system", text) + TURN.format("user", "What?")
  )
  again = sidecars.with_system(template, "other")
  assert again == sidecars.with_system(sidecars.CHAT_TEMPLATE, "other")
  assert sidecars.with_system(template, "") == sidecars.CHAT_TEMPLATE


@pytest.mark.parametrize("text", ["Look.", '"}} {% x %} \\n\n你好 #}'])
def test_an_export_keeps_it(tmp_path, text):
  template = sidecars.with_system(sidecars.CHAT_TEMPLATE, text)
  assert sidecars.system_of(tmp_path) is None
  (tmp_path / sidecars.TEMPLATE).write_text(template, encoding="utf-8")
  assert sidecars.system_of(tmp_path) == text
  own = {"role": "system", "content": "Own."}
  assert rendered(template, own, ASKED) == (
    TURN.format("system", "Own.") + TURN.format("user", "What?")
  )
