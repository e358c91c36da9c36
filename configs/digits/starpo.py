"""StarPO-S on FrozenLake with the quickstart's small policy.

The policy first learns the form of an answer from a noisy expert ("play"), then
from its own episodes. Boards are in words, four by four, and the ice slips.

Method:    docs/algorithms/starpo.md (arXiv 2504.20073)
Run:       python -m launch.run --config=configs/digits/starpo.py --workdir=W \\
             --config.base=runs/quickstart
           without filter, KL and higher bound: --config.order="('reasoner', \\
             'warmup', 'sophia', 'play', 'starpo')"
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from typing import Any

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.envs.worlds import WorldConfig
from sophia_jax.runs.stage import stage

ENV = "frozen_lake"
EPISODES: dict[str, Any] = {
  "data": f"data/{ENV}.jsonl",
  "trials": f"data/{ENV}_heldout.jsonl",
  "n": 16,
  "turns": 3,
  "actions": 9,
  "actions_per_turn": 3,
  "form": "plain",
  "context": 256,
  "rounds": 60,
  "groups": 8,
  "minibatches": 4,
  "train": {**world.ROUND, "length": 320, "tiles": 0},
}


def get_config() -> ConfigDict:
  c = world.followed_by("starpo_s", "starpo_s", start="play", **EPISODES)
  c.prepare.corpus.practice = 0
  c.prepare.world = defaults(
    WorldConfig,
    env=ENV,
    examples=6000,
    rules=False,
    form="plain",
    actions=3,
  )
  c.answering.max_new_tokens = 64
  c.engine.update(slots=128, length=384)
  c.stages.play = stage(
    "sft",
    start="sophia",
    data=f"data/{ENV}_expert.jsonl",
    train={**world.TRAIN, "final_fraction": 0.05},
  )
  c.stages.starpo = stage("starpo", start="play", **EPISODES)
  c.order = (*world.FIRST, "play", "starpo_s")
  return c
