"""Versions under load: no request is lost in a switch, and each answer is its version's own."""

import signal
from collections import Counter

import numpy as np
import pytest
import trio

from cw.client import connect
from cw.models.examples.tiny import MLP
from cw.models.pack import pack_weights
from tests.cluster.clusters import FEATURES, running

pytestmark = pytest.mark.cluster

_EVERY_S = 0.01


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """Pack three versions of one name."""
    folder = tmp_path_factory.mktemp("versions")
    first = MLP.pack(folder / "v1")
    return [
        first,
        *(
            pack_weights(
                first, MLP.build(seed).state_dict(), name="tiny-mlp", out=folder / str(seed)
            )
            for seed in (2, 3)
        ),
    ]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, archives):
    """Run the first version on the cpu device."""
    with running(tmp_path_factory.mktemp("c") / "cluster", "--executors", 1) as made:
        added = made.cw("model", "add", archives[0].folder)
        assert added.returncode == 0, added.stderr
        yield made


EXPECTED = {
    version: MLP.run(FEATURES, seed=seed)["scores"] for version, seed in ((1, 0), (2, 2), (3, 3))
}


def check(result):
    """An answer in time, and of the version that it says."""
    scores = result.unwrap()["scores"]
    assert np.allclose(scores, EXPECTED[result.version], rtol=0, atol=1e-5), result.version


async def under_load(cluster, change):
    """Ask in an open loop while `change` runs, and for a while after; return the answers."""
    answers = []
    is_done = trio.Event()

    async def ask(client):
        answers.append(await client.infer("tiny-mlp", FEATURES, slo="5s"))

    async def changing():
        await trio.to_thread.run_sync(change)
        await trio.sleep(0.5)
        is_done.set()

    async with connect(cluster.address) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(changing)
            while not is_done.is_set():
                nursery.start_soon(ask, client)
                await trio.sleep(_EVERY_S)
    return answers


@pytest.mark.timeout(180)
async def test_versions_switch_back_and_forth_under_load(cluster, archives):
    """Added, canary, promoted, rolled back: each request is answered by one version or another."""

    def cw(*words):
        done = cluster.cw("model", *words)
        assert done.returncode == 0, done.stderr

    def switch():
        cw("add", archives[1].folder)

    answers = await under_load(cluster, switch)
    for each in answers:
        check(each)
    versions = [each.version for each in answers]
    assert set(versions) == {1, 2}
    assert versions[0] == 1
    assert versions[-1] == 2

    cw("add", archives[2].folder, "--no-switch")
    cw("route", "tiny-mlp", "v3=10%")
    async with connect(cluster.address) as client:
        got = Counter()
        for _ in range(200):
            result = await client.infer("tiny-mlp", FEATURES, slo="5s")
            check(result)
            got[result.version] += 1
        assert got == {2: 180, 3: 20}
        named = await client.infer("tiny-mlp", FEATURES, slo="5s", version=3)
        assert named.version == 3
        check(named)

    cluster.send_signal("controller", signal.SIGKILL)
    with trio.fail_after(30):
        async with connect(cluster.address) as client:
            recent = []
            while recent.count(3) != 10:  # it needs its executor first
                result = await client.infer("tiny-mlp", FEATURES, slo="5s")
                if result.outputs is None:
                    await trio.sleep(0.05)
                    continue
                check(result)
                recent = [*recent[-99:], result.version]
            assert len(recent) <= 100

    answers = await under_load(
        cluster,
        lambda: (cw("route", "tiny-mlp", "--promote"), cw("rollback", "tiny-mlp", "--to", 1)),
    )
    for each in answers:
        check(each)
    assert answers[-1].version == 1
