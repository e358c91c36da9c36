"""The half of CONTRIBUTING's rules on English that a program can check."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("sophia_jax", "launch", "configs", "benchmarks", "docs")
FIRST = re.compile(r"(Of|By|Whoever|Else|What)\b")
"""Words that begin no docstring."""
FIRST_OF_FIELDS = re.compile(r"(As|How|In|Which|Who|When|Where)\b")
"""Words that begin no doc of a field: it is a noun phrase."""
VERB = re.compile(r"[A-Z][a-z]+s\b(?! of\b)")
"""A capitalised verb in the third person, which "of" seldom follows."""
NOUNS = re.compile(
  r"(Bytes|Ids|Images|Items|Problems|Rows|Seconds|Sizes|Statistics|Texts|Tokens|"
  r"Verdicts)\b"
)
"""Nouns that look like such a verb."""
BANNED = re.compile(
  r"\b(mend(s|ed|ing)?|anew|whoever|whatsoever|likewise|hence|thereof|"
  r"but for|told|under way|comes? out else|"
  r"go(es|ing|ne)? on (with|from|in|to)|goes on|gone on|"
  r"of (itself|its own|theirs))\b",
  re.IGNORECASE,
)
"""Turns that readers stumble over, in docstrings and comments."""


def files():
  for room in ROOMS:
    for path in sorted((ROOT / room).rglob("*.py")):
      name = path.relative_to(ROOT).as_posix()
      yield name


def documented(tree):
  """(kind, line, text, node) of every docstring and doc of a field."""
  for node in ast.walk(tree):
    if isinstance(
      node,
      ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
    ):
      text = ast.get_docstring(node)
      if text:
        yield "docstring", getattr(node, "lineno", 1), text, node
    is_init = isinstance(node, ast.FunctionDef) and node.name == "__init__"
    if is_init or isinstance(node, ast.Module | ast.ClassDef):
      for before, after in zip(node.body, node.body[1:]):
        if isinstance(before, ast.Assign | ast.AnnAssign) and (
          isinstance(after, ast.Expr)
          and isinstance(after.value, ast.Constant)
          and isinstance(after.value.value, str)
        ):
          yield "field", after.lineno, after.value.value, before


def comments(text):
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string


def is_public_function(node):
  if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
    return False
  named = [ast.unparse(d).split("(")[0] for d in node.decorator_list]
  values = {"property", "functools.cached_property", "cached_property"}
  return not node.name.startswith("_") and not values & set(named)


def faults(name, text):
  """Yields "FILE:LINE: what" for every breach of the rules."""
  for kind, line, doc, node in documented(ast.parse(text)):
    start = f"{name}:{line}: {kind} {doc.splitlines()[0][:60]!r}"
    if FIRST.match(doc) or (kind == "field" and FIRST_OF_FIELDS.match(doc)):
      yield f"{start}: begins with {doc.split()[0]}"
    if is_public_function(node) and (NOUNS.match(doc) or not VERB.match(doc)):
      yield f"{start}: begins with no verb in the third person"
    if found := BANNED.search(" ".join(doc.split())):
      yield f"{start}: has {found[0]!r}"
  for line, comment in comments(text):
    if found := BANNED.search(comment):
      yield f"{name}:{line}: comment has {found[0]!r}"


def test_docstrings_and_comments():
  found = [
    fault
    for name in files()
    for fault in faults(name, (ROOT / name).read_text(encoding="utf-8"))
  ]
  assert not found, "\n".join(found)


@pytest.mark.parametrize(
  "text, said",
  [
    ('"""Of the run."""', "begins with Of"),
    ('class A:\n  """By length."""', "begins with By"),
    ('x = 1\n"""In seconds."""', "begins with In"),
    ('def f():\n  """The mean."""', "no verb"),
    ('def f():\n  """Tokens of a row."""', "no verb"),
    ('def f():\n  """Reads a file,\n  told apart by name."""', "has 'told'"),
    ("x = 1  # made anew", "comment has 'anew'"),
  ],
)
def test_a_breach_is_found(text, said):
  (found,) = faults("a.py", text)
  assert said in found


@pytest.mark.parametrize(
  "text",
  [
    '"""Statistics of a score."""',
    'x = 1\n"""Length of a row, tokens."""',
    'def f():\n  """Returns the mean."""',
    'def _f():\n  """The mean."""',
    'class A:\n  @property\n  def f(self):\n    """Mean of all."""',
    'text = "whoever is told"',
  ],
)
def test_what_keeps_the_rules_passes(text):
  assert not [*faults("a.py", text)]
