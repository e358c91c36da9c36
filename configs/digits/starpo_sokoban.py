"""StarPO-S on Sokoban: boards of five by five, one box, solved in four actions.

Method:    docs/algorithms/starpo.md (arXiv 2504.20073)
Run:       python -m launch.run --config=configs/digits/starpo_sokoban.py --workdir=W
Hardware:  two CPU cores, 2 GiB
Expect:    docs/results/relatives.md
"""

from ml_collections import ConfigDict

from configs.digits.starpo import played


def get_config() -> ConfigDict:
  return played("sokoban", {"size": 5, "longest": 4}, length=256)
