"""StarPO-S on the bandit: which of two arms pays more is in their names.

The expert pulls an arm at random, so that the start knows the form of an answer
and nothing about the arms. Success is measured on the starts that are learnt from:
a policy trained from nothing has no idea of a name that it has never pulled.

Method:    docs/algorithms/starpo.md (arXiv 2504.20073)
Run:       python -m launch.run --config=configs/digits/starpo_bandit.py --workdir=W
Hardware:  two CPU cores, 2 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits.starpo import played


def get_config() -> ConfigDict:
  rules = {
    "problems": 256,
    "heldout": 128,
    "examples": 8000,
    "noise": 1.0,
    "actions": 1,
  }
  return played(
    "bandit",
    rules,
    length=64,
    learning_rate=3e-3,
    rounds=40,
    trials="data/bandit.jsonl",
    turns=1,
    actions=1,
    actions_per_turn=1,
  )
