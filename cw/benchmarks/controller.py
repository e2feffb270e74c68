"""What a request costs the controller over the wire, from one to a thousand executors.

A real controller and real (emulated) executors, processes all; the load comes from a gateway in
this process that has no clients. Told is the processor time of the controller's process, which
does not depend on what else the machine does as much as throughput would.
"""

import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns, trio_time
from cw.actors.gateway import GatewayActor
from cw.benchmarks.report import Figure, Report
from cw.cli.cluster import running_cluster
from cw.cli.common import connected
from cw.cli.model import add_models
from cw.cli.one_executor import processor_ns
from cw.config import ClusterSettings, ExecutorSettings
from cw.messages import InferCall, Tensor
from cw.models.examples.tiny import MLP
from cw.rpc.client import connect_controller, connect_executor
from cw.units import MS, SECOND, US, GiB

EXECUTORS: Final = (1, 100, 1000)
COST_US_MAX: Final = 20.0
GROWTH_MAX: Final = 1.5
_MODEL: Final = "model"
_SLO_NS: Final = 200 * MS


@attrs.frozen(kw_only=True)
class Cost:
    """One size of cluster, measured."""

    executors: int
    requests: int
    kept: int
    cpu_us: float
    """Of the controller's process, per request."""
    idle_share: float
    """Of a core, without any request."""
    start_s: float
    """Until the cluster's processes were ready."""


def run(*, rate: int = 1000, seconds: float = 4.0) -> Report:
    """Measure each size of cluster in turn.

    Args:
        rate: Requests a second, evenly spaced.
        seconds: Of load for each.
    """
    costs = []
    for executors in EXECUTORS:
        with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
            costs.append(trio.run(_measure, Path(folder), executors, rate, seconds))
    rows = tuple(
        (
            f"{cost.executors:,}",
            f"{cost.cpu_us:,.0f}",
            f"{100 * cost.kept / cost.requests:.1f} %",
            f"{100 * cost.idle_share:.1f} %",
            f"{cost.start_s:.1f}",
        )
        for cost in costs
    )
    return Report(
        title=f"controller: its processor time, one model at {rate:,} requests/s over the wire",
        columns=("executors", "us/request", "kept", "of a core when idle", "ready after s"),
        rows=rows,
        figures=(
            Figure(
                name=f"with {costs[-1].executors:,} executors",
                value=costs[-1].cpu_us,
                unit="us",
                at_most=COST_US_MAX,
            ),
            Figure(
                name=f"growth from {costs[0].executors} executor",
                value=costs[-1].cpu_us / costs[0].cpu_us,
                at_most=GROWTH_MAX,
            ),
        ),
        notes=("Idle time (heartbeats) is in us/request, too.",),
    )


async def _measure(folder: Path, executors: int, rate: int, seconds: float) -> Cost:
    executor = ExecutorSettings(device="emulated", profile="fixed-2ms", gpu_memory_bytes=1 * GiB)
    settings = ClusterSettings(executors=executors, executor=executor)
    archive = MLP.pack(folder / "model", name=_MODEL)
    began_ns = now_ns()
    async with (
        running_cluster(settings, folder / "cluster") as cluster,
        connected(cluster.endpoint, "") as client,
    ):
        start_s = (now_ns() - began_ns) / SECOND
        await add_models(client, cluster.endpoint, [archive.folder], allow_program=True)
        argv = cluster.children["gateway-0"].spec.argv
        address = argv[argv.index("--controller") + 1]
        gateway = GatewayActor(
            name="generator",
            settings=settings.gateway,
            link=settings.link,
            dial_controller=lambda: connect_controller(address, settings.link),
            dial_executor=lambda where: connect_executor(where, settings.link),
        )
        pid = cluster.children["controller"].process.pid
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run)
            while _MODEL not in gateway.models:  # noqa: ASYNC110  # a gateway has no event for it
                await trio.sleep(0.01)
            await _load(gateway, rate, 1.0)  # warms up
            before = processor_ns(pid)
            await trio.sleep(1)
            idle_ns = processor_ns(pid) - before
            before = processor_ns(pid)
            ends = await _load(gateway, rate, seconds)
            spent_ns = processor_ns(pid) - before
            nursery.cancel_scope.cancel()
    return Cost(
        executors=executors,
        requests=ends.total(),
        kept=ends["kept"],
        cpu_us=spent_ns / ends.total() / US,
        idle_share=idle_ns / SECOND,
        start_s=start_s,
    )


async def _load(gateway: GatewayActor, rate: int, seconds: float) -> Counter[str]:
    """Ask evenly, whatever becomes of it; say how the requests ended."""
    spec = gateway.models[_MODEL]
    inputs = tuple(
        Tensor(name=it.name, datatype=it.datatype.value, shape=it.shape, data=bytes(it.size_bytes))
        for it in spec.inputs
    )
    call = InferCall(model=_MODEL, inputs=inputs, slo_ns=_SLO_NS)
    ends: Counter[str] = Counter()

    async def ask() -> None:
        answer = await gateway.infer(call, arrival_ns=now_ns())
        ends["kept" if answer.outputs is not None else "other"] += 1

    began_ns = now_ns()
    async with trio.open_nursery() as nursery:
        for index in range(round(rate * seconds)):
            await trio.sleep_until(trio_time(began_ns + index * SECOND // rate))
            nursery.start_soon(ask)
    return ends
