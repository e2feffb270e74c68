"""How well the cuda device keeps time: replays alone and under LOAD, copies, predictions, models.

Everything runs through the device as an executor opens it, but for the plain copy that LOADs are
compared with: that one is the driver's, of pinned memory, in the same process. Needs a GPU. What a
card's own doing is, as against the device's, `tools/gpu_check` takes apart.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.weights_cache import ModelFiles
from cw.benchmarks import models
from cw.benchmarks.report import Figure, Report, quantile
from cw.benchmarks.rig import Rig, running_executor
from cw.cli.compose import open_device
from cw.config import ExecutorSettings, SchedulerSettings
from cw.core.durations import DurationWindow
from cw.devices.cuda.experiments.rig import Rig as CardRig
from cw.devices.device import Device
from cw.errors import CwError
from cw.messages import ModelId, ModelSpec, Outcome, Window, model_id_for
from cw.models.archive import Archive
from cw.units import MS, SECOND, US, GiB

IDLE_SPREAD_MAX: Final = 1.01
LOADED_SPREAD_MAX: Final = 1.03
LOAD_PART_MIN: Final = 0.9
ERROR_NS_MAX: Final = 100 * US
MODELS: Final = 2_000

CopyRate = Callable[[int], float]
"""Given a size in bytes, measures what a plain pinned copy of it moves: bytes/s."""

_WARM_RUNS: Final = 100
_LOADS: Final = 50
_AHEAD_NS: Final = 5 * MS
_WINDOW_NS: Final = SECOND
"""Wide: a start that comes late counts as an error of its prediction, and is not left out."""
_COPIES: Final = 20


def run(
    *,
    infers: int = 2_000,
    registered: int = MODELS,
    settings: ExecutorSettings | None = None,
    copy_rate: CopyRate | None = None,
) -> Report:
    """Measure all of it.

    Args:
        infers: Of each kind of measurement.
        registered: How many models to register.
        settings: Of the device; None: cuda, with a page pool of 2 GiB.
        copy_rate: What LOADs are compared with; None: `plain_copy_rate`.

    Raises:
        ConfigError: There is no GPU here, or it can't be used.
    """
    settings = settings or ExecutorSettings(device="cuda", gpu_memory_bytes=2 * GiB)
    measure = _Measurement(infers, registered, settings, copy_rate or plain_copy_rate)
    return trio.run(measure.run)


@attrs.frozen
class _Measurement:
    infers: int
    registered: int
    settings: ExecutorSettings
    copy_rate: CopyRate

    async def run(self) -> Report:
        with tempfile.TemporaryDirectory(prefix="cw-bench-") as name:
            archive, small = models.resnet(Path(name)), models.perceptron(Path(name))
            device = await open_device(self.settings, seed=0)
            try:
                figures = await self._replays_and_loads(device, archive)
                figures.append(await self._predictions(device, archive))
                figures.append(await self._models(device, small))
                title = f"{device.describe().kind}: ResNet-18 on {device.describe().name}"
            finally:
                await device.aclose()
        return Report(title=title, figures=tuple(figures))

    async def _replays_and_loads(self, device: Device, archive: Archive) -> list[Figure]:
        runs, comes = _copies(archive, 2)
        for spec in (runs, comes):
            await device.prepare(spec, archive.program_path, archive.weights_path)
        own = list(range(runs.pages))
        others = list(range(runs.pages, 2 * runs.pages))
        await device.load(runs.model_id, own)
        await _infer(device, runs, _WARM_RUNS)
        idle_ns = await _infer(device, runs, self.infers)
        loads_ns = [await _load_once(device, comes, others) for _ in range(_LOADS)]
        plain = self.copy_rate(comes.image_bytes)
        loaded_ns, beside = await _infer_beside_loads(device, runs, comes, others, self.infers)
        await device.unload(runs.model_id)
        for spec in (runs, comes):
            await device.forget(spec.model_id)
        part = comes.image_bytes * SECOND / quantile(loads_ns, 0.5) / plain
        return [
            Figure(name="p99/p50 idle", value=_spread(idle_ns), at_most=IDLE_SPREAD_MAX),
            Figure(
                name=f"p99/p50 under {beside} LOADs",
                value=_spread(loaded_ns),
                at_most=LOADED_SPREAD_MAX,
            ),
            Figure(name="plain pinned copy", value=plain / 1e9, unit="GB/s"),
            Figure(name="LOAD by a plain copy's rate", value=part, at_least=LOAD_PART_MIN),
        ]

    async def _predictions(self, device: Device, archive: Archive) -> Figure:
        """Order INFERs into windows, each planned by the estimate that the last ones gave."""
        spec = archive.manifest.to_spec()
        files = ModelFiles(program=archive.program_path, weights=archive.weights_path)
        planning = SchedulerSettings()
        estimates = DurationWindow(planning.profile_window, planning.profile_quantile)
        errors_ns = []
        async with running_executor(device, {spec.name: files}) as rig:
            await rig.prepare(spec)
            await rig.load(spec.model_id)
            for _ in range(self.infers + _WARM_RUNS):
                took_ns = await _planned_infer(rig, spec)
                errors_ns.append(abs(took_ns - estimates.estimate_ns))
                estimates.add(took_ns)
        await device.unload(spec.model_id)  # an executor that ends leaves its device as it is
        await device.forget(spec.model_id)
        return Figure(
            name="INFER prediction error p99",
            value=quantile(errors_ns[_WARM_RUNS:], 0.99) / US,
            unit="us",
            at_most=ERROR_NS_MAX / US,
        )

    async def _models(self, device: Device, archive: Archive) -> Figure:
        """Register models until there are enough, or one is refused; run the first and last."""
        prepared: list[ModelSpec] = []
        for spec in _copies(archive, self.registered):
            try:
                await device.prepare(spec, archive.program_path, archive.weights_path)
            except CwError:  # no room: the count says how far it went
                break
            prepared.append(spec)
        for spec in {spec.model_id: spec for spec in (*prepared[:1], *prepared[-1:])}.values():
            await device.load(spec.model_id, range(spec.pages))
            await device.infer(spec.model_id, 1, [])
            await device.unload(spec.model_id)
        return Figure(name="registered models", value=len(prepared), at_least=self.registered)


def plain_copy_rate(size_bytes: int) -> float:
    """Copy pinned memory to the card in one piece; return the median rate in bytes/s."""
    rig = CardRig(with_torch=False)
    target, source = rig.plain_memory(size_bytes), rig.pinned(size_bytes)
    stream, first, last = rig.stream(), rig.event(), rig.event()
    copies_ns = []
    for _ in range(_COPIES):
        rig.record(first, stream)
        rig.copy_in(target, source, size_bytes, stream)
        rig.record(last, stream)
        rig.wait_for(last)
        copies_ns.append(rig.between_ns(first, last))
    rig.call(rig.driver.cuMemFree, target)
    rig.call(rig.driver.cuMemFreeHost, source)
    return size_bytes * SECOND / quantile(copies_ns, 0.5)


def _copies(archive: Archive, count: int) -> list[ModelSpec]:
    """Make models that share an archive's files, and its program."""
    spec = archive.manifest.to_spec()
    names = [f"{spec.name}-{number}" for number in range(count)]
    return [attrs.evolve(spec, name=name, model_id=_id_of(spec, name)) for name in names]


def _id_of(spec: ModelSpec, name: str) -> ModelId:
    return model_id_for(name, spec.program_sha256, spec.weights_sha256)


async def _infer(device: Device, spec: ModelSpec, count: int) -> list[int]:
    """Run on random inputs at batch 1; return the durations on the device."""
    reports = [await device.infer(spec.model_id, 1, []) for _ in range(count)]
    return [report.device_ns for report in reports]


async def _load_once(device: Device, spec: ModelSpec, pages: Sequence[int]) -> int:
    report = await device.load(spec.model_id, pages)
    await device.unload(spec.model_id)
    return report.device_ns


async def _infer_beside_loads(
    device: Device, runs: ModelSpec, comes: ModelSpec, pages: Sequence[int], count: int
) -> tuple[list[int], int]:
    """Run one model while another comes and goes; return durations, and how often it came."""
    done = trio.Event()
    loads = 0

    async def swap() -> None:
        nonlocal loads
        while not done.is_set():
            await _load_once(device, comes, pages)
            loads += 1

    durations_ns: list[int] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(swap)
        durations_ns += await _infer(device, runs, count)
        done.set()
    return durations_ns, loads


async def _planned_infer(rig: Rig, spec: ModelSpec) -> int:
    """Order an INFER ahead of its time; return from its planned start to its end."""
    start_ns = now_ns() + _AHEAD_NS
    action = rig.infer(
        spec.model_id, 1, Window(earliest_ns=start_ns, latest_ns=start_ns + _WINDOW_NS)
    )
    rig.orderer.order(action)
    inputs = tuple(bytes(tensor.size_bytes) for tensor in spec.inputs)
    await rig.bring_inputs(action, inputs)
    result = await rig.orderer.result(action.action_id)
    assert result.outcome is Outcome.OK, f"an INFER ended as {result}"
    return result.end_ns - start_ns


def _spread(durations_ns: list[int]) -> float:
    return quantile(durations_ns, 0.99) / max(1, quantile(durations_ns, 0.5))
