"""Guards on what the request path costs: ratios within one run, since machines differ.

`tox -e ratios` runs them, on a machine that is quiet otherwise. What is far better than its bound
deserves a tighter one.
"""

import statistics

import attrs
import pytest
import trio

from cw.actors.clock import now_ns
from cw.cli.one_executor import processor_ns
from cw.client import connect
from cw.workload.breakdown import steps_of
from tests.cluster.clusters import FEATURES, running

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

EMULATED = ("--device", "emulated", "--profile", "fixed-2ms", "--executors", 1)
REQUESTS = 600
IN_FLIGHT = 32
WARM_UP = 200


@pytest.fixture(scope="module", params=[(), ("--solo",)], ids=["processes", "solo"])
def found(request, tmp_path_factory, mlp):
    """What one cluster of that kind was measured to take."""
    folder = tmp_path_factory.mktemp("ratios") / "cluster"
    with running(folder, *EMULATED, *request.param) as cluster:
        added = cluster.cw("model", "add", "--allow-program", mlp.folder)
        assert added.returncode == 0, added.stderr
        return trio.run(measured, cluster)


async def measured(cluster):
    """Ask the status, one request at a time, and many at once; ns, and ns of processors."""
    async with connect(cluster.address) as client:
        for _ in range(WARM_UP):
            await client.infer("tiny-mlp", FEATURES, slo="5s")
        empty, added = [], []
        for _ in range(REQUESTS):  # alternately: what disturbs one disturbs the other
            began_ns = now_ns()
            await client.model("tiny-mlp")
            empty.append(now_ns() - began_ns)
            began_ns = now_ns()
            answer = await client.infer("tiny-mlp", FEATURES, slo="5s")
            steps = steps_of(now_ns() - began_ns, answer.timing)
            added.append(sum(attrs.astuple(steps)))
        alone_ns = await spent_ns(cluster, client, 1)
        crowded_ns = await spent_ns(cluster, client, IN_FLIGHT)
    return {
        "empty": statistics.median(empty),
        "added": statistics.median(added),
        "alone": alone_ns,
        "crowded": crowded_ns,
    }


async def spent_ns(cluster, client, in_flight):
    """Have requests answered, so many at a time; say what one costs the cluster's processors."""
    limiter = trio.CapacityLimiter(in_flight)

    async def one():
        async with limiter:
            answer = await client.infer("tiny-mlp", FEATURES, slo="5s")
            assert answer.outputs is not None

    before = sum(processor_ns(pid) for pid in cluster.pids.values())
    async with trio.open_nursery() as nursery:
        for _ in range(2 * REQUESTS):
            nursery.start_soon(one)
    return (sum(processor_ns(pid) for pid in cluster.pids.values()) - before) / (2 * REQUESTS)


def test_a_request_adds_little_to_what_asking_the_controller_takes(found):
    """To the controller and back is one round trip; a request takes one to the executor, too.

    Measured: 2.6 to 2.8 times on a quiet machine, in one process or several; 3.5 on a busy one.
    """
    assert found["added"] < 4.0 * found["empty"]


def test_company_makes_a_request_cheaper(found):
    """Messages share calls, and requests share batches. Measured: 0.24 to 0.31 times."""
    assert found["crowded"] < 0.7 * found["alone"]
