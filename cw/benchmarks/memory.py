"""What an executor's process takes beyond weights, and whether anything of it grows.

A cluster with one cpu executor swaps 64 models of one program through room for 16 under load,
while the process is looked at twice a second: its resident size without the page pool and the
images in host memory, its open files, threads and mappings.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.benchmarks import models
from cw.benchmarks.report import Figure, Report
from cw.cli import bench
from cw.cli.one_executor import OneExecutor, load_options, one_executor
from cw.config import ExecutorSettings
from cw.units import MS, PAGE_BYTES, SECOND, MiB

MODELS: Final = 64
ROOM: Final = 16
BEYOND_MAX: Final = 600 * MiB
GROWTH_MAX: Final = 1.01
"""Of the last third's largest value to the first third's, after the warm-up."""

_WARM_UP: Final = 0.2
"""Part of the time in which caches fill."""
_LOOK_S: Final = 0.5
_LOAD: Final = 0.5


@attrs.frozen
class _Look:
    """One look at the process."""

    resident_bytes: int
    files: int
    threads: int
    mappings: int


def run(*, minutes: float = 1.0, seed: int = 1) -> Report:
    """Look at an executor under load.

    Args:
        minutes: Of load; ten for a soak.
        seed: Of the arrivals.
    """
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as folder:
        return trio.run(_measure, Path(folder), minutes * 60, seed)


async def _measure(folder: Path, seconds: float, seed: int) -> Report:
    archives = await trio.to_thread.run_sync(models.resnets, folder, MODELS)
    spec = archives[0].manifest.to_spec()
    pool_bytes = ROOM * spec.pages * PAGE_BYTES
    executor = ExecutorSettings(device="cpu", gpu_memory_bytes=pool_bytes)
    folders = [archive.folder for archive in archives]
    looks: list[_Look] = []
    async with (
        one_executor(folder / "cluster", executor, folders) as one,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_watch, one.pid, looks)
        await _send(one, seconds, seed)
        nursery.cancel_scope.cancel()
    weights_bytes = pool_bytes + MODELS * spec.image_bytes
    return _report(looks, weights_bytes, seconds)


async def _send(one: OneExecutor, seconds: float, seed: int) -> None:
    single_ns = sum(model.profile[0].p50_ns for model in one.models) / len(one.models)
    options = load_options(
        seed,
        seconds,
        rate=_LOAD * SECOND / single_ns,
        slo=100 * MS,
        popularity="zipf:0.9",
    )
    await bench.measure(one.client, options)


async def _watch(pid: int, looks: list[_Look]) -> None:
    while True:
        looks.append(await trio.to_thread.run_sync(_look, pid))
        await trio.sleep(_LOOK_S)


def _look(pid: int) -> _Look:
    process = Path("/proc") / str(pid)
    rollup = (process / "smaps_rollup").read_text()
    (resident,) = (line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:"))
    return _Look(
        resident_bytes=int(resident) * 1024,
        files=len(os.listdir(process / "fd")),
        threads=len(os.listdir(process / "task")),
        mappings=(process / "maps").read_text().count("\n"),
    )


def _report(looks: list[_Look], weights_bytes: int, seconds: float) -> Report:
    steady = looks[int(_WARM_UP * len(looks)) :]
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]
    rows, figures = [], []
    for name in ("resident_bytes", "files", "threads", "mappings"):
        early, late = (max(getattr(look, name) for look in part) for part in (first, last))
        scale = MiB if name == "resident_bytes" else 1
        words = name.removesuffix("_bytes") + (" MiB" if scale != 1 else "")
        rows.append((words, f"{early / scale:,.0f}", f"{late / scale:,.0f}"))
        figures.append(Figure(name=f"{words}, growth", value=late / early, at_most=GROWTH_MAX))
    beyond_bytes = max(look.resident_bytes for look in looks) - weights_bytes
    figures.insert(
        0,
        Figure(
            name="resident beyond weights",
            value=beyond_bytes / MiB,
            unit="MiB",
            at_most=BEYOND_MAX / MiB,
        ),
    )
    return Report(
        title=f"memory: an executor with {MODELS} models of one program, {seconds / 60:g} minutes",
        columns=("", "first third, at most", "last third, at most"),
        rows=tuple(rows),
        figures=tuple(figures),
        notes=("Weights: the page pool, and one image per model in host memory.",),
    )
