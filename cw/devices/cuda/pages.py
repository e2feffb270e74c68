"""Pages of the card's memory, and the addresses at which models see them.

All pages are created at the start and kept: creating is the costly part. A model's addresses are
reserved when it is prepared and never change, so its graphs stay valid; a LOAD puts pages there.
An UNLOAD only strikes the model out of the books: a page is taken from its last address when it is
given to the next. The driver's unmap waits for nothing, so before it the device waits for the event
of the last INFER that read there.
"""

from collections.abc import Sequence
from typing import Final

from cw.devices.cuda.driver import CudaDriver
from cw.errors import ConfigError, DeviceFault
from cw.units import PAGE_BYTES, format_bytes


class PagePool:
    """The pages of one device, and one more of zeros.

    Raises:
        ConfigError: The card has not so much memory.
    """

    def __init__(self, driver: CudaDriver, pages_total: int) -> None:
        self.driver: Final = driver
        self._pages: Final[list[int]] = []
        self._places: Final[dict[int, tuple[PageRange, int]]] = {}
        try:
            for _ in range(pages_total + 1):
                self._pages.append(driver.create_page(PAGE_BYTES))
        except DeviceFault as exc:
            made = len(self._pages)
            self.close()
            raise ConfigError(
                f"expected {pages_total + 1} pages of {format_bytes(PAGE_BYTES)} on the card, got "
                f"{made} ({exc}); lower [executor] gpu_memory"
            ) from exc

    @property
    def zeros(self) -> int:
        """The page of zeros, as the driver calls it; it may lie at several addresses."""
        return self._pages[-1]

    def handle_of(self, page: int) -> int:
        """Say what the driver calls a page."""
        return self._pages[page]

    def take(self, page: int, place: "tuple[PageRange, int]") -> bool:
        """Note that a page is to lie at a place, and take it from where it lies.

        Returns:
            Whether it has to be mapped: it may lie there still, from an earlier LOAD.
        """
        before = self._places.get(page)
        if before is not None and before[0] is place[0] and before[1] == place[1]:
            return False
        if before is not None:
            before[0].vacate(before[1])
        self._places[page] = place
        return True

    def leave(self, page: int) -> None:
        """Note that a page lies nowhere."""
        del self._places[page]

    def close(self) -> None:
        """Free all pages; every range was released. Closing twice is allowed."""
        for page in self._pages:
            self.driver.release_page(page)
        self._pages.clear()


class PageRange:
    """One model's addresses.

    Args:
        pool: Whose pages will lie here.
        pages: How many.
    """

    def __init__(self, pool: PagePool, pages: int) -> None:
        self._pool: Final = pool
        self._size_bytes: Final = pages * PAGE_BYTES
        self._lying: Final[list[int | None]] = [None] * pages
        self.address: Final = pool.driver.reserve(self._size_bytes, PAGE_BYTES)
        self.fence: int | None = None
        """The event after which nothing that was sent to the card reads here; None: nothing was."""

    def map(self, pages: Sequence[int]) -> None:
        """Put pages here, taking them from wherever they lie.

        Raises:
            DeviceFault: The driver refuses.
        """
        assert len(pages) == len(self._lying), f"got {len(pages)} pages"
        missing = []
        for index, page in enumerate(pages):
            if self._pool.take(page, (self, index)):
                missing.append((index, page))
        for index, page in missing:
            if self._lying[index] is not None:  # another page, from an earlier LOAD
                self.vacate(index)
            self._map_one(index, self._pool.handle_of(page))
            self._lying[index] = page
        if missing:
            self._pool.driver.allow_access(self.address, self._size_bytes)

    def vacate(self, index: int) -> None:
        """Take away the page that lies at an index, once nothing reads it."""
        page = self._lying[index]
        assert page is not None, f"no page lies at {index}"
        if self.fence is not None:
            self._pool.driver.wait(self.fence)
        self._pool.driver.unmap(self.address + index * PAGE_BYTES, PAGE_BYTES)
        self._lying[index] = None
        self._pool.leave(page)

    def map_zeros(self) -> None:
        """Put the page of zeros at every index: graphs are captured on it, before any LOAD."""
        for index in range(len(self._lying)):
            self._map_one(index, self._pool.zeros)
        self._pool.driver.allow_access(self.address, self._size_bytes)

    def unmap_zeros(self) -> None:
        """Undo `map_zeros`; the card is idle."""
        for index in range(len(self._lying)):
            self._pool.driver.unmap(self.address + index * PAGE_BYTES, PAGE_BYTES)

    def release(self) -> None:
        """Give the addresses back, once nothing reads there."""
        for index, page in enumerate(self._lying):
            if page is not None:
                self.vacate(index)
        self._pool.driver.unreserve(self.address, self._size_bytes)

    def _map_one(self, index: int, handle: int) -> None:
        self._pool.driver.map(self.address + index * PAGE_BYTES, PAGE_BYTES, handle)
