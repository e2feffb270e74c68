"""How a cuda device comes to be: card, torch's share, pages, host memory, threads."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from cw.config import CudaSettings, ExecutorSettings
from cw.devices.cuda.copies import PacedCopies
from cw.devices.cuda.device import CudaDevice, CudaParts, close_parts
from cw.devices.cuda.driver import CardFull, CudaDriver, check_room
from cw.devices.cuda.graphs import GraphMaker
from cw.devices.cuda.pages import PagePool, PageRange
from cw.devices.garbage import settle_garbage
from cw.devices.host_images import HostImages
from cw.devices.lane_thread import LaneThread
from cw.errors import ConfigError, DeviceFault
from cw.messages import DeviceDescription, ModelId
from cw.units import MS, PAGE_BYTES, SECOND, format_bytes

_TRIAL: Final = ModelId(0)
_TRIAL_COPIES: Final = 3


def torch_graphs(driver: CudaDriver, settings: CudaSettings) -> GraphMaker:
    """Make the graph maker of a real card."""
    from cw.devices.cuda.torch_graphs import TorchGraphs  # takes torch's CUDA to be there

    return TorchGraphs(driver, settings)


async def open_cuda_device(
    settings: ExecutorSettings,
    *,
    make_graphs: Callable[[CudaDriver, CudaSettings], GraphMaker] = torch_graphs,
) -> CudaDevice:
    """Open a card: seconds, most of them for torch and for pinning host memory.

    Args:
        settings: Of the executor.
        make_graphs: Given the driver and the settings.

    Raises:
        ConfigError: A setting is wrong, or the card or its memory can't be had.
    """
    cuda = settings.cuda
    _check(cuda)
    driver = CudaDriver(cuda.ordinal, waits_asleep=cuda.wait_by == "sleep")

    @contextmanager
    def in_context() -> Iterator[None]:
        driver.enter()
        yield

    def lane(name: str) -> LaneThread:
        return LaneThread(
            name=name,
            cores=settings.cores,
            switch_interval_s=settings.switch_interval_s,
            surroundings=in_context,
        )

    infer_lane = lane("cuda-infer")
    try:
        parts, pages_total, rate = (
            await infer_lane.run(lambda: _open_parts(driver, settings, make_graphs))
        ).value
    except BaseException as exc:
        await infer_lane.aclose()
        if isinstance(exc, DeviceFault):
            raise ConfigError(f"expected a card in working order, got: {exc}") from exc
        raise
    return CudaDevice(
        parts,
        infer_lane,
        lane("cuda-load"),
        DeviceDescription(
            kind="cuda",
            name=re.sub(r"[^A-Za-z0-9.]+", "-", driver.name()).strip("-."),
            pages_total=pages_total,
            shared_lanes=False,
            load_bytes_per_second=rate,
        ),
        cuda,
    )


def _check(cuda: CudaSettings) -> None:
    for name, ways in (("inputs_by", ("kernel", "copy")), ("wait_by", ("sleep", "spin"))):
        if getattr(cuda, name) not in ways:
            raise ConfigError(
                f"[executor.cuda] {name}: expected {' or '.join(ways)}, got {getattr(cuda, name)!r}"
            )
    least = {
        "load_chunk_bytes": 1,
        "load_chunks_outstanding": 1,
        "warm_up_runs": 1,
        "hang_limit_ns": MS,
        "keep_warm_ns": 0,
    }
    for name, bound in least.items():
        if getattr(cuda, name) < bound:
            raise ConfigError(
                f"[executor.cuda] {name.removesuffix('_bytes').removesuffix('_ns')}: expected at "
                f"least {bound}, got {getattr(cuda, name)}"
            )


def _open_parts(
    driver: CudaDriver,
    settings: ExecutorSettings,
    make_graphs: Callable[[CudaDriver, CudaSettings], GraphMaker],
) -> tuple[CudaParts, int, int]:
    """Find all memory; return it with the number of pages and a LOAD's rate in bytes/s."""
    cuda = settings.cuda
    maker = make_graphs(driver, cuda)
    kept_bytes = cuda.graph_memory_bytes + cuda.reserve_bytes + PAGE_BYTES
    room_bytes = check_room(driver, settings.gpu_memory_bytes, kept_bytes)
    pages_total = room_bytes // PAGE_BYTES
    if pages_total < 1:
        raise ConfigError("expected room for one page on the card, got none: use a larger card")
    with ExitStack() as undo:
        pool = PagePool(driver, pages_total)
        undo.callback(pool.close)
        images, unpin = _pinned_images(driver, settings.host_memory_bytes)
        undo.callback(images.close)
        undo.callback(unpin)
        stream = driver.stream(urgent=True)
        parts = CudaParts(
            driver=driver,
            maker=maker,
            pool=pool,
            images=images,
            copies=PacedCopies(
                driver,
                chunk_bytes=cuda.load_chunk_bytes,
                outstanding=cuda.load_chunks_outstanding,
            ),
            small=maker.small(stream) if cuda.keep_warm_ns else None,
            stream=stream,
            done=driver.event(timing=False),
            unpin=unpin,
        )
        undo.callback(close_parts, parts)
        rate = _clean_and_measure(parts)
        undo.pop_all()
    settle_garbage()
    return parts, pages_total, rate


def _pinned_images(driver: CudaDriver, size_bytes: int) -> tuple[HostImages, Callable[[], None]]:
    """Find and pin memory for host images; return it, and what unpins it.

    Raises:
        ConfigError: There is not so much memory, or not so much of it may be pinned.
    """
    pinned: list[int] = []

    def pin(address: int, size_bytes: int) -> None:
        driver.pin(address, size_bytes)
        pinned.append(address)

    def unpin() -> None:
        while pinned:
            driver.unpin(pinned.pop())

    try:
        return HostImages(size_bytes, pin=pin), unpin
    except (OSError, CardFull) as exc:
        raise ConfigError(
            f"expected to pin {format_bytes(size_bytes)} for host images, got {exc}: lower "
            "[executor] host_memory, or raise the limit on locked memory (ulimit -l)"
        ) from exc


def _clean_and_measure(parts: CudaParts) -> int:
    """Write the page of zeros; load one page, and say at what rate that went, in bytes/s."""
    driver, trial = parts.driver, PageRange(parts.pool, 1)
    trial.map_zeros()
    driver.fill_zeros(trial.address, PAGE_BYTES, parts.stream)
    driver.synchronize()
    trial.unmap_zeros()
    source = parts.images.hold(_TRIAL, PAGE_BYTES)
    try:
        trial.map([0])
        took_ns = min(
            parts.copies.copy(trial.address, source, PAGE_BYTES) for _ in range(_TRIAL_COPIES)
        )
    finally:
        driver.synchronize()  # a copy may be under way if another was refused
        trial.release()
        parts.images.drop(_TRIAL)
    return PAGE_BYTES * SECOND // max(1, took_ns)
