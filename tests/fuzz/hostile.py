"""Generated corpora: damaged bytes and values of other types."""

from hypothesis import strategies as st

HUGE = int("9" * 400)
DEEP = "[" * 5000 + "]" * 5000

SCALARS = st.one_of(
  st.none(),
  st.booleans(),
  st.integers(-3, 3),
  st.sampled_from([HUGE, -HUGE, 1 << 63, 2**31]),
  st.floats(),
  st.text(max_size=8),
  st.sampled_from(["\ud800", "\x00", "x" * 5000, "../../evil", "nan"]),
)
VALUES = st.recursive(
  SCALARS,
  lambda inner: st.one_of(
    st.lists(inner, max_size=3),
    st.dictionaries(st.text(max_size=6), inner, max_size=3),
  ),
  max_leaves=6,
)


@st.composite
def damaged(draw, whole):
  """Bytes of `whole` with bits flipped, cut, repeated or replaced."""
  data = bytearray(whole)
  for _ in range(draw(st.integers(0, 4))):
    if not data:
      break
    at = draw(st.integers(0, len(data) - 1))
    kind = draw(st.sampled_from(["flip", "cut", "drop", "copy", "noise"]))
    if kind == "flip":
      data[at] ^= 1 << draw(st.integers(0, 7))
    elif kind == "cut":
      del data[at:]
    elif kind == "drop":
      del data[at : at + draw(st.integers(1, 64))]
    elif kind == "copy":
      data[at:at] = data[at : at + 32] * draw(st.integers(1, 8))
    else:
      data[at : at + 8] = draw(st.binary(min_size=8, max_size=8))
  return bytes(data)


@st.composite
def changed(draw, value):
  """A JSON value in which one place has another value, or is not there."""
  if isinstance(value, dict) and value and draw(st.integers(0, 9)):
    key = draw(st.sampled_from(sorted(value)))
    made = dict(value)
    if draw(st.integers(0, 5)) == 0:
      del made[key]
    else:
      made[key] = draw(changed(value[key]))
    return made
  return draw(VALUES)
