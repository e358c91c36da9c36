"""Navigation of the site: `folder/*` in mkdocs.yml is every page of a folder.

A new algorithm card or decision appears by being there; its title is its heading.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
  """Expands the patterns of `nav`; called by mkdocs."""
  config.nav = _expanded(config.nav, Path(config.docs_dir))
  return config


def _expanded(node: Any, docs: Path) -> Any:
  if isinstance(node, dict):
    return {title: _expanded(child, docs) for title, child in node.items()}
  if not isinstance(node, list):
    return node
  found: list[Any] = []
  for child in node:
    if isinstance(child, str) and child.endswith("/*"):
      pages = (docs / child[:-2]).glob("*.md")
      names = sorted(page.relative_to(docs).as_posix() for page in pages)
      found += [name for name in names if not name.endswith("/index.md")]
    else:
      found.append(_expanded(child, docs))
  return found
