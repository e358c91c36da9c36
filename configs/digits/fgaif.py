"""FGAIF in the world of handwritten digits, from the quickstart's result on.

The policy learns to describe scenes from examples of which a third of the facts
are random ("describe"): it hallucinates what it could see. It then describes other
scenes, whose clauses are labelled by the true scene with noise ("rewards": three
heads on a copy of the policy), and learns from what these heads say ("fgaif").
Errors are counted at temperature 1, where it hallucinates.

Method:    docs/algorithms/fgaif.md (arXiv 2404.05046)
Run:       python -m launch.run --config=configs/digits/fgaif.py --workdir=W \\
             --config.base=runs/quickstart
           one reward at the end of a response, from the same reward models:
             --name=response --config.stages.fgaif.place=response
Hardware:  two CPU cores, 4 GiB
Time:      12 minutes, from a finished quickstart on
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.config import defaults
from sophia_jax.digits.descriptions import DescriptionConfig
from sophia_jax.runs.stage import stage

TRAIN = {
  **world.TRAIN,
  "tiles": 24,
  "final_fraction": 0.05,
  "trained": ("projector", "language"),
}


def get_config() -> ConfigDict:
  c = world.get_config()
  c.prepare.descriptions = defaults(
    DescriptionConfig, labelled=4000, noise=1 / 3
  )
  c.answering.max_new_tokens = 64
  c.eval.update(temperature=1.0, limit=400)
  c.stages.describe = stage(
    "sft",
    start="sophia",
    data="data/described.jsonl",
    train={**TRAIN, "learning_rate": 1e-3},
  )
  c.stages.rewards = stage(
    "clause_rewards",
    start="describe",
    data="data/labelled.jsonl",
    n=2,
    labels="reference",
    noise=0.1,
    # At 2e-3 the policy forgets the picture before a head learns to compare
    # words with it; at this rate heads do after 700 updates.
    train={**TRAIN, "learning_rate": 5e-4, "epochs": 6},
  )
  c.stages.fgaif = stage(
    "fgaif",
    start="describe",
    data="data/descriptions.jsonl",
    n=4,
    kl=0.05,
    length_cost=1.0,
    longest=64,
    unfinished=2.0,
    known=True,
    trials="data/descriptions_heldout.jsonl",
    rounds=24,
    groups=48,
    minibatches=2,
    train=world.ROUND,
  )
  c.order = (*world.FIRST, "describe", "rewards", "fgaif")
  return c
