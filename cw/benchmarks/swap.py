"""Sixty-four models through room for sixteen: what a whole cluster with one cpu executor keeps.

Poisson arrivals, popularity Zipf 0.9, SLO 100 ms, at 0.8 of what the device can do one request at
a time. The bound is what a clairvoyant scheduler could have kept with the durations measured; it
knows of no LOADs.
"""

import tempfile
from pathlib import Path
from typing import Final

import trio

from cw.benchmarks import models
from cw.benchmarks.report import Figure, Report
from cw.cli import bench
from cw.cli.one_executor import load_options, one_executor
from cw.config import ExecutorSettings
from cw.units import MS, PAGE_BYTES, SECOND

MODELS: Final = 64
ROOM: Final = 16
LOAD: Final = 0.8
SLO_NS: Final = 100 * MS
SHARE_MIN: Final = 0.97


def run(*, seconds: float = 20.0, seed: int = 1) -> Report:
    """Measure what is kept.

    Args:
        seconds: Of load.
        seed: Of the arrivals.
    """
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
        return trio.run(_measure, Path(folder), seconds, seed)


async def _measure(folder: Path, seconds: float, seed: int) -> Report:
    archives = await trio.to_thread.run_sync(models.resnets, folder, MODELS)
    pages = ROOM * archives[0].manifest.to_spec().pages
    executor = ExecutorSettings(device="cpu", gpu_memory_bytes=pages * PAGE_BYTES)
    folders = [archive.folder for archive in archives]
    async with one_executor(folder / "cluster", executor, folders) as one:
        single_ns = sum(model.profile[0].p50_ns for model in one.models) / len(one.models)
        rate_rps = LOAD * SECOND / single_ns
        options = load_options(
            seed, seconds, rate=rate_rps, slo=SLO_NS, popularity="zipf:0.9", models="*"
        )
        found, _ = await bench.measure(one.client, options)
    refused = sum(found["refused"].values())
    row = (
        f"{found['offered_rps']:.0f}",
        f"{found['goodput_rps']:.0f}",
        f"{found['kept'] / found['requests']:.2%}",
        f"{refused / found['requests']:.2%}",
        str(found["broken"]),
        f"{found['latency_ms']['p50']:.1f}",
        f"{found['latency_ms']['p99']:.1f}",
    )
    return Report(
        title=f"swap: {MODELS} models, room for {ROOM}, {LOAD} of {SECOND / single_ns:.0f}/s",
        columns=("offered/s", "in time/s", "kept", "refused", "broken", "p50 ms", "p99 ms"),
        rows=(row,),
        figures=(
            Figure(
                name="of the bound kept",
                value=100 * found["share_of_bound"],
                unit="%",
                at_least=100 * SHARE_MIN,
            ),
        ),
    )
