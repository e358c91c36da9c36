"""Every section of a run by default; a preset changes what differs.

c = base.get_config()
c.images.tile_size = 48
c.stages = {"grpo": stage("grpo", rounds=100, groups=64)}
c.order = ("grpo",)
"""

from ml_collections import ConfigDict

from sophia_jax.config import defaults
from sophia_jax.data.filters import FilterConfig
from sophia_jax.data.images import ImageConfig
from sophia_jax.data.mixture import MixtureConfig
from sophia_jax.evals.evaluate import EvalConfig
from sophia_jax.jobs.job import JobConfig
from sophia_jax.rollout.embedded import EngineConfig
from sophia_jax.rollout.endpoints import ClientConfig
from sophia_jax.rollout.prompts import Prompts
from sophia_jax.runs.policies import RuntimeConfig, ScorerConfig
from sophia_jax.servers.supervise import ServeConfig
from sophia_jax.train.sharding import MeshConfig
from sophia_jax.train.trackers import LogConfig
from sophia_jax.types import Sampling


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.seed = 0
  # A finished run whose models and data this one starts from; its stages of the
  # same names are not run again. "": this run makes everything itself.
  c.base = ""
  c.policy = defaults(RuntimeConfig)
  c.reasoners = ConfigDict()
  # Models beside the policy that answer what it is asked, by name.
  c.teachers = ConfigDict()
  c.scorer = defaults(ScorerConfig)  # scores open-ended answers
  c.client = defaults(ClientConfig)
  c.serve = defaults(ServeConfig)
  c.job = defaults(JobConfig)  # read by launch.submit alone
  # Relative paths are inside the workdir, or inside the base.
  c.data = {
    "problems": "",
    "heldout": "",
    # Text trajectories and general questions that SOPHIA's update mixes in.
    "text": "",
    "general": "",
  }
  c.images = defaults(ImageConfig)  # 448-pixel tiles, at most 12, a thumbnail
  c.prompts = defaults(Prompts)
  c.captioning = defaults(Sampling)  # the policy describes an image
  c.reasoning = defaults(Sampling)  # a reasoner thinks from a caption
  c.answering = defaults(Sampling)  # the policy answers a question
  c.teaching = defaults(Sampling)  # a teacher answers a question
  # A describer describes a frame of a video; a reader picks an option.
  c.describing = defaults(Sampling, temperature=0.1, max_new_tokens=512)
  c.reading = defaults(Sampling, temperature=0.1, max_new_tokens=10)
  c.engine = defaults(EngineConfig)
  c.reward = {"workers": 2, "timeout_s": 10.0, "memory_mb": 1024}
  c.mixture = defaults(MixtureConfig)
  c.filters = defaults(FilterConfig)
  # One shard for each host that takes part.
  c.packing = {"shards": 1, "open_rows": 64, "drop_oversize": True}
  c.eval = defaults(EvalConfig)
  c.mesh = defaults(MeshConfig)
  c.log = defaults(LogConfig)
  c.topology = ""
  c.topologies = ConfigDict()
  c.stages = ConfigDict()
  c.order = ()
  return c
