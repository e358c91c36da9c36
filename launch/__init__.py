"""Commands: flags, one call, an exit code."""
