"""What experiments share: one CUDA context, streams, events, pages, and a second thread.

What the device does as well goes through its own driver (`driver.py`), so that what is measured is
what is shipped; `call` is for what only experiments ask. torch is imported only when an
experiment asks for it, so that those that need the driver alone run without. Freeing is left to the
end of the process, which runs one experiment and is gone, except where memory would run out.
"""

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, Final, Self

from cw.devices.cuda.driver import CudaDriver
from cw.units import PAGE_BYTES

_EVENT_BLOCKING_SYNC: Final = 1
_EVENT_NO_TIMING: Final = 2


class DriverRefused(Exception):
    """A driver call answered with an error; the text has the call's arguments and its status."""


class Rig:
    """One process's use of device 0, in its primary context, which torch shares.

    Args:
        with_torch: Whether to let torch make the context.
    """

    def __init__(self, *, with_torch: bool) -> None:
        self._torch: Any = None
        if with_torch:
            torch: Any = import_module("torch")
            torch.cuda.init()
            torch.zeros(1, device="cuda")
            self._torch = torch
        self.shipped: Final = CudaDriver()
        # For the calls that only experiments make.
        self.driver: Final[Any] = import_module("cuda.bindings.driver")
        self.device: Final = self.call(self.driver.cuDeviceGet, 0)

    @property
    def torch(self) -> Any:
        """The torch that shares the context."""
        assert self._torch is not None, "this experiment is listed with needs_torch=False"
        return self._torch

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the driver, and return what comes after the status.

        Raises:
            DriverRefused: It answered with an error.
        """
        status, *values = function(*arguments)
        if int(status) != 0:
            raise DriverRefused(f"{function.__name__}{arguments} answers {status!r}")
        return values[0] if len(values) == 1 else tuple(values)

    def enter_context(self) -> None:
        """Make the context this thread's own: each thread does so before its first call."""
        self.shipped.enter()

    def wait(self) -> None:
        """Let all that was sent to the device end."""
        self.shipped.synchronize()

    # Streams and events.

    def stream(self, *, urgent: bool = False) -> Any:
        """Make a stream; an urgent one has the device's highest priority, others the lowest."""
        return self.shipped.stream(urgent=urgent)

    def event(self, *, blocking: bool = False, timing: bool = True) -> Any:
        """Make an event; a blocking one puts the thread that waits for it to sleep."""
        flags = (_EVENT_BLOCKING_SYNC if blocking else 0) | (0 if timing else _EVENT_NO_TIMING)
        return self.call(self.driver.cuEventCreate, flags)

    def record(self, event: Any, stream: Any) -> None:
        """Have an event happen when the stream has got so far."""
        self.shipped.record(int(event), stream)

    def record_inside(self, event: Any, stream: Any) -> None:
        """While a stream is captured: make the event's recording a node of the graph."""
        self.shipped.record_inside(int(event), stream)

    def wait_for(self, event: Any) -> None:
        """Return once an event has happened."""
        self.shipped.wait(int(event))

    def has_happened(self, event: Any) -> bool:
        """Say whether an event has happened, without waiting."""
        (status,) = self.driver.cuEventQuery(event)
        if status == self.driver.CUresult.CUDA_ERROR_NOT_READY:
            return False
        if int(status) != 0:
            raise DriverRefused(f"cuEventQuery answers {status!r}")
        return True

    def between_ns(self, first: Any, second: Any) -> int:
        """Return the device's own time between two events; it is good to half a microsecond."""
        return self.shipped.between_ns(int(first), int(second))

    # Memory.

    def pages(self, count: int, page_bytes: int = PAGE_BYTES) -> list[Any]:
        """Make pages of device memory; they have no address."""
        return [self.shipped.create_page(page_bytes) for _ in range(count)]

    def drop_pages(self, pages: Sequence[Any]) -> None:
        """Give pages back, which must be mapped nowhere."""
        for page in pages:
            self.shipped.release_page(page)

    def reserve(self, page_count: int, page_bytes: int = PAGE_BYTES) -> "PageRange":
        """Reserve addresses for so many pages."""
        address = self.shipped.reserve(page_count * page_bytes, page_bytes)
        return PageRange(self, address, page_count, page_bytes)

    def allow_access(self, address: int, size_bytes: int) -> None:
        """Let the device read and write a mapped range."""
        self.shipped.allow_access(address, size_bytes)

    def pinned(self, size_bytes: int) -> int:
        """Return the address of new pinned host memory, which the device can read as well."""
        return self.shipped.host_alloc(size_bytes)

    def plain_memory(self, size_bytes: int) -> int:
        """Return the address of new device memory that is not made of pages."""
        return int(self.call(self.driver.cuMemAlloc, size_bytes))

    def free_bytes(self) -> int:
        """Return how much device memory is free."""
        return self.shipped.free_bytes()

    def copy_in(self, target: int, source: int, size_bytes: int, stream: Any) -> None:
        """Send a copy from host to device to a stream."""
        self.shipped.copy_in(target, source, size_bytes, stream)

    def copy_out(self, target: int, source: int, size_bytes: int, stream: Any) -> None:
        """Send a copy from device to host to a stream."""
        self.shipped.copy_out(target, source, size_bytes, stream)

    def beside(self, step: Callable[[int], None]) -> "Beside":
        """Repeat a step on a thread of its own while the ``with`` block runs."""
        return Beside(self, step)


class PageRange:
    """Reserved addresses, to which pages are mapped and from which they are taken again."""

    def __init__(self, rig: Rig, address: int, page_count: int, page_bytes: int) -> None:
        self._rig: Final = rig
        self.address: Final = address
        self.page_count: Final = page_count
        self.page_bytes: Final = page_bytes
        self.size_bytes: Final = page_count * page_bytes

    def map(self, pages: Sequence[Any]) -> None:
        """Map pages from the range's start on: one call each, then one for the access of all."""
        for index, page in enumerate(pages):
            self.map_one(index, page)
        self._rig.allow_access(self.address, len(pages) * self.page_bytes)

    def map_one(self, index: int, page: Any) -> None:
        """Map one page, without access."""
        address = self.address + index * self.page_bytes
        self._rig.shipped.map(address, self.page_bytes, page)

    def unmap(self) -> None:
        """Take all pages away; the device must not be using them."""
        for index in range(self.page_count):
            self.unmap_one(index)

    def unmap_one(self, index: int) -> None:
        """Take one page away."""
        address = self.address + index * self.page_bytes
        self._rig.shipped.unmap(address, self.page_bytes)

    def free(self) -> None:
        """Give the addresses back; nothing may be mapped."""
        self._rig.shipped.unreserve(self.address, self.size_bytes)


class Beside:
    """A thread that repeats a step, in the rig's context, until its block is left."""

    def __init__(self, rig: Rig, step: Callable[[int], None]) -> None:
        self._rig: Final = rig
        self._step: Final = step
        self._stop: Final = threading.Event()
        self._problem: Exception | None = None
        self._thread: Final = threading.Thread(target=self._repeat, daemon=True)
        self.count = 0
        """Steps done so far."""

    def __enter__(self) -> Self:
        self._thread.start()
        while self.count == 0 and self._thread.is_alive():
            time.sleep(1e-3)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        if self._problem is not None and error is None:
            raise self._problem

    def _repeat(self) -> None:
        try:
            self._rig.enter_context()
            while not self._stop.is_set():
                self._step(self.count)
                self.count += 1
        except Exception as problem:  # handed to the thread that measures
            self._problem = problem


def fill_host(address: int, size_bytes: int, value: int) -> None:
    """Write one byte's value all over a range of host memory."""
    ctypes.memset(address, value, size_bytes)
