"""A real Slurm of two nodes, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm import install
from tests.slurm.cluster import Cluster, remove_left_behind


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Login, node1 and node2. After every test its jobs are cancelled, and its faults are mended."""
    # Not root; no namespaces, which take CAP_SYS_ADMIN; no bridges; or Slurm is neither there nor to be had.
    if problem := install.cannot_run():
        pytest.skip(f"no Slurm: {problem}")
    remove_left_behind()
    started = Cluster()
    try:
        started.up()
        yield started
    finally:
        started.down()


@pytest.fixture(autouse=True)
def _settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have every test begin with an idle and whole cluster, and count what it tries to reach outside alone."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    cluster.forget_attempts()
    yield
    cluster.settle()
