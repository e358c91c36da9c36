"""`python -m sophia_jax.serving.sglang.main FLAGS`: SGLang's server with ours in it.

FLAGS are those of `python -m sglang.launch_server`; see serving.guard for the API
key and the directory of new weights, which come in the environment.
"""

import importlib
import runpy

from sophia_jax.serving import guard
from sophia_jax.serving.sglang import hooks

# SGLang starts its processes by spawning, which imports this module again under
# another name: what is registered here is registered in each of them.
hooks.register()

if __name__ == "__main__":
  # SGLang would only warn of a part that cannot be imported, and use its own.
  # The registry comes first, since it imports ours and ours imports it.
  importlib.import_module("sglang.srt.models.registry")
  importlib.import_module(f"{hooks.PACKAGE}.processor")
  server = importlib.import_module("sglang.srt.entrypoints.http_server")
  guard.install(server.app)
  runpy.run_module("sglang.launch_server", run_name="__main__")
