"""The quickstart, as small as several processes can share it."""

from configs import quickstart
from tests.rollout.little import SIDE


def layout(rows, microbatches):
  """One row a shard; the batches are the same for every layout."""
  train = {"rows": rows, "microbatches": microbatches, "tiles": 2 * rows}
  return {"train": train, "packing": {"shards": rows}}


def get_config():
  c = quickstart.get_config()
  c.images.tile_size = SIDE
  sophia = c.stages.sophia
  sophia.captions = sophia.trajectories = 1
  c.packing.open_rows = 8
  sophia.train.update(length=96, block=32, warmup_steps=2, learning_rate=2e-4)
  sophia.train.update(epochs=5, checkpoint_every=3, log_every=1)
  c.topology = ""
  c.topologies = {"cpu:4": layout(4, 2), "cpu:2": layout(2, 4)}
  sophia.train.update(layout(4, 2)["train"])
  c.packing.shards = 4
  return c
