"""Sixty-four models through room for sixteen: what a whole cluster with one cpu executor keeps.

Poisson arrivals, popularity Zipf 0.9, SLO 100 ms, at 0.8 of capacity. Capacity is what the device
can do one request at a time with the sixteen most popular models resident, and a LOAD for each
request of the others. The bound is what a clairvoyant scheduler could have kept with the durations
measured; it knows of no LOADs.
"""

import json
import tempfile
from pathlib import Path
from typing import Final

import trio

from cw.benchmarks import models
from cw.benchmarks.report import Figure, Report, quantile
from cw.cli import bench
from cw.cli.one_executor import load_options, one_executor
from cw.config import ExecutorSettings
from cw.units import MS, PAGE_BYTES, SECOND

MODELS: Final = 64
ROOM: Final = 16
LOAD: Final = 0.8
ZIPF: Final = 0.9
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
        popularity = f"zipf:{ZIPF}"
        single_ns = sum(model.profile[0].p50_ns for model in one.models) / len(one.models)
        load_ns = _load_ns(folder / "cluster" / "logs" / "executor-0.actions.jsonl")
        capacity_rps = SECOND / (single_ns + _missed() * load_ns)
        rate_rps = LOAD * capacity_rps
        options = load_options(seed, seconds, rate=rate_rps, slo=SLO_NS, popularity=popularity)
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
        title=f"swap: {MODELS} models, room for {ROOM}, {LOAD} of {capacity_rps:.0f}/s",
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


def _missed() -> float:
    """Say which share of the requests is for others than the most popular models that have room."""
    weights = [float((rank + 1) ** -ZIPF) for rank in range(MODELS)]
    return sum(weights[ROOM:]) / sum(weights)


def _load_ns(records: Path) -> int:
    """Say what a LOAD took on this device, the median of those that were done at the start."""
    actions = map(json.loads, records.read_text().splitlines())
    loads = [each["device_ns"] for each in actions if each["kind"] == "LOAD"]
    return quantile(loads, 0.5)
