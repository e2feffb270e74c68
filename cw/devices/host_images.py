"""Host images: each prepared model's weights in host memory, as a LOAD copies them.

One region of addresses, bounded by a setting, with one extent per model. What a PREPARE put there
stays until the model is forgotten, so a LOAD never waits for a disk; and when there is no room for
another model its PREPARE is refused. Nothing is evicted here: which models an executor knows is the
controller's choice.
"""

import bisect
from collections.abc import Callable
from typing import Final

from cw.devices import address_space
from cw.errors import HostMemoryFull
from cw.messages import ModelId
from cw.units import MiB, div_ceil, format_bytes

GRANULE_BYTES: Final = MiB // 16
"""Extents are multiples of this: little is lost on small models, large ones get huge pages."""


class HostImages:
    """The images of one executor.

    Args:
        capacity_bytes: Bound on all of them together, rounded down to whole granules.
        pin: Called with the region's address and size, for a device that copies from pinned memory
            only. All memory is found at once then, else as models come.

    Raises:
        OSError: The address space or the memory is full.
    """

    def __init__(
        self, capacity_bytes: int, *, pin: Callable[[int, int], None] | None = None
    ) -> None:
        self.capacity_bytes: Final = capacity_bytes // GRANULE_BYTES * GRANULE_BYTES
        self._is_pinned = pin is not None
        self._address = address_space.reserve(self.capacity_bytes, alignment_bytes=2 * MiB)
        self._held: dict[ModelId, tuple[int, int]] = {}
        # Free extents as (offset, size), in the order of offsets; no two of them touch.
        self._free: list[tuple[int, int]] = [(0, self.capacity_bytes)]
        if pin is not None:
            address_space.fill_with_memory(self._address, self.capacity_bytes)
            pin(self._address, self.capacity_bytes)

    @property
    def held_bytes(self) -> int:
        """Bytes of all extents in use."""
        return sum(size for _, size in self._held.values())

    def hold(self, model_id: ModelId, size_bytes: int) -> int:
        """Find memory for a model's image.

        Returns:
            Its address, a multiple of 64 KiB; filled with zeros or anything.

        Raises:
            HostMemoryFull: There is no room.
            OSError: The system has no memory to give.
        """
        assert model_id not in self._held, f"model {model_id} has an image already"
        size = max(1, div_ceil(size_bytes, GRANULE_BYTES)) * GRANULE_BYTES
        index = next((i for i, (_, free) in enumerate(self._free) if free >= size), None)
        if index is None:
            raise HostMemoryFull(
                f"expected {format_bytes(size)} of host memory for an image, got "
                f"{format_bytes(max((free for _, free in self._free), default=0))} at most, of "
                f"{format_bytes(self.capacity_bytes)}: raise [executor] host_memory, or remove "
                "models"
            )
        offset, free = self._free[index]
        address = self._address + offset
        if not self._is_pinned:
            address_space.fill_with_memory(address, size)
        self._free[index : index + 1] = [(offset + size, free - size)] if free > size else []
        self._held[model_id] = (offset, size)
        return address

    def address_of(self, model_id: ModelId) -> int:
        """Say where a model's image lies."""
        return self._address + self._held[model_id][0]

    def drop(self, model_id: ModelId) -> None:
        """Give a model's memory back."""
        offset, size = self._held.pop(model_id)
        if not self._is_pinned:
            address_space.bar(self._address + offset, size)
        index = bisect.bisect(self._free, (offset, size))
        self._free.insert(index, (offset, size))
        self._merge_with_next(index)
        if index:
            self._merge_with_next(index - 1)

    def close(self) -> None:
        """Free all memory. Closing twice is allowed; whoever pinned it has unpinned it."""
        if self._address:
            address_space.release(self._address, self.capacity_bytes)
            self._address = 0

    def _merge_with_next(self, index: int) -> None:
        if index + 1 < len(self._free):
            (offset, size), (following, more) = self._free[index : index + 2]
            if offset + size == following:
                self._free[index : index + 2] = [(offset, size + more)]
