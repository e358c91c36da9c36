"""SOPHIA in the world of handwritten digits: the quickstart.

Run:       python -m launch.run --config=configs/digits/sophia.py --workdir=W
Hardware:  two CPU cores, 4 GiB
Time:      8 minutes
Expect:    as configs/quickstart.py says
"""

from configs.quickstart import get_config

__all__ = ["get_config"]
