"""From a config section to a frozen dataclass."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from configs import quickstart
from sophia_jax.config import defaults, nearest, section
from sophia_jax.types import SophiaError


@dataclasses.dataclass(frozen=True)
class Oven:
  name: str
  degrees: int = 180
  trays: tuple[str, ...] = ("upper", "lower")
  fan: bool = False

  def __post_init__(self):
    if self.degrees < 0:
      raise ValueError(f"degrees is negative: {self.degrees}")


def refusal(make):
  with pytest.raises(SophiaError) as error:
    make()
  message = str(error.value)
  assert "\n" not in message
  return message


def test_a_section_becomes_the_dataclass():
  values = ConfigDict({"name": "a", "trays": ["one"], "fan": True})
  assert section(Oven, values.to_dict(), "oven") == Oven(
    "a", trays=("one",), fan=True
  )


@pytest.mark.parametrize(
  ("key", "remedy"),
  [
    ("degree", "did you mean 'degrees'?"),
    ("tray", "did you mean 'trays'?"),
    ("nmae", "did you mean 'name'?"),
    ("microwave", "known: degrees, fan, name, trays"),
  ],
)
def test_a_misspelt_key_names_the_nearest(key, remedy):
  message = refusal(lambda: section(Oven, {"name": "a", key: 1}, "oven"))
  assert message == f"config.oven.{key}: no such key; {remedy}"
  assert nearest(key, ["name", "degrees", "trays", "fan"]) == remedy


def test_a_remedy_names_what_there_is():
  assert nearest("tray", iter(("oven", "fan"))) == "known: fan, oven"
  assert nearest("tray", ()) == "there are none"


def test_a_required_key_must_be_there():
  message = refusal(lambda: section(Oven, {"degrees": 200}, "oven"))
  assert message == "config.oven.name: must be set"


def test_a_value_that_the_dataclass_refuses():
  values = {"name": "a", "degrees": -1}
  message = refusal(lambda: section(Oven, values, "oven"))
  assert message == "config.oven: degrees is negative: -1"


def test_defaults_hold_every_key_that_has_one():
  assert defaults(Oven).to_dict() == {
    "degrees": 180,
    "trays": ("upper", "lower"),
    "fan": False,
  }
  changed = defaults(Oven, name="b", degrees=200)
  assert section(Oven, changed.to_dict(), "oven") == Oven("b", 200)


def test_defaults_of_a_misspelt_key():
  message = refusal(lambda: defaults(Oven, fna=True))
  assert message == "Oven.fna: no such key; did you mean 'fan'?"


def test_every_call_gives_a_new_config():
  one, two = quickstart.get_config(), quickstart.get_config()
  one.stages.sophia.train.learning_rate = 9.0
  assert two.stages.sophia.train.learning_rate != 9.0
