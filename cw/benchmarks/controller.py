"""What a request costs the controllers over the wire, from one to a thousand executors.

A real controller and real (emulated) executors, processes all; the load comes from a gateway in
this process that has no clients. Told is the processor time of the controller's process, which
does not depend on what else the machine does as much as throughput would.
"""

import tempfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.cells import CellRouter
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

SIZES: Final = ((1, 1), (10, 1), (100, 1), (1000, 1), (1000, 2))
"""Executors, and cells that share them."""
COST_US_MAX: Final = 20.0
GROWTH_MAX: Final = 1.5
CELLS_RPS_MIN: Final = 100_000
_MODELS: Final = tuple(f"model-{number}" for number in range(8))
"""Some are at home in each of two cells."""
_SLO_NS: Final = 200 * MS


@attrs.frozen(kw_only=True)
class Cost:
    """One size of cluster, measured."""

    executors: int
    cells: int
    requests: int
    kept: int
    cpu_us: float
    """Of the controllers' processes, per request."""
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
    for executors, cells in SIZES:
        with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
            costs.append(trio.run(_measure, Path(folder), executors, cells, rate, seconds))
    rows = tuple(
        (
            f"{cost.executors:,}",
            f"{cost.cells}",
            f"{cost.cpu_us:,.0f}",
            f"{100 * cost.kept / cost.requests:.1f} %",
            f"{100 * cost.idle_share:.1f} %",
            f"{cost.start_s:.1f}",
        )
        for cost in costs
    )
    return Report(
        title=f"controllers: processor time, {len(_MODELS)} models, {rate:,} requests/s, by wire",
        columns=(
            "executors",
            "cells",
            "us/request",
            "kept",
            "of a core when idle",
            "ready after s",
        ),
        rows=rows,
        figures=(
            Figure(
                name=f"with {costs[-2].executors:,} executors",
                value=costs[-2].cpu_us,
                unit="us",
                at_most=COST_US_MAX,
            ),
            Figure(
                name=f"growth from {costs[0].executors} executor",
                value=costs[-2].cpu_us / costs[0].cpu_us,
                at_most=GROWTH_MAX,
            ),
            Figure(
                name="two cells' requests in a second of both their cores",
                value=2 * SECOND / US / costs[-1].cpu_us,
                at_least=CELLS_RPS_MIN,
            ),
        ),
        notes=("Idle time (heartbeats) is in us/request, too.",),
    )


async def _measure(folder: Path, executors: int, cells: int, rate: int, seconds: float) -> Cost:
    executor = ExecutorSettings(device="emulated", profile="fixed-2ms", gpu_memory_bytes=1 * GiB)
    settings = ClusterSettings(executors=executors, cells=cells, executor=executor)
    archives = [MLP.pack(folder / name, name=name).folder for name in _MODELS]
    began_ns = now_ns()
    async with (
        running_cluster(settings, folder / "cluster") as cluster,
        connected(cluster.endpoint, "") as client,
    ):
        start_s = (now_ns() - began_ns) / SECOND
        await add_models(client, cluster.endpoint, archives, allow_program=True)
        argv = cluster.children["gateway-0"].spec.argv
        addresses = [argv[at + 1] for at, word in enumerate(argv) if word == "--controller"]
        parts = [
            GatewayActor(
                name="generator",
                settings=settings.gateway,
                link=settings.link,
                dial_controller=partial(connect_controller, address, settings.link),
                dial_executor=lambda where: connect_executor(where, settings.link),
            )
            for address in addresses
        ]
        gateway = CellRouter(parts)
        pids = [
            child.process.pid
            for name, child in cluster.children.items()
            if name.startswith("controller")
        ]
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run)
            # A gateway has no event for it.
            while not all(set(_MODELS) <= set(part.models) for part in parts):  # noqa: ASYNC110
                await trio.sleep(0.01)
            await _load(gateway, rate, 1.0)  # warms up
            before = sum(map(processor_ns, pids))
            await trio.sleep(1)
            idle_ns = sum(map(processor_ns, pids)) - before
            before = sum(map(processor_ns, pids))
            ends = await _load(gateway, rate, seconds)
            spent_ns = sum(map(processor_ns, pids)) - before
            nursery.cancel_scope.cancel()
    return Cost(
        executors=executors,
        cells=cells,
        requests=ends.total(),
        kept=ends["kept"],
        cpu_us=spent_ns / ends.total() / US,
        idle_share=idle_ns / SECOND,
        start_s=start_s,
    )


async def _load(gateway: CellRouter, rate: int, seconds: float) -> Counter[str]:
    """Ask evenly, whatever becomes of it; say how the requests ended."""
    spec = gateway.models[_MODELS[0]]
    inputs = tuple(
        Tensor(name=it.name, datatype=it.datatype.value, shape=it.shape, data=bytes(it.size_bytes))
        for it in spec.inputs
    )
    calls = [InferCall(model=name, inputs=inputs, slo_ns=_SLO_NS) for name in _MODELS]
    ends: Counter[str] = Counter()

    async def ask(call: InferCall) -> None:
        answer = await gateway.infer(call, arrival_ns=now_ns())
        ends["kept" if answer.outputs is not None else "other"] += 1

    began_ns = now_ns()
    async with trio.open_nursery() as nursery:
        for index in range(round(rate * seconds)):
            await trio.sleep_until(trio_time(began_ns + index * SECOND // rate))
            nursery.start_soon(ask, calls[index % len(calls)])
    return ends
