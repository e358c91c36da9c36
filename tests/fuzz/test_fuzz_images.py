"""Image files of every kind: read, or refused in one line; nothing is started."""

import io
import os
import random
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sophia_jax.data import images
from sophia_jax.types import SophiaError
from tests.fuzz.fuzzing import examples, one_line
from tests.fuzz.hostile import damaged

Image.init()
PLUGINS = sorted({*Image.OPEN, *Image.SAVE})
SAMPLES = {}
for _format in images.FORMATS:
  _file = io.BytesIO()
  Image.effect_noise((40, 30), 60).save(_file, _format)
  SAMPLES[_format] = _file.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("images") / "x.png"


def read(path):
  """Whatever reads an image agrees on it."""
  image = one_line(lambda: images.open_image(str(path)))
  if image is not None:
    assert image.mode == "RGB"
    assert images.image_size(str(path)) == image.size
  return image


@pytest.mark.parametrize("name", PLUGINS)
def test_every_plugin_of_pillow_is_read_or_refused(name, place):
  """By what is in the file, whatever its name says."""
  file = io.BytesIO()
  written = False
  if name in Image.SAVE:
    for mode in ("RGB", "L", "1"):
      try:
        Image.new(mode, (32, 32)).save(file, name)
        written = True
        break
      except (OSError, ValueError, KeyError, AttributeError, TypeError):
        file = io.BytesIO()
  if not written:
    pytest.skip("this build of Pillow cannot write it")
  place.write_bytes(file.getvalue())
  found = read(place)
  if found is not None:
    # A "MPO" is a JPEG with further pictures behind it.
    assert name in {*images.FORMATS, "DIB", "MPO"}
  else:
    assert name not in images.FORMATS


SCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
(/tmp/never-written) (w) file closefile
showpage
"""
HEADERS = {
  "postscript": SCRIPT,
  "dos-eps": b"\xc5\xd0\xd3\xc6" + b"\x1e\0\0\0" + b"\x40\0\0\0" + SCRIPT,
  "wmf": b"\xd7\xcd\xc6\x9a\0\0" + bytes(60),
  "emf": b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(60),
  "pdf": b"%PDF-1.4\n",
  "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
  "fits": b"SIMPLE  =                    T" + b" " * 2850,
  "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
}


@pytest.mark.parametrize("name", HEADERS)
def test_no_program_is_started(name, place, monkeypatch):
  def started(*args, **kwargs):
    raise AssertionError(f"{name} starts {args}")

  monkeypatch.setattr(subprocess, "Popen", started)
  monkeypatch.setattr(os, "system", started)
  place.write_bytes(HEADERS[name])
  assert read(place) is None


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder", "loop"])
def test_what_is_no_file_is_refused_before_it_is_opened(kind, tmp_path):
  """A FIFO would wait for a writer for ever."""
  path = tmp_path / "x.png"
  with socket.socket(socket.AF_UNIX) as server:
    if kind == "fifo":
      os.mkfifo(path)
    elif kind == "socket":
      server.bind(str(path))
    elif kind == "device":
      path.symlink_to("/dev/zero")
    elif kind == "folder":
      path.mkdir()
    else:
      path.symlink_to(path)
    refusals = []

    def ask():
      readers = (images.open_image, images.image_size, images.image_digest)
      for reader in (*readers, lambda p: cache(p, 1)):
        with pytest.raises(SophiaError, match=r"x\.png: cannot read"):
          reader(str(path))
        refusals.append(reader)

    cache = images.TileCache(images.ImageConfig())
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    assert len(refusals) == 4


@examples(60)
@given(data=st.data())
def test_damaged_images(data, place):
  name = data.draw(st.sampled_from(sorted(SAMPLES)))
  place.write_bytes(data.draw(damaged(SAMPLES[name])))
  image = read(place)
  if image is not None:
    assert np.asarray(image).nbytes <= 3 * images.MAX_PIXELS


BOUNDED = """
import resource, sys
from pathlib import Path
from sophia_jax.data import images
from sophia_jax.types import SophiaError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(Path(sys.argv[1]).iterdir()):
  try:
    images.open_image(str(path))
  except SophiaError:
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_header_asks_for_more_than_the_limit(tmp_path):
  """Sizes in headers are patched; what is decoded stays below MAX_PIXELS."""
  rng = random.Random(0)
  for name, whole in SAMPLES.items():
    for number in range(12):
      data = bytearray(whole)
      for _ in range(6):
        data[rng.randrange(8, 64)] = rng.choice([0x7F, 0xFF, 0x40])
      (tmp_path / f"{name}{number}").write_bytes(data)
  done = subprocess.run(
    [sys.executable, "-c", BOUNDED, str(tmp_path)],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    capture_output=True,
    text=True,
    check=False,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) < 8 * images.MAX_PIXELS >> 20
