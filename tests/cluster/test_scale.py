"""Many emulated executors in few processes, and several gateways before them."""

import json
import signal

import pytest
import trio

from cw.client import connect
from tests.cluster.clusters import FEATURES, running, wait_until

pytestmark = pytest.mark.cluster

EXECUTORS = 40
"""More than are given a process each."""


@pytest.fixture(scope="module")
def hosted(tmp_path_factory, mlp):
    """Run many executors in one process, behind two gateways, with `tiny-mlp` ready."""
    folder = tmp_path_factory.mktemp("hosted") / "cluster"
    shape = ("--executors", EXECUTORS, "--gateways", 2)
    with running(folder, "--device", "emulated", "--profile", "fixed-2ms", *shape) as cluster:
        wait_until(lambda: executors_of(cluster) == EXECUTORS, what="all executors joined")
        added = cluster.cw("model", "add", "--allow-program", mlp.folder)
        assert added.returncode == 0, added.stderr
        yield cluster


def executors_of(cluster):
    """Count those that the controller knows; 0 while it cannot be asked."""
    status = cluster.cw("status", "--json")
    return 0 if status.returncode else len(json.loads(status.stdout)["executors"])


def records_of(cluster):
    """Read the INFERs that ran for somebody."""
    found = []
    for path in (cluster.folder / "logs").glob("*.actions.jsonl"):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    return [record for record in found if record["slots"]]


def test_forty_executors_are_one_process(hosted):
    """A process for each would bound emulation to the dozens that a machine has memory for."""
    hosts = [name for name in hosted.pids if name.startswith("executor")]

    assert len(hosts) == 1, hosts


def test_requests_of_two_gateways_share_batches(hosted):
    """A model asked for through many doors must be as cheap as through one."""
    sent = 256

    async def ask():
        results = []
        async with (
            connect(hosted.ready["gateways"][0]) as first,
            connect(hosted.ready["gateways"][1]) as second,
            trio.open_nursery() as nursery,
        ):

            async def one(client):
                results.append(await client.infer("tiny-mlp", FEATURES, slo="5s"))

            for _ in range(sent // 2):
                nursery.start_soon(one, first)
                nursery.start_soon(one, second)
                await trio.sleep(0.001)  # arrivals of both alternate, as those of two crowds do
        return results

    results = trio.run(ask)
    assert all(result.outputs is not None for result in results)
    wait_until(
        lambda: sum(record["slots"] for record in records_of(hosted)) >= sent,
        what="the records of all requests",
    )
    assert any(record["gateways"] == 2 for record in records_of(hosted))


def test_hosted_executors_join_a_new_controller(hosted):
    """They share one connection: when it breaks, every one of them must find the next."""
    hosted.send_signal("controller", signal.SIGKILL)

    wait_until(lambda: executors_of(hosted) == EXECUTORS, what="all executors joined anew")
