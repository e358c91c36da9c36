"""The compiler for TPUs must be the one that the installed jax takes."""

from importlib.metadata import PackageNotFoundError, version

import pytest

from sophia_jax.plans import aot
from sophia_jax.types import SophiaError


@pytest.mark.parametrize("installed", [None, "0.0.1", "0.0.420"])
def test_another_libtpu_is_refused_in_one_line(monkeypatch, installed):
  def of(name):
    if name != "libtpu":
      return version(name)
    if installed is None:
      raise PackageNotFoundError(name)
    return installed

  monkeypatch.setattr(aot, "version", of)
  with pytest.raises(SophiaError) as error:
    aot.check_libtpu("--topology=v5p:2x2x1")
  assert f'pip install "jax[tpu]=={version("jax")}"' in str(error.value)
  assert "\n" not in str(error.value)


def test_the_one_of_the_extra_is_taken(monkeypatch):
  pin = "libtpu==0.0.42.*; extra == 'tpu'"
  monkeypatch.setattr(aot, "requires", lambda name: ["x", pin])
  of = {"jax": "0.10.2", "libtpu": "0.0.42.1"}
  monkeypatch.setattr(aot, "version", of.__getitem__)
  aot.check_libtpu("--topology=v5p:2x2x1")
