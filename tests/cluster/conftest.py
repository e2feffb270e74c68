"""Clusters and archives that the tests of this folder share."""

import pytest

from tests.cluster.clusters import DevCluster, running


@pytest.fixture(scope="session")
def mlp(tmp_path_factory):
    """Pack the smallest model: 4 numbers in, 3 out."""
    from cw.models.examples.tiny import MLP

    return MLP.pack(tmp_path_factory.mktemp("archives") / "tiny-mlp")


@pytest.fixture(scope="session")
def emulated(tmp_path_factory, mlp):
    """Run a cluster for tests that leave it as they found it: see `two_executors`."""
    yield from two_executors(tmp_path_factory.mktemp("emulated") / "cluster", mlp)


@pytest.fixture(scope="module")
def shaken(tmp_path_factory, mlp):
    """Run a cluster for tests that kill its processes: see `two_executors`."""
    yield from two_executors(tmp_path_factory.mktemp("shaken") / "cluster", mlp)


def two_executors(folder, archive):
    """Run two emulated executors, 2 ms for every batch, with `tiny-mlp` ready."""
    with running(folder, "--device", "emulated", "--profile", "fixed-2ms") as cluster:
        added = cluster.cw("model", "add", "--allow-program", archive.folder)
        assert added.returncode == 0, added.stderr
        yield cluster


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Show what a cluster's processes logged where a test that used it fails."""
    report = yield
    if report.failed:
        for name, value in item.funcargs.items():
            if isinstance(value, DevCluster):
                report.sections.append((f"logs of {name}", value.logs()))
    return report
