"""The CUDA driver as the device needs it: numbers in, numbers out, errors that say what to do.

The only file of the device that imports `cuda.bindings`, and that not before a driver is opened, so
that a machine without CUDA can import all the rest. Addresses, streams, events, pages and graphs
are ints. Only names of CUDA 13.0 are used.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Final

from cw.errors import ConfigError, DeviceFault
from cw.units import US, format_bytes

_HOST_PORTABLE: Final = 1
_HOST_MAPPED: Final = 2
_NON_BLOCKING: Final = 1
_EVENT_BLOCKING_SYNC: Final = 1
_EVENT_NO_TIMING: Final = 2
_RECORD_EXTERNAL: Final = 1
_OUT_OF_MEMORY: Final = 2


class CardFull(DeviceFault):
    """The driver found no memory, the card's or pinned. The card is sound: take what was made back.

    A fault wherever there is nothing to take back.
    """


class CudaDriver:
    """One card and its primary context. Threads call `enter` before anything else.

    Every method raises `DeviceFault` when the driver answers with an error.

    Args:
        ordinal: Which card.
        waits_asleep: Whether a thread that waits for an event sleeps; else it watches, which is
            sooner by some microseconds and takes a processor.

    Raises:
        ConfigError: There is no driver, no such card, or one without virtual memory management.
    """

    def __init__(self, ordinal: int = 0, *, waits_asleep: bool = True) -> None:
        try:
            driver: Any = import_module("cuda.bindings.driver")
        except ImportError as exc:
            raise ConfigError(
                f"expected the package cuda-bindings of CUDA 13, got {exc}; install the extra "
                "`cuda`, or set [executor] device = 'cpu'"
            ) from exc
        self._cuda: Final[Any] = driver
        self._event_flags: Final = _EVENT_BLOCKING_SYNC if waits_asleep else 0
        self._waits: Final[dict[int, int]] = {}
        self._context: Any = None
        try:
            self._call(driver.cuInit, 0)
            self._device: Final = self._call(driver.cuDeviceGet, ordinal)
            attribute = driver.CUdevice_attribute
            has_pages = self._call(
                driver.cuDeviceGetAttribute,
                attribute.CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED,
                self._device,
            )
            self._context = self._call(driver.cuDevicePrimaryCtxRetain, self._device)
        # The bindings raise RuntimeErrors of their own where libcuda is missing.
        except (DeviceFault, RuntimeError, OSError) as exc:
            raise ConfigError(
                f"expected an NVIDIA card number {ordinal} with driver 580 or newer, got {exc}; "
                "see nvidia-smi, or set [executor] device = 'cpu'"
            ) from exc
        if not has_pages:
            self.close()
            raise ConfigError(
                f"expected a card with virtual memory management, got {self.name()}: use another"
            )
        kind = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        self._properties: Final = driver.CUmemAllocationProp()
        self._properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        self._properties.location.type = kind
        self._properties.location.id = ordinal
        self._access: Final = driver.CUmemAccessDesc()
        self._access.location.type = kind
        self._access.location.id = ordinal
        self._access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        self.enter()

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Note when this thread began to wait for the card."""
        thread = threading.get_ident()
        self._waits[thread] = time.perf_counter_ns()
        try:
            yield
        finally:
            del self._waits[thread]

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the driver, and return what comes after the status.

        Raises:
            CardFull: There is no memory.
            DeviceFault: It answered with an error, of this call or of an earlier one.
        """
        status, *values = function(*arguments)
        if int(status) != 0:
            code = getattr(status, "name", str(status))
            if int(status) == _OUT_OF_MEMORY:
                raise CardFull(f"expected memory for {function.__name__}, got {code}")
            raise DeviceFault(
                f"expected {function.__name__} to succeed, got {code} ({int(status)}), perhaps "
                "from work sent before; the executor has to restart. If it comes again, see "
                "dmesg for Xid messages"
            )
        return values[0] if len(values) == 1 else tuple(values)

    def name(self) -> str:
        """Name the card, as its vendor does."""
        return str(self._call(self._cuda.cuDeviceGetName, 128, self._device), "ascii").strip("\0 ")

    def enter(self) -> None:
        """Make the context the calling thread's own."""
        self._call(self._cuda.cuCtxSetCurrent, self._context)

    def close(self) -> None:
        """Give the context back."""
        if self._context is not None:
            self._context = None
            self._call(self._cuda.cuDevicePrimaryCtxRelease, self._device)

    def free_bytes(self) -> int:
        """Say how much device memory is free."""
        free, _total = self._call(self._cuda.cuMemGetInfo)
        return int(free)

    def synchronize(self) -> None:
        """Wait until the card has nothing to do."""
        with self._waiting():
            self._call(self._cuda.cuCtxSynchronize)

    def create_page(self, size_bytes: int) -> int:
        """Allocate physical memory without an address."""
        return int(self._call(self._cuda.cuMemCreate, size_bytes, self._properties, 0))

    def release_page(self, page: int) -> None:
        """Free what `create_page` made; it is mapped nowhere."""
        self._call(self._cuda.cuMemRelease, page)

    def reserve(self, size_bytes: int, alignment_bytes: int) -> int:
        """Reserve addresses."""
        return int(self._call(self._cuda.cuMemAddressReserve, size_bytes, alignment_bytes, 0, 0))

    def unreserve(self, address: int, size_bytes: int) -> None:
        """Give addresses back; nothing is mapped there."""
        self._call(self._cuda.cuMemAddressFree, address, size_bytes)

    def map(self, address: int, size_bytes: int, page: int) -> None:
        """Put a page at an address, without access."""
        self._call(self._cuda.cuMemMap, address, size_bytes, 0, page, 0)

    def allow_access(self, address: int, size_bytes: int) -> None:
        """Let the card read and write a range that is mapped throughout."""
        self._call(self._cuda.cuMemSetAccess, address, size_bytes, [self._access], 1)

    def unmap(self, address: int, size_bytes: int) -> None:
        """Take one page away from an address. The driver waits for nothing that uses it."""
        self._call(self._cuda.cuMemUnmap, address, size_bytes)

    def pin(self, address: int, size_bytes: int) -> None:
        """Lock host memory, and let the card read it."""
        flags = _HOST_PORTABLE | _HOST_MAPPED
        self._call(self._cuda.cuMemHostRegister, address, size_bytes, flags)

    def unpin(self, address: int) -> None:
        """Undo `pin`."""
        self._call(self._cuda.cuMemHostUnregister, address)

    def host_alloc(self, size_bytes: int) -> int:
        """Allocate pinned host memory that the card can read, too."""
        flags = _HOST_PORTABLE | _HOST_MAPPED
        return int(self._call(self._cuda.cuMemHostAlloc, size_bytes, flags))

    def host_free(self, address: int) -> None:
        """Free what `host_alloc` gave."""
        self._call(self._cuda.cuMemFreeHost, address)

    def device_address(self, host_address: int) -> int:
        """Say where the card sees pinned host memory."""
        return int(self._call(self._cuda.cuMemHostGetDevicePointer, host_address, 0))

    def stream(self, *, urgent: bool) -> int:
        """Make a stream of the highest or the lowest priority."""
        lowest, highest = self._call(self._cuda.cuCtxGetStreamPriorityRange)
        create = self._cuda.cuStreamCreateWithPriority
        return int(self._call(create, _NON_BLOCKING, highest if urgent else lowest))

    def drop_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call(self._cuda.cuStreamDestroy, stream)

    def event(self, *, timing: bool) -> int:
        """Make an event, with or without a time of its own."""
        flags = self._event_flags | (0 if timing else _EVENT_NO_TIMING)
        return int(self._call(self._cuda.cuEventCreate, flags))

    def drop_event(self, event: int) -> None:
        """Destroy an event."""
        self._call(self._cuda.cuEventDestroy, event)

    def record(self, event: int, stream: int) -> None:
        """Have the event happen when the stream has come so far."""
        self._call(self._cuda.cuEventRecord, event, stream)

    def record_inside(self, event: int, stream: int) -> None:
        """Make the event's recording a node of the graph that the stream is captured into."""
        self._call(self._cuda.cuEventRecordWithFlags, event, stream, _RECORD_EXTERNAL)

    def wait(self, event: int) -> None:
        """Wait until the event has happened, without the interpreter's lock."""
        with self._waiting():
            self._call(self._cuda.cuEventSynchronize, event)

    def waiting_ns(self) -> int:
        """Say how long the longest wait that goes on now has lasted; 0 if there is none."""
        now_ns = time.perf_counter_ns()
        return max((now_ns - begin_ns for begin_ns in list(self._waits.values())), default=0)

    def between_ns(self, first: int, second: int) -> int:
        """Return the card's own time between two events, to half a microsecond."""
        elapsed_ms = self._call(self._cuda.cuEventElapsedTime, first, second)
        return round(float(elapsed_ms) * 1_000 * US)

    def copy_in(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Send a copy from pinned host memory to the card."""
        self._call(self._cuda.cuMemcpyHtoDAsync, target, source, size_bytes, stream)

    def copy_out(self, target: int, source: int, size_bytes: int, stream: int) -> None:
        """Send a copy from the card to pinned host memory."""
        self._call(self._cuda.cuMemcpyDtoHAsync, target, source, size_bytes, stream)

    def fill_zeros(self, address: int, size_bytes: int, stream: int) -> None:
        """Send zeros to a range."""
        self._call(self._cuda.cuMemsetD8Async, address, 0, size_bytes, stream)

    def upload(self, graph: int, stream: int) -> None:
        """Send an executable graph to the card ahead of its first launch."""
        self._call(self._cuda.cuGraphUpload, graph, stream)

    def launch(self, graph: int, stream: int) -> None:
        """Run an executable graph."""
        self._call(self._cuda.cuGraphLaunch, graph, stream)

    def instantiate(self, graph: int) -> int:
        """Make an executable of a graph, which is not needed any more then."""
        return int(self._call(self._cuda.cuGraphInstantiate, graph, 0))

    def drop_executable(self, executable: int) -> None:
        """Free an executable graph; none of its launches is under way."""
        self._call(self._cuda.cuGraphExecDestroy, executable)

    def empty(self, graph: int) -> None:
        """Free all that a graph holds, but not the graph itself, which has another owner."""
        for node in self._nodes(graph):
            self._call(self._cuda.cuGraphDestroyNode, node)

    def node_kinds(self, graph: int) -> list[str]:
        """Name the kinds of a graph's nodes (not an executable's), e.g. ``KERNEL``."""
        kinds = [self._call(self._cuda.cuGraphNodeGetType, node) for node in self._nodes(graph)]
        return [kind.name.removeprefix("CU_GRAPH_NODE_TYPE_") for kind in kinds]

    def _nodes(self, graph: int) -> list[Any]:
        # Asked twice: first for the number, as the driver wants it.
        _none, count = self._call(self._cuda.cuGraphGetNodes, graph, 0)
        nodes, _count = self._call(self._cuda.cuGraphGetNodes, graph, count)
        return list(nodes)


def check_room(driver: CudaDriver, wanted_bytes: int, kept_bytes: int) -> int:
    """Say how many bytes pages may take, of what is free now.

    Args:
        driver: Whose card.
        wanted_bytes: Upper bound.
        kept_bytes: What graphs and the driver itself need beside them.
    """
    free_bytes = driver.free_bytes()
    if free_bytes <= kept_bytes:
        raise ConfigError(
            f"expected more than {format_bytes(kept_bytes)} of free device memory, got "
            f"{format_bytes(free_bytes)}: end what else uses the card, or lower [executor.cuda] "
            "graph_memory"
        )
    return min(wanted_bytes, free_bytes - kept_bytes)
