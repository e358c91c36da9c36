"""Every flag and every override that a page types is one: names, keys, types."""

import inspect
import re
import runpy
import sys
from functools import cache
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict, config_flags

from docs.generate import config_files

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# The log tells what was there once.
PAGES = [
  *(ROOT / name for name in ("README.md", "BUILD_NOTES.md", "SECURITY.md")),
  *sorted(page for page in DOCS.rglob("*.md") if page != DOCS / "log.md"),
]
FENCE = re.compile(r"^ *```.*?\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")
COMMAND = re.compile(r"\b((?:launch|sophia_jax)\.[a-z_.]*[a-z_])((?: \S+)*)")
FLAG = re.compile(r"(?<![\w-])--(\w[\w.-]*)(?:=((?:'[^']*'|\"[^\"]*\"|\S)*))?")
# What a reader puts there: N, KEY, PROJECT, http://HOST:PORT.
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b|[<>$]")


def lines_of(text: str) -> list[str]:
  """Lists the lines of code of a page, continued ones joined."""
  blocks = FENCE.findall(text)
  spans = INLINE.findall(FENCE.sub("", text))
  joined = (re.sub(r" *\\\n\s*", " ", code) for code in blocks)
  lines = [line for code in joined for line in code.splitlines()]
  return [*lines, *(" ".join(span.split()) for span in spans)]


@cache
def known() -> dict[str, frozenset[str]]:
  """Reads the flags of every command from its --help in the reference."""
  page = (DOCS / "reference" / "cli.md").read_text("utf-8")
  found = {}
  for part in page.split("\n## `")[1:]:
    name, _, text = part.partition("`")
    listed = re.findall(r"^  --(\[no\])?([\w-]+)", text, re.MULTILINE)
    negated = {f"no{flag}" for no, flag in listed if no}
    found[name] = frozenset({flag for _, flag in listed} | negated | {"help"})
  return found


def typed(text: str):
  """Yields each command of a page: its name, and its flags with values."""
  for line in lines_of(text):
    for part in re.split(r" [&|#>] ?| && ", line):
      match = COMMAND.search(part)
      if match and (name := _section(*match.groups())):
        yield name, FLAG.findall(part[match.start() :])


def _section(module: str, rest: str) -> str:
  first = rest.split()[:1]
  names = (f"{module} {first[0]}" if first else "", module)
  return next((name for name in names if name in known()), "")


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def text(request):
  return request.param.read_text(encoding="utf-8")


def test_flags_are_of_their_command(text):
  for name, given in typed(text):
    for flag, _ in given:
      if not flag.startswith("config."):
        assert flag in known()[name], f"{name} --{flag}"


# -------------------------------------------------------------------- overrides
def overrides(text: str):
  """Yields (config file or None, key, value) of each override that is typed."""
  for line in lines_of(text):
    given = FLAG.findall(line)
    named = [ROOT / value for flag, value in given if flag == "config"]
    path = named[-1] if named and named[-1].is_file() else None
    for flag, value in given:
      key = flag.removeprefix("config.")
      if key != flag and key != "KEY":
        yield path, key, value.strip("\"'")


@cache
def config_of(path: Path) -> ConfigDict | None:
  get = runpy.run_path(str(path))["get_config"]
  # One that takes an argument is a variant of one that does not.
  return None if inspect.signature(get).parameters else get()


def holds(path: Path, key: str) -> bool:
  values = config_of(path)
  for part in key.split("."):
    if not isinstance(values, ConfigDict) or part not in values:
      return False
    values = values[part]
  return True


def parse(path: Path, key: str, value: str, monkeypatch) -> None:
  """Overrides a key as a command does."""
  argv = ["page", f"--config={path}", f"--config.{key}={value}"]
  monkeypatch.setattr(sys, "argv", argv)
  values = flags.FlagValues()
  config_flags.DEFINE_config_file("config", flag_values=values)
  values(argv)


def test_overrides_are_keys_of_their_config(text, monkeypatch):
  for path, key, value in overrides(text):
    found = [p for p in [path] if p] or config_files()
    path = next((p for p in found if holds(p, key)), None)
    assert path, f"--config.{key}: {found[0] if path else 'no config'} has none"
    if value and not PLACEHOLDER.search(value):
      parse(path, key, value, monkeypatch)
