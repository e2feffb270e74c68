"""A cluster of one executor to measure, with the device on a core of its own.

Everything else, the load generator included, shares the other cores. For ``tools/devcluster
measure`` and the benchmarks of executors.
"""

import argparse
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from cw.cli.cluster import RunningCluster, running_cluster
from cw.cli.common import connected, people
from cw.cli.model import add_models
from cw.client import Client
from cw.config import ClusterSettings, ExecutorSettings
from cw.messages import ModelStatus
from cw.units import MS, SECOND

_TICKS: Final = os.sysconf("SC_CLK_TCK")


@attrs.frozen
class OneExecutor:
    """What there is to measure."""

    client: Client
    models: Sequence[ModelStatus]
    cluster: RunningCluster

    @property
    def pid(self) -> int:
        """The executor's process."""
        return self.cluster.children["executor-0"].process.pid


@asynccontextmanager
async def one_executor(
    folder: Path, executor: ExecutorSettings, archives: Sequence[Path]
) -> AsyncIterator[OneExecutor]:
    """Run a cluster of one executor with these models ready."""
    settings = ClusterSettings(executors=1, executor=executor)
    people.print(
        f"starting a cluster with one {executor.device} executor and {len(archives)} model(s)"
    )
    async with (
        running_cluster(settings, folder, pin=True) as cluster,
        connected(cluster.endpoint, "") as client,
    ):
        models = await add_models(client, cluster.endpoint, archives, allow_program=True)
        with _beside_the_device(cluster):
            yield OneExecutor(client, models, cluster)


def load_options(seed: int, seconds: float, **changed: Any) -> argparse.Namespace:
    """Give `cw bench`'s options."""
    options = {
        "models": "*",
        "rate": None,
        "slo": 50 * MS,
        "best_effort": False,
        "seconds": seconds,
        "popularity": "uniform",
        "arrivals": "poisson",
        "closed": None,
        "seed": seed,
    }
    return argparse.Namespace(**(options | changed))


def processor_ns(pid: int) -> int:
    """Say how long a process has been on processors, all its threads together; to 10 ms."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) * SECOND // _TICKS


@contextmanager
def _beside_the_device(cluster: RunningCluster) -> Iterator[None]:
    """Keep this process, the load generator, where the gateway is: off the device's core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, os.sched_getaffinity(cluster.children["gateway-0"].process.pid))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
