"""Who may import whom: the table of CONTRIBUTING.md, held to the source."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("sophia_jax", "launch", "configs")
FILES = sorted(path for top in OURS for path in (ROOT / top).rglob("*.py"))


def table() -> dict[str, set[str]]:
  """Package -> the packages it may import besides itself."""
  text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
  section = re.split("\n## ", text.split("## Who may import whom")[1])[0]
  rows = re.findall(r"^\| ([a-z, ]+) \| ([a-z, ]+) \|$", section, re.M)[1:]
  allowed: dict[str, set[str]] = {}
  for packages, targets in rows:
    for package in packages.split(", "):
      assert package not in allowed, f"{package} twice"
      allowed[package] = set(targets.split(", "))
  everything = set(allowed)
  names = {"all": everything, "nothing": set()}
  return {
    package: set().union(*(names.get(t, {t}) for t in targets))
    | ({"progress", "stopping"} if package != "types" else set())
    for package, targets in allowed.items()
  }


def module_of(path: Path) -> str:
  parts = path.relative_to(ROOT).with_suffix("").parts
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def imported(path: Path) -> set[str]:
  """Modules that a file imports anywhere, by their full names."""
  found = set()
  for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level and node.module, f"{path}: a relative import"
      for alias in node.names:
        whole = f"{node.module}.{alias.name}"
        found.add(whole if whole in MODULES else node.module)
  return found


def package_of(module: str) -> str | None:
  """The row of the table a module belongs to; None if it is not ours."""
  top, _, rest = module.partition(".")
  if top not in OURS:
    return None
  return rest.partition(".")[0] if top == "sophia_jax" and rest else top


def test_every_package_has_its_row():
  assert {package_of(m) for m in MODULES} - {"sophia_jax"} == set(table())


@pytest.mark.parametrize("module", MODULES)
def test_imports_keep_to_the_table(module):
  package = package_of(module)
  if package == "sophia_jax":  # its __init__ says what transformers may print
    assert imported(MODULES[module]) <= {"os"}
    return
  allowed = table()[package] | {package}
  for name in imported(MODULES[module]):
    target = package_of(name)
    assert target is None or target in allowed, f"{module} imports {name}"


def test_no_module_imports_itself_in_a_circle():
  graph = {
    module: imported(path) & MODULES.keys() - {module}
    for module, path in MODULES.items()
  }
  graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_packages_form_no_circle_either():
  graph: dict[str, set[str]] = {}
  for module, path in MODULES.items():
    targets = {package_of(name) for name in imported(path)} - {None}
    graph.setdefault(package_of(module), set()).update(targets)
  graph = {p: targets - {p} for p, targets in graph.items()}
  graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_nowhere(module):
  names = {name.partition(".")[0] for name in imported(MODULES[module])}
  assert not names & {"torch", "torchvision", "tensorflow"}


def test_no_command_waits_for_what_it_may_never_need():
  """torch comes with libraries that use it where they find it: two seconds."""
  commands = [module for module in MODULES if module.startswith("launch.")]
  code = f"import sys, {', '.join(commands)}; print(*sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, check=True
  )
  loaded = done.stdout.decode().split()
  assert "launch.run" in loaded
  assert not {"torch", "sklearn", "pandas", "matplotlib"} & set(loaded)


def test_configs_are_ml_collections_at_the_top_only():
  """Elsewhere every function takes plain values or a frozen dataclass."""
  users = {
    package_of(module)
    for module, path in MODULES.items()
    if any(name.startswith("ml_collections") for name in imported(path))
  }
  assert users <= {"launch", "configs", "config", "runs", "servers"}
