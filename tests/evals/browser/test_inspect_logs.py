"""Rollouts as inspect-ai reads them; where it is not installed, one line says so."""

import importlib.util

import pytest

from sophia_jax.evals.browser import inspect_logs
from sophia_jax.types import SophiaError
from tests.evals.browser import browsed

HERE = importlib.util.find_spec("inspect_ai") is not None


@pytest.mark.skipif(HERE, reason="inspect-ai is installed")
def test_without_inspect_one_line_says_so(tmp_path):
  session = browsed.pages(browsed.sophia_run(tmp_path / "s", 1)).session
  with pytest.raises(SophiaError, match="inspect-ai is not installed"):
    inspect_logs.write(session, tmp_path / "logs")
  assert not (tmp_path / "logs").exists()


@pytest.mark.skipif(not HERE, reason="inspect-ai is not installed")
def test_every_graded_rollout_is_a_sample(tmp_path):
  from inspect_ai.log import read_eval_log

  session = browsed.pages(
    browsed.sophia_run(tmp_path / "s", 9), browsed.grpo_run(tmp_path / "g")
  ).session
  paths = inspect_logs.write(session, tmp_path / "logs")
  assert [p.name for p in paths] == [
    "a-trajectories.eval",
    "b-rounds-000000.eval",
    "b-rounds-000001.eval",
  ]
  log = read_eval_log(str(paths[0]))
  assert (log.status, len(log.samples)) == ("success", 9 * 6)
  sample = next(s for s in log.samples if (s.id, s.epoch) == ("p-3", 1))
  assert sample.scores["accuracy"].value == 1.0
  assert sample.metadata["caption"].startswith("caption 0")
  assert sample.metadata["selection"] == "selected"
  right = sum(s.scores["accuracy"].value for s in log.samples)
  mean = log.results.scores[0].metrics["mean"].value
  assert mean == pytest.approx(right / 54)
