"""Commands: flags, one call, an exit code."""

import sys

from sophia_jax import stopping

# `python -m launch.run` comes here before it loads jax, which takes seconds: a
# SIGTERM that early is a flag as well. A program that imports a command keeps its
# own handler.
if sys.argv[:1] == ["-m"]:
  stopping.install()
