"""A CUDA card as a device: graphs replayed on pages that LOADs exchange under them.

Not yet run on a GPU. Two threads, one per lane, do all that is told here: `infer` prepares and
runs, `load` copies. Each sleeps in the driver until its work is done, without the interpreter's
lock, and then tells the event loop.
"""

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from typing import Final, TypeVar

import attrs
import trio

from cw.config import CudaSettings
from cw.devices.cuda.copies import PacedCopies
from cw.devices.cuda.driver import CardFull, CudaDriver
from cw.devices.cuda.graphs import CapturedGraph, GraphMaker, LoadedProgram
from cw.devices.cuda.keep_warm import KeepWarm
from cw.devices.cuda.pages import PagePool, PageRange
from cw.devices.cuda.staging import Staging
from cw.devices.cuda.turns import Turns
from cw.devices.cuda.watchdog import watch
from cw.devices.device import DeviceReport, InferReport, Tensors
from cw.devices.fitting import check_fit, read_program, read_weights
from cw.devices.garbage import settle_garbage
from cw.devices.host_images import HostImages
from cw.devices.lane_thread import LaneThread, Measured
from cw.devices.page_claims import PageClaims
from cw.errors import ArchiveInvalid, DeviceFault, HostMemoryFull, StartMissed
from cw.messages import DeviceDescription, ModelId, ModelSpec, Window
from cw.models.image import ImageLayout
from cw.models.program_signature import ProgramSignature

T = TypeVar("T")


@attrs.define(eq=False)
class _Program:
    loaded: LoadedProgram
    signature: ProgramSignature
    models: int = 0


@attrs.define(eq=False)
class _Prepared:
    spec: ModelSpec
    program: _Program
    staging: Staging
    range: PageRange
    image_address: int
    graphs: Mapping[int, CapturedGraph]


@attrs.frozen(kw_only=True)
class CudaParts:
    """What `opening.py` puts together, and `CudaDevice.aclose` takes apart."""

    driver: CudaDriver
    maker: GraphMaker
    pool: PagePool
    images: HostImages
    copies: PacedCopies
    small: CapturedGraph | None
    stream: int
    done: int
    unpin: Callable[[], None]


class CudaDevice:
    """Real inference on a card. Made by `opening.open_cuda_device`."""

    def __init__(
        self,
        parts: CudaParts,
        infer_lane: LaneThread,
        load_lane: LaneThread,
        description: DeviceDescription,
        settings: CudaSettings,
    ) -> None:
        self._parts: Final = parts
        self._infer_lane: Final = infer_lane
        self._load_lane: Final = load_lane
        self._description: Final = description
        self._claims: Final = PageClaims(description.pages_total)
        self._models: Final[dict[ModelId, _Prepared]] = {}
        self._programs: Final[dict[str, _Program]] = {}
        self._has_dropped_programs = False
        self._stagings: Final[dict[tuple[str, int], Staging]] = {}
        self._turns: Final = Turns()
        self._edits_wait: Final = not settings.edit_pages_while_running
        self._keep_warm: Final = KeepWarm(self._replay_small, settings.keep_warm_ns)
        self._timers: Final = trio.CancelScope()
        self._closed = False
        trio.lowlevel.spawn_system_task(self._run_timers, settings.hang_limit_ns)

    def describe(self) -> DeviceDescription:
        """Say which card this is, and how fast it took a page at the start."""
        return self._description

    async def prepare(
        self, model: ModelSpec, program: Path, weights: Path, *, is_allowed: bool = False
    ) -> DeviceReport:
        """Load the program if it is new, make the image, capture one graph per batch size.

        No INFER runs meanwhile, and no page moves.

        Raises:
            ArchiveInvalid: Program, weights and spec do not fit each other.
            HostMemoryFull: There is no room for its image or its graphs.
        """
        if self._claims.knows(model.model_id):
            return (await self._infer_lane.run(lambda: None)).report

        def prepare() -> _Prepared:
            with self._turns.turn():
                try:
                    return self._prepare(model, program, weights, is_allowed)
                except CardFull as exc:
                    raise HostMemoryFull(
                        f"expected room for the graphs and buffers of {model.name}: {exc}; raise "
                        "[executor.cuda] reserve, or remove models"
                    ) from exc

        measured = await self._infer_lane.run(prepare)
        self._models[model.model_id] = measured.value
        self._claims.admit(model.model_id)
        return measured.report

    async def load(
        self, model_id: ModelId, pages: Sequence[int], *, window: Window | None = None
    ) -> DeviceReport:
        """Map the pages between two INFERs, then copy the image beside them."""
        model = self._models[model_id]
        pages = self._claims.claim(model_id, pages, model.spec.pages)

        def load() -> int:
            # Never beside a PREPARE; beside an INFER only if that takes no turn.
            with self._turns.turn():
                model.range.map(pages)
            return self._parts.copies.copy(
                model.range.address, model.image_address, model.spec.image_bytes
            )

        try:
            measured = await self._load_lane.run(load, window=window)
        except StartMissed:
            self._claims.release(model_id)
            raise
        return _on_the_card(measured)

    async def unload(self, model_id: ModelId) -> None:
        """Strike the model out; its pages leave its addresses when others want them."""
        self._claims.release(model_id)

    async def infer(
        self,
        model_id: ModelId,
        batch_size: int,
        inputs: Sequence[Tensors],
        *,
        window: Window | None = None,
    ) -> InferReport:
        """Replay one graph.

        Raises:
            RequestInvalid: An input has not the size of its spec.
        """
        model = self._models[model_id]
        assert self._claims.is_resident(model_id), f"INFER of model {model_id}, not resident"
        assert batch_size in model.spec.batch_sizes, f"{batch_size}: {model.spec.batch_sizes}"
        assert len(inputs) <= batch_size, f"{len(inputs)} inputs in a batch of {batch_size}"
        outputs: tuple[Tensors, ...] = ()

        def infer() -> int:
            nonlocal outputs
            model.staging.fill(batch_size, inputs)
            with self._turns.turn() if self._edits_wait else nullcontext():
                device_ns = self._replay(model, batch_size)
            outputs = model.staging.read(len(inputs))
            return device_ns

        report = _on_the_card(await self._infer_lane.run(infer, window=window))
        self._keep_warm.used_ns = report.end_ns
        return InferReport(
            start_ns=report.start_ns,
            end_ns=report.end_ns,
            device_ns=report.device_ns,
            running_ns=report.running_ns,
            outputs=outputs,
        )

    async def forget(self, model_id: ModelId) -> None:
        """Drop a model's graphs, addresses and image, and its program with the last model."""
        self._claims.dismiss(model_id)

        def forget() -> None:
            with self._turns.turn():
                self._forget(model_id)

        await self._infer_lane.run(forget)

    async def aclose(self) -> None:
        """End both threads, then free all memory. Closing twice is allowed."""
        if not self._closed:
            self._closed = True
            self._timers.cancel()
            await self._load_lane.aclose()
            # A broken card refuses this, too, and frees all when the process ends; what broke it
            # was raised already.
            with suppress(DeviceFault):
                await self._infer_lane.run(self._close)
            await self._infer_lane.aclose()

    async def _run_timers(self, hang_limit_ns: int) -> None:
        lanes = (self._infer_lane, self._load_lane)
        with self._timers:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch, self._parts.driver, lanes, hang_limit_ns)
                if self._parts.small is not None:
                    nursery.start_soon(self._keep_warm.run, self._infer_lane)

    def _replay_small(self) -> None:
        parts = self._parts
        assert parts.small is not None, "nothing to keep the card warm with"
        with self._turns.turn() if self._edits_wait else nullcontext():
            parts.driver.launch(parts.small.executable, parts.stream)
            parts.driver.record(parts.done, parts.stream)
            parts.driver.wait(parts.done)

    def _replay(self, model: _Prepared, batch_size: int) -> int:
        """Send inputs, graph and outputs; sleep until all is done; return the graph's own ns."""
        parts, buffers = self._parts, model.staging.buffers
        driver, stream, graph = parts.driver, parts.stream, model.graphs[batch_size]
        input_sizes, output_sizes = model.staging.sizes(batch_size)
        # Without `inputs_by = "copy"` there is nothing to copy them to.
        for target, source, size in zip(graph.inputs, buffers.inputs, input_sizes, strict=False):
            driver.copy_in(target, source, size, stream)
        model.range.fence = parts.done
        driver.launch(graph.executable, stream)
        for target, source, size in zip(buffers.outputs, graph.outputs, output_sizes, strict=True):
            driver.copy_out(target, source, size, stream)
        driver.record(parts.done, stream)
        driver.wait(parts.done)
        return driver.between_ns(graph.first, graph.last)

    def _prepare(
        self, model: ModelSpec, program_path: Path, weights: Path, is_allowed: bool
    ) -> _Prepared:
        parts = self._parts
        layout = read_weights(weights)
        program = self._programs.get(model.program_sha256)
        if program is None:
            checked = read_program(model, program_path, is_allowed=is_allowed)
            check_fit(model, checked.signature, layout)
            program = _Program(parts.maker.load(checked, model), checked.signature)
        else:
            check_fit(model, program.signature, layout)
        key = (model.program_sha256, model.batch_sizes[-1])
        with ExitStack() as undo:
            address = parts.images.hold(model.model_id, layout.image_bytes)
            undo.callback(parts.images.drop, model.model_id)
            _read_image(weights, layout, address)
            staging = self._stagings.get(key)
            if staging is None:
                staging = Staging(parts.driver, model)
                undo.callback(staging.close)
            page_range = PageRange(parts.pool, model.pages)
            undo.callback(page_range.release)
            graphs = self._capture(model, program, layout, page_range, staging)
            undo.pop_all()
        self._programs[model.program_sha256], self._stagings[key] = program, staging
        program.models += 1
        staging.models += 1
        settle_garbage(anew=self._has_dropped_programs)
        self._has_dropped_programs = False
        return _Prepared(model, program, staging, page_range, address, graphs)

    def _capture(
        self,
        model: ModelSpec,
        program: _Program,
        layout: ImageLayout,
        page_range: PageRange,
        staging: Staging,
    ) -> Mapping[int, CapturedGraph]:
        """Capture on pages of zeros, so that indices among the weights lie in their tables."""
        parts = self._parts
        page_range.map_zeros()
        try:
            return parts.maker.capture(
                program.loaded, model, layout, page_range.address, staging.buffers, parts.stream
            )
        finally:
            parts.driver.synchronize()
            page_range.unmap_zeros()

    def _forget(self, model_id: ModelId) -> None:
        model = self._models.pop(model_id)
        for graph in model.graphs.values():
            self._parts.maker.drop(graph)
        model.range.release()
        self._parts.images.drop(model_id)
        model.program.models -= 1
        if model.program.models == 0:
            del self._programs[model.spec.program_sha256]
            # Collected by the next PREPARE: it takes long, and INFERs may go on now.
            self._has_dropped_programs = True
        model.staging.models -= 1
        if model.staging.models == 0:
            model.staging.close()
            del self._stagings[(model.spec.program_sha256, model.spec.batch_sizes[-1])]

    def _close(self) -> None:
        for model_id in list(self._models):
            self._forget(model_id)
        close_parts(self._parts)


def close_parts(parts: CudaParts) -> None:
    """Free what a device consists of; its models are gone."""
    parts.driver.synchronize()
    if parts.small is not None:
        parts.maker.drop(parts.small)
    parts.maker.close()
    parts.pool.close()
    parts.copies.close()
    parts.driver.drop_event(parts.done)
    parts.driver.drop_stream(parts.stream)
    parts.unpin()
    parts.images.close()
    parts.driver.close()


def _on_the_card(measured: Measured[int]) -> DeviceReport:
    """Report the card's own duration, which excludes the host's delays, in place of the host's."""
    report = measured.report
    device_ns = min(measured.value, report.end_ns - report.start_ns)
    return attrs.evolve(report, device_ns=device_ns, running_ns=device_ns)


def _read_image(weights: Path, layout: ImageLayout, address: int) -> None:
    """Read a model's image from its file.

    Raises:
        ArchiveInvalid: The file can't be read, or is shorter than it was.
    """
    memory = (ctypes.c_uint8 * layout.image_bytes).from_address(address)
    try:
        with open(weights, "rb", buffering=0) as file:
            file.seek(layout.data_start)
            view, end = memoryview(memory).cast("B"), 0
            while end < layout.image_bytes and (count := file.readinto(view[end:])):
                end += count
    except OSError as exc:
        raise ArchiveInvalid(f"weights: expected a readable file: {exc}") from exc
    if end < layout.image_bytes:
        raise ArchiveInvalid(
            f"weights: expected {layout.image_bytes} bytes, got {end}: the store was changed by "
            f"hand ({os.fspath(weights)}); add the model again"
        )
