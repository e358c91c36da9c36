"""StarPO-S on FrozenLake with a small policy that reads boards in words.

The policy first learns the form of an answer from an expert that often errs
("play"), then from its own episodes. Lakes are four by four, and nothing slips.

Method:    docs/algorithms/starpo.md (arXiv 2504.20073)
Run:       python -m launch.run --config=configs/digits/starpo.py --workdir=W
           without filter, KL and higher bound: \\
             --config.order="('play','starpo')"
           configs/digits/starpo_bandit.py and starpo_sokoban.py: other
             environments
Hardware:  two CPU cores, 2 GiB
Expect:    docs/results/relatives.md
"""

from typing import Any

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.envs.worlds import WorldConfig
from sophia_jax.runs.stage import stage


def get_config() -> ConfigDict:
  # Fewer examples of a worse expert leave a policy that does not read the board.
  rules = {"success_rate": 1.0, "examples": 16000, "noise": 0.2}
  return played("frozen_lake", rules)


def played(
  env: str,
  rules: dict[str, Any],
  length: int = 192,
  learning_rate: float = 1e-3,
  **episodes: Any,
) -> ConfigDict:
  """Returns a run on one environment.

  Args:
    env: its name.
    rules: keys of `WorldConfig`.
    length: tokens of an episode, at most.
    learning_rate: of the rounds.
    episodes: keys of the method that differ.
  """
  c = world.get_config()
  c.prepare = {
    "name": "plays",
    "world": defaults(
      WorldConfig,
      **{
        "env": env,
        "examples": 8000,
        "noise": 0.5,
        "rules": False,
        "form": "plain",
        "actions": 3,
        **rules,
      },
    ),
    "decoder": {**c.prepare.decoder, "width": 64, "depth": 2, "mlp": 192},
  }
  c.reasoners = ConfigDict()
  c.data.update(problems=f"data/{env}.jsonl", heldout="")
  c.answering.max_new_tokens = c.eval.max_new_tokens = 12
  c.eval.temperature = 0.5
  c.engine.update(slots=128, length=length, prefill_rows=16, chunk=4)
  rows = _rows(env, length, learning_rate) | episodes
  c.stages = {
    "play": stage(
      "sft",
      data=f"data/{env}_expert.jsonl",
      train={**world.TRAIN, "tiles": 0, "rows": 8, "final_fraction": 0.05},
    ),
    "starpo": stage("starpo", **rows),
    # Updates of 32 episodes, as in the paper: a quarter of a round is one.
    "starpo_s": stage("starpo_s", **{**rows, "minibatches": 1}),
  }
  c.order = ("play", "starpo_s")
  return c


def _rows(env: str, length: int, learning_rate: float) -> dict[str, Any]:
  """Returns what both stages of episodes have in common."""
  return {
    "data": f"data/{env}.jsonl",
    "trials": f"data/{env}_heldout.jsonl",
    "start": "play",
    "n": 16,
    "turns": 3,
    "actions": 9,
    "actions_per_turn": 3,
    "form": "plain",
    "context": length - 12,
    "crossed": 8,
    "crossed_answers": 2,
    "rounds": 60,
    "groups": 8,
    "minibatches": 4,
    "train": {
      **world.ROUND,
      "length": length,
      "tiles": 0,
      "learning_rate": learning_rate,
    },
  }
