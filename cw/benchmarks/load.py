"""How fast a LOAD on the cpu device is, beside a plain copy of as many bytes.

Both are measured in the same run, in turns: the LOAD through a real lane, pages moved and all; the
copy from memory that is in no cache to memory that was touched before.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import trio

from cw.actors.weights_cache import ModelFiles
from cw.benchmarks import models
from cw.benchmarks.report import Figure, Report, quantile
from cw.benchmarks.rig import Rig, running_executor
from cw.devices.cpu.bare import copy_durations_ns
from cw.devices.cpu.device import CpuDevice
from cw.messages import ModelSpec
from cw.models.archive import Archive
from cw.units import MS, SECOND

SHARE_MIN: Final = 0.7

_BLOCKS: Final = 5


def run(*, runs: int = 100) -> Report:
    """Measure LOADs of a ResNet-18's 45 MB.

    Args:
        runs: LOADs, and copies.
    """
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
        # Different weights each time, as in a cluster that swaps: none is in a cache.
        archives = models.resnets(Path(folder), 12)
        return trio.run(_measure, archives, runs, max(os.sched_getaffinity(0)))


async def _measure(archives: list[Archive], runs: int, core: int) -> Report:
    specs = [archive.manifest.to_spec() for archive in archives]
    files = {
        spec.name: ModelFiles(program=archive.program_path, weights=archive.weights_path)
        for spec, archive in zip(specs, archives, strict=True)
    }
    size_bytes = specs[0].image_bytes
    loads_ns: list[int] = []
    copies_ns: list[int] = []
    device = await CpuDevice.open(pages_total=specs[0].pages, cores=(core,))
    try:
        async with running_executor(device, files) as rig:
            for spec in specs:
                await rig.prepare(spec)
            for block in range(_BLOCKS + 1):
                copies = await trio.to_thread.run_sync(
                    lambda: copy_durations_ns(size_bytes, runs=runs // _BLOCKS, cores=(core,))
                )
                loads = [
                    await _load(rig, specs[turn % len(specs)]) for turn in range(runs // _BLOCKS)
                ]
                if block:  # the first only warms up
                    copies_ns += copies
                    loads_ns += loads
    finally:
        await device.aclose()
    return _report(size_bytes, loads_ns, copies_ns)


async def _load(rig: Rig, spec: ModelSpec) -> int:
    """Load a model and unload it; say how long the LOAD was on the device."""
    result = await rig.load(spec.model_id)
    await rig.unload(spec.model_id)
    return result.device_ns


def _report(size_bytes: int, loads_ns: list[int], copies_ns: list[int]) -> Report:
    rows = tuple(
        (
            name,
            *(f"{quantile(durations_ns, part) / MS:.2f}" for part in (0.5, 0.99)),
            f"{size_bytes * SECOND / quantile(durations_ns, 0.5) / 1e9:.1f}",
        )
        for name, durations_ns in (("plain copy", copies_ns), ("LOAD", loads_ns))
    )
    share = quantile(copies_ns, 0.5) / quantile(loads_ns, 0.5)
    return Report(
        title=f"load: {size_bytes / 1e6:.0f} MB of weights into pages",
        columns=("", "p50 ms", "p99 ms", "GB/s"),
        rows=rows,
        figures=(
            Figure(
                name="rate, of a plain copy's",
                value=100 * share,
                unit="%",
                at_least=100 * SHARE_MIN,
            ),
        ),
    )
