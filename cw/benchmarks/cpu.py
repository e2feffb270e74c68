"""How predictable the cpu device is: through a real lane, beside the bare loop.

The bare loop calls the same program in the same process, on a thread of its own on the same core,
with nothing around it. Both take turns in short blocks, so that what the machine does to one it
does to the other. Estimates are learnt from the device's durations as in production.
"""

import os
import tempfile
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.weights_cache import ModelFiles
from cw.benchmarks import models
from cw.benchmarks.report import Figure, Report, quantile
from cw.benchmarks.rig import Rig, running_executor
from cw.config import SchedulerSettings
from cw.core.durations import DurationWindow
from cw.devices.cpu.bare import BareModel
from cw.devices.cpu.device import CpuDevice
from cw.messages import ModelSpec
from cw.models.archive import Archive
from cw.units import MS

RATIO_MAX: Final = 1.05
"""Of the device's p99/p50 to the bare loop's."""
SPREAD_MAX: Final = 1.10
"""Of p99/p50 at batch 1."""
COVERED_MIN: Final = 0.99
ESTIMATE_MAX: Final = 1.1
"""Of the estimate to the bare loop's p99."""

_BLOCKS: Final = 10
_FIRST_RUNS: Final = 100
"""They only warm up, and teach the estimate."""


@attrs.frozen(kw_only=True)
class _Found:
    """Durations of one batch size, in ns, and what was estimated before each of the device's."""

    batch_size: int
    bare_ns: list[int]
    device_ns: list[int]
    estimates_ns: list[int]

    @property
    def covered(self) -> float:
        """The share of the device's runs at or under the estimate of their time."""
        pairs = zip(self.device_ns, self.estimates_ns, strict=True)
        return sum(ran <= estimate for ran, estimate in pairs) / len(self.device_ns)

    @property
    def over_bare(self) -> float:
        """The median estimate by the bare loop's p99."""
        return quantile(self.estimates_ns, 0.5) / quantile(self.bare_ns, 0.99)


def run(*, runs: int = 1000) -> Report:
    """Measure a ResNet-18 and a small perceptron.

    Args:
        runs: Of each batch size, bare and through the device.
    """
    core = max(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="cw-bench-") as text:
        folder = Path(text)
        found = [
            (archive.manifest.name, each)
            for archive in (models.resnet(folder), models.perceptron(folder))
            for each in trio.run(_measure, archive, runs, core)
        ]
    return _report(found)


async def _measure(archive: Archive, runs: int, core: int) -> list[_Found]:
    spec = archive.manifest.to_spec()
    bare = BareModel.open(spec, archive.program_path, archive.weights_path)
    device = await CpuDevice.open(pages_total=spec.pages, cores=(core,))
    files = ModelFiles(program=archive.program_path, weights=archive.weights_path)
    try:
        async with running_executor(device, {spec.name: files}) as rig:
            await rig.prepare(spec)
            await rig.load(spec.model_id)
            subject = _Subject(rig=rig, bare=bare, spec=spec, core=core)
            return [await subject.measure(size, runs) for size in spec.batch_sizes]
    finally:
        await device.aclose()
        bare.close()


@attrs.frozen(kw_only=True)
class _Subject:
    """A model that is resident on a device, and its bare twin."""

    rig: Rig
    bare: BareModel
    spec: ModelSpec
    core: int

    async def measure(self, batch_size: int, runs: int) -> _Found:
        """Let both take turns until each has run so often."""
        settings = SchedulerSettings()
        window = DurationWindow(settings.profile_window, settings.profile_quantile)
        found = _Found(batch_size=batch_size, bare_ns=[], device_ns=[], estimates_ns=[])
        each = max(1, runs // _BLOCKS)
        for duration_ns in await self._through_lane(batch_size, max(each, _FIRST_RUNS)):
            window.add(duration_ns)
        for _ in range(_BLOCKS):
            found.bare_ns.extend(
                await trio.to_thread.run_sync(
                    lambda: self.bare.durations_ns(batch_size, runs=each, cores=(self.core,))
                )
            )
            for duration_ns in await self._through_lane(batch_size, each):
                found.device_ns.append(duration_ns)
                found.estimates_ns.append(window.estimate_ns)
                window.add(duration_ns)
        return found

    async def _through_lane(self, batch_size: int, runs: int) -> list[int]:
        """Run batches one after the other through the executor; say how long each took."""
        inputs = tuple(bytes(tensor.size_bytes) for tensor in self.spec.inputs)
        durations_ns = []
        async with trio.open_nursery() as nursery:
            for _ in range(runs):
                action = self.rig.infer(self.spec.model_id, batch_size)
                self.rig.orderer.order(action)
                nursery.start_soon(self.rig.bring_inputs, action, inputs)
                result = await self.rig.orderer.result(action.action_id)
                durations_ns.append(result.device_ns)
        return durations_ns


def _report(found: list[tuple[str, _Found]]) -> Report:
    rows, figures = [], []
    for name, each in found:
        bare, device = _spread(each.bare_ns), _spread(each.device_ns)
        rows.append(
            (
                name,
                str(each.batch_size),
                *(f"{quantile(each.bare_ns, part) / MS:.3f}" for part in (0.5, 0.99)),
                f"{bare:.3f}",
                *(f"{quantile(each.device_ns, part) / MS:.3f}" for part in (0.5, 0.99)),
                f"{device:.3f}",
                f"{device / bare:.3f}",
                f"{each.covered:.1%}",
                f"{each.over_bare:.2f}",
            )
        )
        label = f"{name}, batch {each.batch_size}"
        figures.append(
            Figure(name=f"{label}: spread, by bare", value=device / bare, at_most=RATIO_MAX)
        )
        if each.batch_size == 1:
            figures.append(Figure(name=f"{label}: p99/p50", value=device, at_most=SPREAD_MAX))
        figures.append(
            Figure(
                name=f"{label}: runs within the estimate",
                value=100 * each.covered,
                unit="%",
                at_least=100 * COVERED_MIN,
            )
        )
        figures.append(
            Figure(
                name=f"{label}: estimate, by bare p99", value=each.over_bare, at_most=ESTIMATE_MAX
            )
        )
    return Report(
        title="cpu: through a lane, beside the bare loop (ms)",
        columns=(
            "model",
            "batch",
            "bare p50",
            "p99",
            "p99/p50",
            "device p50",
            "p99",
            "p99/p50",
            "by bare",
            "covered",
            "estimate",
        ),
        rows=tuple(rows),
        figures=tuple(figures),
        notes=(
            "by bare: the device's p99/p50 by the bare loop's. covered: runs within the estimate.",
            "estimate: its median, by the bare loop's p99.",
            "The device writes inputs and reads outputs, too; the bare loop only computes.",
        ),
    )


def _spread(durations_ns: list[int]) -> float:
    return quantile(durations_ns, 0.99) / quantile(durations_ns, 0.5)
