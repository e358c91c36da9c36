"""AMC and AIME, without AIME 2024.

Source:   AI-MO/aimo-validation-amc, AI-MO/aimo-validation-aime on the Hub, or
          a CSV of past AIME problems (ID, Year, Question, Answer)
Licence:  Apache-2.0 (the collections); the problems are the MAA's
Layout:   data/train-*.parquet, or one .csv or .jsonl
Command:  python -m sophia_jax.datasets import --from=amc_aime SRC DST
Gives:    text problems to train on: 83 (amc), 60 of 90 (aime). With
          --as=examples the solutions, where there are any, as responses

AIME 2024 is what the paper keeps for evaluation: a problem is left out if its
year, its id or its address says AIME 2024, or its text is one of the thirty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sophia_jax.datasets.importers.base import Context, Importer, Record, Skip
from sophia_jax.datasets.importers.text import as_text, boxed

# "2024-II-4", ".../2024_AIME_I_Problems/Problem_1", "aime_2024_i_1".
_AIME_2024 = re.compile(
  r"2024[-_ ](?:AIME[-_ ]?)?I{1,2}\b|AIME[-_ ]?2024", re.I
)


def convert(row: Mapping[str, Any], at: Context) -> Record:
  fields = {key.strip().lower(): value for key, value in row.items()}
  names = [as_text(fields.get(key)) or "" for key in ("id", "url", "source")]
  said = " ".join(names).replace("_", " ")
  year = as_text(fields.get("year"))
  contest = "AMC" not in said.upper()
  if _AIME_2024.search(said) or (year == "2024" and contest):
    raise Skip("AIME 2024")
  solution = as_text(fields.get("solution")) or ""
  answer = fields.get("answer")
  if isinstance(answer, str):
    answer = answer.strip()
  return {
    "question": as_text(fields.get("problem", fields.get("question"))) or "",
    "answer": as_text(answer) or boxed(solution),
    "answer_type": "math",
    "response": solution,
  }


IMPORTER = Importer(
  source="amc_aime",
  files=("**/*.parquet", "**/*.jsonl", "**/*.csv"),
  convert=convert,
  kinds=("problems", "examples"),
)
