"""Commands: flags, one call, an exit code."""

import sys

from sophia_jax import stopping
from sophia_jax.hosts import huge_pages

# `python -m launch.run` comes here before it loads jax, which takes seconds, and
# may start again; from then on a SIGTERM is a flag as well. A program that imports
# a command keeps its memory and its handler.
if sys.argv[:1] == ["-m"]:
  huge_pages.ask()
  stopping.install()
