"""The page of LINVIT's sweeps."""

from pathlib import Path

import pytest

from sophia_jax.evidence import planned
from sophia_jax.types import SophiaError

STORED = Path(__file__).parents[2] / "docs/results/evidence/linvit.jsonl"


def test_the_published_page_is_computed_from_the_results():
  """`python -m sophia_jax.evidence planned --write` makes it."""
  made = planned.text(planned.read(STORED))
  assert STORED.with_suffix(".md").read_text() == made


def test_a_world_has_its_arms_and_its_slope():
  shared = {"world": "lake", "horizon": 20, "episodes": 9, "epsilon": 0.1}
  shared |= {"optimum": 0.8, "prior_value": 0.1, "lam": 0.01, "unfinished": 0}
  arms = [
    shared | {"arm": f"rho {rho}", "rho": rho, "kl": kl, "samples": [n, n]}
    for rho, kl, n in ((0.1, 1.0, 1), (0.2, 2.0, 3), (0.4, 4.0, 7))
  ]
  rows = [{**row, "median": row["samples"][0]} for row in arms]
  text = planned.text([{"logps": []}, *rows])
  assert "H = 20, epsilon = 0.1, optimum 0.80, 9 episodes at most" in text
  assert "| rho 0.2 | 2.00 | 0.01 | 0.10 | 3 | 3 to 3 | 3.0 | 0 of 2 |" in text
  # 1 + episodes doubles with KL_H.
  assert "1.00 [1.00, 1.00]" in text


def test_absent_results_are_one_line(tmp_path):
  with pytest.raises(SophiaError, match="no such results; run configs/digits"):
    planned.read(tmp_path / "none.jsonl")
