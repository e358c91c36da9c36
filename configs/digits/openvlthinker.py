"""OpenVLThinker in the world of handwritten digits: SFT and GRPO, three times.

The base is the warmed-up policy. The first chains are the reasoner's, from
captions; those of the later iterations are the policy's. GRPO practises on
problems that no chain was written for, in buckets by the error rates of the
quickstart's result, since the base answers nothing yet.

Method:    docs/algorithms/openvlthinker.md (arXiv 2503.17352)
Run:       python -m launch.run --config=configs/digits/openvlthinker.py \\
             --workdir=W --config.base=runs/quickstart
           continue instead of restarting: --config.stages.sft2.start=previous \\
             --config.stages.sft3.start=previous
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/relatives.md
"""

from typing import Any

from ml_collections import ConfigDict

from configs.digits import world
from sophia_jax.runs.stage import stage

SFT = {**world.TRAIN, "epochs": 6, "tiles": 16}
ROUNDS = {**world.ROUNDS, "rounds": 6, "n": 5, "kl": 0.01}


def grpo(data: str) -> ConfigDict:
  """Returns the stage that learns from the problems of a file."""
  values: dict[str, Any] = {**ROUNDS, "data": data}
  return stage("openvlthinker", **values)


def iteration(i: int) -> dict[str, ConfigDict]:
  """Returns the stages of iteration `i`, from 1."""
  first = i == 1
  return {
    f"chains{i}": stage(
      "chains",
      start="warmup" if first else "previous",
      captions=int(first),
      trajectories=4,
      reflections=1,
    ),
    f"sft{i}": stage(
      "sft", start="warmup", data=f"chains{i}/chains.jsonl", train=SFT
    ),
    f"medium{i}": grpo("rate/medium.jsonl"),
    f"hard{i}": grpo("rate/hard.jsonl"),
  }


def get_config() -> ConfigDict:
  c = world.get_config()
  c.prepare.corpus.practice = world.PRACTICE
  data = world.ROUNDS["data"]
  c.stages.rate = stage("buckets", start="sophia", data=data)
  for i in (1, 2, 3):
    c.stages.update(iteration(i))
  loop = (name for i in (1, 2, 3) for name in iteration(i))
  c.order = (*world.FIRST, "rate", *loop)
  return c
