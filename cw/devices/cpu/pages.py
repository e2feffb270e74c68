"""Pages of host memory that models take turns on, each model seeing them at its own addresses.

All memory is found once, at the start. Each page has a *home* address; a LOAD moves the pages given
to a model into the model's range, where its tensors were bound for good. They stay there until
another model is given one of them: then they all go home first. So a tensor may span pages that are
not neighbours, nothing is ever allocated or freed, and an UNLOAD is nothing but a word.

Pages are moved by page tables, not mapped anew from a file: mapping 45 MB of a memfd cost 5.3 ms
and taking it away 1.9 ms, against 0.03 ms each for moving (design/0010). A page is as much memory
as its neighbours' and keeps its contents as it moves; what is in it before a LOAD is no secret from
the executor, but no model can reach it: its tensors end where its image ends.
"""

import os
import time
from collections.abc import Sequence
from typing import Final

from cw.devices import address_space
from cw.errors import ConfigError
from cw.units import PAGE_BYTES, SECOND, format_bytes


class PageMemory:
    """The pages of one device.

    Raises:
        ConfigError: The machine has not that much memory, or a kernel that can't move it.
    """

    def __init__(self, pages_total: int) -> None:
        self.pages_total: Final = pages_total
        size_bytes = pages_total * PAGE_BYTES
        _check_available(size_bytes)
        self._home: Final = address_space.reserve(size_bytes, alignment_bytes=PAGE_BYTES)
        for page in range(pages_total):
            address_space.fill_with_memory(self.home_of(page), PAGE_BYTES)
        self._closed = False
        self.lies_in: Final[dict[int, PageRange]] = {}
        """The ranges that pages lie in; those that are not named are at home."""

    def home_of(self, page: int) -> int:
        """Say where a page lies while no model has it."""
        return self._home + page * PAGE_BYTES

    def reserve(self, pages: int) -> "PageRange":
        """Reserve addresses for a model of this many pages, for as long as it is known.

        Raises:
            OSError: The address space, or the kernel's table of mappings, is full.
        """
        return PageRange(self, pages)

    def measure_load(self) -> int:
        """Load one page of zeros and say at what rate that went, in bytes per second.

        Raises:
            ConfigError: The kernel can't move pages.
        """
        source = address_space.reserve(PAGE_BYTES, alignment_bytes=PAGE_BYTES)
        address_space.fill_with_memory(source, PAGE_BYTES)
        trial = self.reserve(1)
        begin_ns = time.perf_counter_ns()
        try:
            trial.map([0])
        except OSError as exc:
            raise ConfigError(
                f"expected Linux 5.7 or newer, which can move memory between addresses, "
                f"got {os.uname().release}: {exc}; use another device than `cpu`"
            ) from exc
        address_space.copy(trial.address, source, PAGE_BYTES)
        duration_ns = max(1, time.perf_counter_ns() - begin_ns)
        trial.unmap()
        trial.release()
        address_space.release(source, PAGE_BYTES)
        return PAGE_BYTES * SECOND // duration_ns

    def close(self) -> None:
        """Free all memory; every range was released. Closing twice is allowed."""
        if not self._closed:
            self._closed = True
            address_space.release(self._home, self.pages_total * PAGE_BYTES)


class PageRange:
    """One model's addresses; an access faults unless pages are mapped there."""

    def __init__(self, memory: PageMemory, pages: int) -> None:
        self._memory: Final = memory
        self._size_bytes: Final = pages * PAGE_BYTES
        self.address: Final = address_space.reserve(self._size_bytes, alignment_bytes=PAGE_BYTES)
        self._mapped: tuple[int, ...] = ()

    @property
    def mapped(self) -> tuple[int, ...]:
        """The pages that lie here, in the order of addresses."""
        return self._mapped

    def map(self, pages: Sequence[int]) -> None:
        """Move pages to here, from their homes or from where they lie unused.

        Raises:
            OSError: The kernel's table of mappings is full; nothing is mapped then.
        """
        assert len(pages) * PAGE_BYTES == self._size_bytes, f"got {len(pages)} pages"
        lies_in = self._memory.lies_in
        self.unmap()
        for page in pages:
            if page in lies_in:
                lies_in[page].unmap()
        try:
            for index, page in enumerate(pages):
                target = self.address + index * PAGE_BYTES
                address_space.move(self._memory.home_of(page), target, PAGE_BYTES)
                self._mapped += (page,)
                lies_in[page] = self
        except OSError:
            self.unmap()
            raise

    def unmap(self) -> None:
        """Move the pages home, if there are any; from now on an access here is a fault.

        Raises:
            OSError: The kernel's table of mappings is full: the device is broken.
        """
        for index, page in enumerate(self._mapped):
            source = self.address + index * PAGE_BYTES
            address_space.move(source, self._memory.home_of(page), PAGE_BYTES)
            del self._memory.lies_in[page]
        if self._mapped:
            address_space.bar(self.address, self._size_bytes)
        self._mapped = ()

    def release(self) -> None:
        """Send the pages home and give the addresses back; no tensor looks here any more."""
        self.unmap()
        address_space.release(self.address, self._size_bytes)


def _check_available(size_bytes: int) -> None:
    """Refuse now what the kernel would answer later, by killing some process."""
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    available_bytes = int(fields["MemAvailable"].split()[0]) * 1024
    if size_bytes > available_bytes:
        raise ConfigError(
            f"expected {format_bytes(size_bytes)} of free memory for pages, "
            f"got {format_bytes(available_bytes)}: lower [executor] gpu_memory"
        )
