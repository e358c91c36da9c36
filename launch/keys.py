"""Keys of a config with their types and meanings, from the code.

A section's keys are the fields of a dataclass, documented by the strings under
them; the few that are not are documented in PLAIN. `--help` of the commands and
docs/reference/config.md are both made from this.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from sophia_jax.algorithms import registry
from sophia_jax.config import nearest
from sophia_jax.runs.stage import StageConfig
from sophia_jax.train.session import TrainConfig
from sophia_jax.types import SophiaError, quoted

ALL = "all"
"""Topic of `--help` that every key belongs to."""
WIDTH = 80

PLAIN = {
  "seed": "Seed of data order, sampling and initialisation.",
  "base": "Workdir of a finished run whose models and data this one starts "
  "from; its stages of the same names are not run again. Empty: none.",
  "order": "Names of the stages that run, in their order.",
  "size": "Published size that `launch.plan` takes where there is no "
  "checkpoint: a key of `models.config.SIZES`.",
  "topology": "Layout of updates: a key of `topologies`, such as "
  "`v5p:4x4x4`; empty: as the config stands.",
  "topologies": "Changes to the config for each topology, as `launch.plan` "
  "has planned them.",
  "reasoners": "Reasoners by name; a problem's `difficulty` names the one "
  "that thinks about it.",
  "teachers": "Models beside the policy that answer what it is asked, by the "
  "names that a method asks them by.",
  "data": "Files of the run, JSONL; a relative path is inside the workdir.",
  "data.problems": "Problems that are sampled and trained on.",
  "data.heldout": "Problems that pass@1 before and after is measured on.",
  "data.text": "Examples of text-only reasoning mixed into the update; "
  "empty: none.",
  "data.general": "Examples of general visual questions mixed into the "
  "update; empty: none.",
  "reward": "The process pool that compares formulas.",
  "reward.workers": "Processes.",
  "reward.timeout_s": "Processor seconds allowed for one comparison.",
  "reward.memory_mb": "Memory limit of a process above what its imports need, "
  "MiB; 32 or more.",
  "packing": "Packing of sequences into rows.",
  "packing.shards": "Parts that are packed independently; a multiple of the "
  "number of hosts.",
  "packing.open_rows": "Rows that are filled at the same time.",
  "packing.drop_oversize": "Whether a sequence longer than a row is dropped "
  "with a count (true) or an error (false).",
  "planning": "Planning with a model's prior (LINVIT, SLINVIT) in the place of "
  "evaluation and report; every section that begins with `sweep` is a sweep.",
  "prepare": "What is made from nothing before the run; absent where "
  "checkpoints and data exist.",
  "prepare.name": "World that is made: `digits`, or `pans` (videos).",
  "prepare.encoder": "Shape of the vision encoder.",
  "prepare.encoder.width": "Width of a token.",
  "prepare.encoder.depth": "Layers.",
  "prepare.encoder.heads": "Attention heads.",
  "prepare.encoder.mlp": "Width of the MLP.",
  "prepare.decoder": "Shape of the language models, policy and reasoner.",
  "prepare.decoder.width": "Width of a token.",
  "prepare.decoder.depth": "Layers.",
  "prepare.decoder.heads": "Attention heads.",
  "prepare.decoder.kv_heads": "Key-value heads.",
  "prepare.decoder.head_dim": "Width of a head.",
  "prepare.decoder.mlp": "Width of the MLP.",
}


@dataclasses.dataclass(frozen=True)
class Key:
  """A key of a config."""

  name: str
  """Whole name: "stages.grpo.n"."""
  type: str
  value: Any
  """Value in the config, which is the default of its flag."""
  doc: str


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of a config, without the sections inside it."""

  name: str
  """Whole name; "" for the top level."""
  doc: str
  keys: tuple[Key, ...]


# --------------------------------------------------------------------- meanings
def class_of(values: Mapping[str, Any]) -> type | None:
  """Finds the dataclass whose fields the keys of a section are, if any."""
  keys = set(values)
  for cls in _dataclasses():
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    needed = {f.name for f in fields if f.default is not dataclasses.MISSING}
    if needed and needed <= keys <= {f.name for f in fields}:
      return cls
  return None


def _dataclasses() -> list[type]:
  """Lists the dataclasses of loaded modules, each once, in a fixed order.

  Those of a config's sections are loaded where the config was made.
  """
  found = {}
  for name, module in tuple(sys.modules.items()):
    if name.startswith("sophia_jax."):
      for value in tuple(vars(module).values()):
        if (
          inspect.isclass(value)
          and dataclasses.is_dataclass(value)
          and value.__module__ == name
        ):
          found[f"{name}.{value.__qualname__}"] = value
  return [found[name] for name in sorted(found)]


@functools.cache
def field_docs(cls: type) -> dict[str, str]:
  """Reads the string under each field of a dataclass, inherited ones included."""
  docs: dict[str, str] = {}
  for base in reversed(cls.__mro__):
    if not dataclasses.is_dataclass(base):
      continue
    (tree,) = ast.parse(inspect.cleandoc(inspect.getsource(base))).body
    body = tree.body  # type: ignore[attr-defined]
    for field, doc in itertools.pairwise(body):
      if (
        isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
      ):
        docs[field.target.id] = " ".join(str(doc.value.value).split())
  return docs


def summary(cls: type) -> str:
  """Returns the first paragraph of the docstring, if there is one."""
  doc = inspect.cleandoc(cls.__doc__ or "")
  # A dataclass without a docstring gets its signature as one.
  made = doc.startswith(f"{cls.__name__}(")
  return "" if made else " ".join(doc.split("\n\n")[0].split())


def sections(config: ConfigDict, name: str = "") -> Iterator[Section]:
  """Yields the sections of a config, outer ones first."""
  prefix = f"{name}." if name else ""
  values = {k: v for k, v in config.items() if not isinstance(v, ConfigDict)}
  inner = {k: v for k, v in config.items() if isinstance(v, ConfigDict)}
  classes = _classes_of(name, config)
  doc = summary(classes[0]) if classes else PLAIN.get(name, "")
  fields = {
    f.name: (str(f.type), field_docs(cls).get(f.name, ""))
    for cls in reversed(classes)
    for f in dataclasses.fields(cls)  # type: ignore[arg-type]
  }
  keys = tuple(
    Key(
      prefix + key,
      *(fields[key][0] if key in fields else type(value).__name__, value),
      fields[key][1] if key in fields else PLAIN.get(prefix + key, ""),
    )
    for key, value in values.items()
  )
  if keys or doc:
    yield Section(name, doc, keys)
  # What is inside `topologies` changes other sections.
  for key, value in inner.items() if name != "topologies" else ():
    yield from sections(value, prefix + key)


def _classes_of(name: str, values: ConfigDict) -> list[type]:
  """Finds the dataclasses that a section's keys are fields of."""
  table, _, rest = name.partition(".")
  if table == "stages" and rest.endswith(".train"):
    return [TrainConfig]
  if table == "stages" and values.get("algorithm") in registry.ALGORITHMS:
    return [registry.config_of(values.algorithm), StageConfig]
  cls = class_of(values)
  return [cls] if cls else []


# ------------------------------------------------------------------------ --help
def overview(config: ConfigDict) -> str:
  """Lists the sections of a config and the names of their keys.

  Sections with the same keys share an entry.
  """
  entries: dict[tuple[str, tuple[str, ...]], list[str]] = {}
  for section in sections(config):
    names = tuple(key.name.rpartition(".")[2] for key in section.keys)
    entries.setdefault((section.doc, names), []).append(section.name)
  lines = []
  for (doc, names), where in entries.items():
    head = ", ".join(f"config.{name}" if name else "config" for name in where)
    lines += [
      *_wrapped(f"{head}: {doc}" if doc else f"{head}:", 2),
      *_wrapped(", ".join(names), 4),
    ]
  return "\n".join(lines)


def explained(config: ConfigDict, topic: str) -> str:
  """Lists keys of a config with meaning, value and type, as absl lists flags.

  Args:
    topic: a section, a key, or ALL.

  Raises:
    SophiaError: there is no such section or key; names the nearest.
  """
  topic = topic.removeprefix("config.")
  found = [*sections(config)]
  chosen = [
    key
    for section in found
    for key in section.keys
    if topic == ALL or f"{key.name}.".startswith(f"{topic}.")
  ]
  if not chosen:
    known = [section.name for section in found if section.name]
    raise SophiaError(
      f"--help={quoted(topic)}: no such section; {nearest(topic, known)}"
    )
  lines = []
  for key in chosen:
    lines += _wrapped(f"--config.{key.name}: {key.doc}".rstrip(), 2)
    lines += [f"    (default: {key.value!r})", f"    ({key.type})"]
  return "\n".join(lines)


def _wrapped(text: str, indent: int) -> list[str]:
  return textwrap.wrap(
    text,
    WIDTH,
    initial_indent=" " * indent,
    subsequent_indent=" " * (indent + 2 if indent == 2 else indent),
    break_long_words=False,
    break_on_hyphens=False,
  )
