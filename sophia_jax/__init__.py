"""SOPHIA (arXiv 2507.16814): semi-off-policy RL for vision-language reasoning."""

import os

# Said at every import of transformers where torch is absent, which it always is.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.1.0"
