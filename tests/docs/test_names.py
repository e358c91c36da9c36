"""What the documentation names exists: files, functions, commands, targets."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

import pytest

from sophia_jax.runs.stage import read

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NAMED = ("README.md", "BUILD_NOTES.md", "CONTRIBUTING.md", "tests/README.md")
# The log tells what was there once.
PAGES = [
  *(ROOT / name for name in NAMED),
  *sorted(page for page in DOCS.rglob("*.md") if page != DOCS / "log.md"),
]
TOPS = "sophia_jax|launch|configs|tests|benchmarks|docs"
# `sophia_jax/data/problems.py` or `sophia_jax/data/problems.py:read_problems`
PLACE = re.compile(rf"`((?:{TOPS})/[\w/.-]+?\.\w+)(?::([\w.]+))?`")
# python -m launch.run --config=configs/quickstart.py
MODULE = re.compile(
  r"python -m ((?:sophia_jax|launch|benchmarks|docs)[\w.]*\w)"
)
CONFIG = re.compile(r"--config=(configs/[\w/]+\.py)")
TARGET = re.compile(r"(?:`|\n)make ([a-z-]+)\b")
# [text](docs/index.md): the strict build checks those inside docs/.
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def text(request):
  return request.param.read_text(encoding="utf-8")


@cache
def names_of(path: Path) -> frozenset[str]:
  """Returns functions, classes, methods and constants of a module."""
  found = set()

  def collect(body: list[ast.stmt], prefix: str) -> None:
    for node in body:
      if isinstance(
        node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
      ):
        found.add(prefix + node.name)
        if isinstance(node, ast.ClassDef):
          collect(node.body, f"{prefix}{node.name}.")
      targets = [node.target] if isinstance(node, ast.AnnAssign) else []
      if isinstance(node, ast.Assign):
        targets = node.targets
      found.update(prefix + t.id for t in targets if isinstance(t, ast.Name))

  collect(ast.parse(path.read_text(encoding="utf-8")).body, "")
  return frozenset(found)


def test_files_and_names_exist(text):
  for name, symbol in PLACE.findall(text):
    path = ROOT / name
    if "NAME" in path.name:  # what a guide asks the reader to add
      continue
    assert path.exists(), f"{name} is not there"
    if symbol:
      assert symbol in names_of(path), f"{name} has no {symbol}"


def test_commands_exist(text):
  for module in MODULE.findall(text):
    assert importlib.util.find_spec(module), f"python -m {module}"
  for config in CONFIG.findall(text):
    if "NAME" in config:
      continue
    assert (ROOT / config).is_file(), f"--config={config}"


def test_make_targets_exist(text):
  makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
  targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
  for target in TARGET.findall(text):
    assert target in targets, f"make {target}"


@pytest.mark.parametrize("name", ["README.md", "BUILD_NOTES.md"])
def test_links_from_outside_the_site_exist(name):
  for link in LINK.findall((ROOT / name).read_text(encoding="utf-8")):
    assert (ROOT / link).exists(), f"{name} links to {link}"


def test_the_config_of_the_guide_is_one():
  page = (DOCS / "guides" / "own-data.md").read_text(encoding="utf-8")
  (code,) = re.findall(r"```python\n(from configs.*?)```", page, re.DOTALL)
  names: dict = {}
  exec(code, names)
  config = names["get_config"]()
  assert [read(config, name).name for name in config.order] == ["sophia"]


def test_the_guide_types_what_a_new_user_does():
  """The walk of a new user is tested: tests/launch/test_one_sampling.py."""
  page = (DOCS / "guides" / "own-data.md").read_text(encoding="utf-8")
  _, _, part = page.partition("\n## Change a number, try again\n")
  (code, *_) = re.findall(r"```\n(python -m .*?)```", part, re.DOTALL)
  walk = ROOT / "tests" / "launch" / "test_one_sampling.py"
  tested = walk.read_text(encoding="utf-8")
  shown = set()
  for line in code.splitlines():
    module, *flags = line.removeprefix("python -m ").split()
    shown.add(module)
    for flag in flags:
      name = flag.partition("=")[0]
      assert f"{name}=" in tested or name in ("--config", "--workdir"), line
  assert shown == set(re.findall(r'"(launch\.\w+)"', tested))


def test_the_walkthrough_names_every_step():
  """Each row of the walk names a function where it stands."""
  page = (DOCS / "walkthrough.md").read_text(encoding="utf-8")
  rows = re.findall(r"^\| \d+ \|.*$", page, re.MULTILINE)
  assert len(rows) > 15
  for row in rows:
    assert any(symbol for _, symbol in PLACE.findall(row)), row
