"""The Slurm that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clusters import two_nodes
from tests.clusters.two_nodes import TwoNodes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[TwoNodes]:
  if absent := two_nodes.missing():
    pytest.skip(absent)
  with two_nodes.running(tmp_path_factory.mktemp("slurm")) as found:
    yield found
