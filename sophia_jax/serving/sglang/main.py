"""`python -m sophia_jax.serving.sglang.main FLAGS`: SGLang's server with ours in it.

FLAGS are those of `python -m sglang.launch_server`; the API key may come in the
environment variable SOPHIA_API_KEY, where other users do not see it.
"""

import importlib
import os
import runpy
import sys

from sophia_jax.serving.sglang import hooks

# SGLang starts its processes by spawning, which imports this module again under
# another name: what is registered here is registered in each of them.
hooks.register()

if __name__ == "__main__":
  key = os.environ.pop("SOPHIA_API_KEY", None)
  if key:
    sys.argv.append(f"--api-key={key}")
  # SGLang would only warn of a part that cannot be imported, and use its own.
  # The registry comes first, since it imports ours and ours imports it.
  importlib.import_module("sglang.srt.models.registry")
  importlib.import_module(f"{hooks.PACKAGE}.processor")
  runpy.run_module("sglang.launch_server", run_name="__main__")
