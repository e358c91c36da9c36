"""Small videos."""

from fractions import Fraction

import av
from PIL import Image

SIDE = 48


def write_video(path, greys, rate=10, codec="libx264", times=None, turn=None):
  """Writes a clip whose k-th frame is grey `greys[k]`."""
  with av.open(str(path), "w") as container:
    stream = container.add_stream(codec, rate=rate)
    stream.width = stream.height = SIDE
    stream.pix_fmt = "yuv420p"
    stream.time_base = Fraction(1, rate)
    for k, grey in enumerate(greys):
      image = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
      frame = av.VideoFrame.from_image(image)
      frame.pts = k if times is None else times[k]
      frame.time_base = Fraction(1, rate)
      container.mux(stream.encode(frame))
    container.mux(stream.encode())
  return path
