"""MathVerse in all its versions, from all text to all picture.

Source, licence, layout: see mathverse.py
Command:  python -m sophia_jax.datasets import --from=mathverse_all SRC DST
Gives:    problems, evaluation only: 3,940 (788 in five versions)
"""

from __future__ import annotations

from sophia_jax.datasets.importers.base import Importer
from sophia_jax.datasets.importers.mathverse import FILES, convert_any

IMPORTER = Importer(source="mathverse", files=FILES, convert=convert_any)
