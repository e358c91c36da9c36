"""YAML as a person would write it: keys in order, scripts as blocks."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.SafeDumper):
  """Writes texts of several lines as blocks, and equal values twice."""

  def ignore_aliases(self, data: Any) -> bool:
    return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
  style = "|" if "\n" in value else None
  return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def dump(*documents: Any) -> str:
  """Returns documents as YAML."""
  return "# Written by launch.submit.\n" + "---\n".join(
    yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)
    for document in documents
  )
