"""The CPU device: `Device` on host memory and torch, everything it does on one thread.

PREPARE does whatever can be done ahead: the program is loaded, rewritten and shared, the model's
image is made in host memory, its addresses are reserved, a tensor is bound to each parameter's
place. What is left for a LOAD is to move pages and copy once, for an INFER to write the inputs,
call and copy the outputs. The first runs after a PREPARE are slow (torch's own caches): probes are
for that.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self, TypeVar

import attrs
import torch
import trio

from cw.devices import address_space
from cw.devices.cpu.heap import keep_large_blocks
from cw.devices.cpu.pages import PageMemory, PageRange
from cw.devices.cpu.program import CpuProgram, OutputReader, load_program, warm_loader
from cw.devices.cpu.quiet import torch_settings
from cw.devices.device import DeviceReport, InferReport, Tensors
from cw.devices.fitting import check_fit, read_program, read_weights
from cw.devices.garbage import settle_garbage
from cw.devices.host_images import HostImages
from cw.devices.lane_thread import LaneThread, Measured
from cw.devices.page_claims import PageClaims
from cw.errors import ArchiveInvalid, DeviceFault, StartMissed
from cw.messages import DeviceDescription, ModelId, ModelSpec, Window
from cw.units import PAGE_BYTES, GiB

T = TypeVar("T")


@attrs.frozen(kw_only=True, eq=False)
class _Prepared:
    """A model as PREPARE left it."""

    spec: ModelSpec
    program: CpuProgram
    range: PageRange
    parameters: tuple[torch.Tensor, ...]
    reader: OutputReader
    image_address: int


class CpuDevice:
    """Real inference on the CPU. Made by `open`, inside a Trio run on a real clock."""

    def __init__(
        self,
        lane: LaneThread,
        memory: PageMemory,
        images: HostImages,
        description: DeviceDescription,
        *,
        as_exported: bool = False,
    ) -> None:
        self._lane: Final = lane
        self._memory: Final = memory
        self._images: Final = images
        self._description: Final = description
        self._as_exported: Final = as_exported
        self._claims: Final = PageClaims(memory.pages_total)
        self._models: Final[dict[ModelId, _Prepared]] = {}
        self._programs: Final[dict[str, CpuProgram]] = {}
        self._has_dropped_programs = False

    @classmethod
    async def open(
        cls,
        *,
        pages_total: int,
        host_memory_bytes: int = 4 * GiB,
        threads: int = 1,
        cores: Sequence[int] = (),
        switch_interval_s: float = 5e-5,
        as_exported: bool = False,
    ) -> Self:
        """Start the thread, find the memory, import torch's loader: one second or a few.

        Args:
            pages_total: Pages of 16 MiB for weights.
            host_memory_bytes: Bound on the images of all prepared models.
            threads: Torch's threads for one operator.
            cores: Processors that the device's thread is kept on; empty means any.
            switch_interval_s: Python's thread switch interval, for as long as the device lives.
            as_exported: Run programs as torch does, and not rewritten for this processor.

        Raises:
            ConfigError: The machine has not enough memory, or too old a kernel.
        """
        keep_large_blocks()
        lane = LaneThread(
            name="cpu-lane",
            cores=cores,
            switch_interval_s=switch_interval_s,
            surroundings=lambda: torch_settings(threads),
        )

        def start() -> tuple[PageMemory, HostImages, int]:
            memory = PageMemory(pages_total)
            images = HostImages(host_memory_bytes)
            warm_loader()
            settle_garbage()
            return memory, images, memory.measure_load()

        try:
            memory, images, load_bytes_per_second = (await lane.run(start)).value
        except BaseException:
            await lane.aclose()
            raise
        description = DeviceDescription(
            kind="cpu",
            name=_processor_name(threads) + (".exported" if as_exported else ""),
            pages_total=pages_total,
            shared_lanes=True,
            load_bytes_per_second=load_bytes_per_second,
        )
        return cls(lane, memory, images, description, as_exported=as_exported)

    def describe(self) -> DeviceDescription:
        """Say what processor this is, and how fast it copied a page at the start."""
        return self._description

    async def prepare(
        self, model: ModelSpec, program: Path, weights: Path, *, is_allowed: bool = False
    ) -> DeviceReport:
        """Load the program if it is new, make the image, bind the parameters.

        Raises:
            ArchiveInvalid: Program, weights and spec do not fit each other.
            HostMemoryFull: There is no room for its image.
        """
        if self._claims.knows(model.model_id):
            return (await self._lane.run(lambda: None)).report
        measured = await self._run(lambda: self._prepare(model, program, weights, is_allowed))
        self._models[model.model_id] = measured.value
        self._claims.admit(model.model_id)
        return measured.report

    async def load(
        self, model_id: ModelId, pages: Sequence[int], *, window: Window | None = None
    ) -> DeviceReport:
        """Move the pages to the model's addresses and copy the image once."""
        model = self._models[model_id]
        pages = self._claims.claim(model_id, pages, model.spec.pages)

        def load() -> None:
            model.range.map(pages)
            address_space.copy(
                model.range.address, model.image_address, model.program.plan.size_bytes
            )

        try:
            return (await self._run(load, window)).report
        except StartMissed:
            self._claims.release(model_id)
            raise

    async def unload(self, model_id: ModelId) -> None:
        """Note that the pages are free; the LOAD that takes one of them moves all of them."""
        self._claims.release(model_id)
        await trio.lowlevel.checkpoint()

    async def infer(
        self,
        model_id: ModelId,
        batch_size: int,
        inputs: Sequence[Tensors],
        *,
        window: Window | None = None,
    ) -> InferReport:
        """Compute one batch.

        Raises:
            RequestInvalid: The program refuses these inputs; the device is well.
            ArchiveInvalid: A probe failed, or the outputs are not those of the model's spec.
        """
        model = self._models[model_id]
        assert self._claims.is_resident(model_id), f"INFER of model {model_id}, not resident"
        assert batch_size in model.spec.batch_sizes, f"{batch_size}: {model.spec.batch_sizes}"
        assert len(inputs) <= batch_size, f"{len(inputs)} inputs in a batch of {batch_size}"

        def infer() -> tuple[Tensors, ...]:
            outputs = model.program.run(model.parameters, batch_size, inputs)
            return model.reader.read(outputs, batch_size, len(inputs))

        measured = await self._run(infer, window)
        report = measured.report
        return InferReport(
            start_ns=report.start_ns,
            end_ns=report.end_ns,
            device_ns=report.device_ns,
            running_ns=report.running_ns,
            outputs=measured.value,
        )

    async def forget(self, model_id: ModelId) -> None:
        """Drop a model's tensors, addresses and image, and its program with the last model."""
        self._claims.dismiss(model_id)
        await self._run(lambda: self._forget(model_id))

    async def aclose(self) -> None:
        """Stop the thread, then free all memory. Closing twice is allowed."""
        await self._lane.aclose()
        # No thread runs any more, so nothing looks at this memory while it goes.
        for model_id in list(self._models):
            self._forget(model_id)
        self._memory.close()
        self._images.close()

    async def _run(self, work: Callable[[], T], window: Window | None = None) -> Measured[T]:
        """Do work on the device's thread.

        Raises:
            DeviceFault: The system refused memory or addresses.
        """
        try:
            return await self._lane.run(work, window=window)
        except (OSError, MemoryError) as exc:
            raise DeviceFault(
                f"cpu device: {exc}; expected room for {len(self._models)} models: raise "
                "vm.max_map_count or lower [executor] gpu_memory, and start again"
            ) from exc

    def _prepare(
        self, model: ModelSpec, program_path: Path, weights: Path, is_allowed: bool
    ) -> _Prepared:
        program = self._programs.get(model.program_sha256)
        layout = read_weights(weights)
        if program is None:
            checked = read_program(model, program_path, is_allowed=is_allowed)
            check_fit(model, checked.signature, layout)
            program = load_program(checked, model, as_exported=self._as_exported)
        else:
            check_fit(model, program.signature, layout)
        plan = program.plan
        if plan.size_bytes > model.pages * PAGE_BYTES:
            raise ArchiveInvalid(
                f"weights of {model.name}: expected pages for {plan.size_bytes} bytes, as other "
                f"models of this program have, got {model.pages} pages; pack it again"
            )
        image_address = self._images.hold(model.model_id, plan.size_bytes)
        try:
            program.write_image(layout, weights, image_address)
            page_range = self._memory.reserve(model.pages)
        except BaseException:
            self._images.drop(model.model_id)
            raise
        program.buffers.grow(model.batch_sizes)
        program.models += 1
        self._programs[model.program_sha256] = program
        prepared = _Prepared(
            spec=model,
            program=program,
            range=page_range,
            parameters=plan.bind(page_range.address),
            reader=OutputReader(model),
            image_address=image_address,
        )
        settle_garbage(anew=self._has_dropped_programs)
        self._has_dropped_programs = False
        return prepared

    def _forget(self, model_id: ModelId) -> None:
        model = self._models.pop(model_id)
        model.program.models -= 1
        if model.program.models == 0:
            del self._programs[model.spec.program_sha256]
            self._has_dropped_programs = True
        page_range = model.range
        del model  # its tensors first, then the addresses that they look at
        page_range.release()
        self._images.drop(model_id)


def _processor_name(threads: int) -> str:
    """Name the processor in letters that a file may have, e.g. ``AMD-EPYC.1-thread``."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.split(":", 1)[1] for line in file if line.startswith("model name")]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", names[0].strip() if names else "cpu").strip("-.")
    return f"{name}.{threads}-thread"
