"""Pages: who holds how much of a device's memory, and what to free first.

The concept: weights lie in fixed pages of 16 MiB, so memory never fragments and accounting is
counting. `PagePool` hands out page *numbers*, for the executor that owns them. `PageBooks` only
counts, for the controller, which learns of pages from its own orders: UNLOAD frees in the books
when it is *sent*, because an executor carries out its orders in order. `Popularity` and
`EvictionOrder` say which model's pages to free first.

Knows nothing of lanes or requests. Neighbours: `placement.py` (controller), the weights cache
(executor).

Source: Clockwork (OSDI 2020) section 5.2 for pages; LRFU (Lee et al., IEEE ToC 2001) for the order.
"""

import heapq
import math
from collections.abc import Callable
from typing import Final

import attrs

from cw.messages import ModelId
from cw.units import SECOND

POPULARITY_DECAY_NS: Final = 20 * SECOND
"""A use counts 1/e after this long. 20 s and 60 s did equally well in simulation."""
SHIFT_MAX: Final = 8.0
"""By so much at most may a model's key be shifted down when it is looked up: log(2980) replicas."""
_STALE_MAX: Final = 64
"""So many entries of models that left are not worth building a heap anew."""


@attrs.define(eq=False)
class PagePool:
    """The numbered pages of one device. Lowest numbers first, so that runs are repeatable."""

    total: int
    _free: list[int] = attrs.field(init=False)
    _held: dict[ModelId, tuple[int, ...]] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        assert self.total >= 0
        self._free = list(range(self.total))

    @property
    def free(self) -> int:
        """Count the free pages."""
        return len(self._free)

    def can_fit(self, count: int) -> bool:
        """Say whether so many pages are free."""
        return count <= len(self._free)

    def claim(self, model_id: ModelId, count: int) -> tuple[int, ...]:
        """Take pages for a model that holds none; check `can_fit` first."""
        assert model_id not in self._held, f"model {model_id} holds pages already"
        assert 0 < count <= len(self._free), f"{count} pages wanted, {len(self._free)} free"
        pages = tuple(heapq.heappop(self._free) for _ in range(count))
        self._held[model_id] = pages
        return pages

    def release(self, model_id: ModelId) -> tuple[int, ...]:
        """Give a model's pages back; none if it holds none."""
        pages = self._held.pop(model_id, ())
        for page in pages:
            heapq.heappush(self._free, page)
        return pages

    def held(self, model_id: ModelId) -> tuple[int, ...]:
        """Say which pages a model holds, in the order of its weights."""
        return self._held.get(model_id, ())

    def validate(self) -> None:
        """Assert that every page is in exactly one place."""
        pages = sorted([*self._free, *(page for held in self._held.values() for page in held)])
        assert pages == list(range(self.total)), "a page is lost or held twice"


@attrs.define(eq=False)
class PageBooks:
    """The controller's count of one executor's pages."""

    total: int
    used: int = 0
    _held: dict[ModelId, int] = attrs.field(factory=dict)

    @property
    def free(self) -> int:
        """Count the free pages, by the books."""
        return self.total - self.used

    def claim(self, model_id: ModelId, count: int) -> None:
        """Book pages for a model that holds none; check `free` first."""
        assert model_id not in self._held, f"model {model_id} holds pages already"
        assert count <= self.free, f"{count} pages wanted, {self.free} free"
        self._held[model_id] = count
        self.used += count

    def release(self, model_id: ModelId) -> int:
        """Book a model's pages as free; 0 if it holds none."""
        count = self._held.pop(model_id, 0)
        self.used -= count
        return count

    def held(self, model_id: ModelId) -> int:
        """Count a model's pages."""
        return self._held.get(model_id, 0)

    def holders(self) -> tuple[ModelId, ...]:
        """List the models that hold pages, oldest claim first."""
        return tuple(self._held)

    def validate(self) -> None:
        """Assert that nothing is oversold."""
        assert self.used == sum(self._held.values()), "the count of used pages is wrong"
        assert 0 <= self.used <= self.total, f"{self.used} of {self.total} pages sold"


@attrs.define(eq=False)
class Popularity:
    """How much a model is used, recently and often, as one number that never ages.

    ``key = log(decayed count) + now / decay``: both sides decay alike, so the order of two models
    changes only when one of them is used.
    """

    key: float = -math.inf

    def use(self, *, now_ns: int) -> None:
        """Count one use."""
        now = now_ns / POPULARITY_DECAY_NS
        low, high = (self.key, now) if self.key < now else (now, self.key)
        self.key = high + math.log1p(math.exp(low - high))


@attrs.define(eq=False)
class EvictionOrder:
    """The resident models of one executor, least popular first.

    A heap with one current entry a model. Popularity only grows, so an entry's key is a lower
    bound: it is brought up to date when it comes to the top, and requests never touch the heap. An
    entry of a model that left stays until it comes to the top, or until half of all are such.
    """

    _heap: list[tuple[float, ModelId, int]] = attrs.field(factory=list)
    _members: dict[ModelId, int] = attrs.field(factory=dict)
    """Which entry of a model is the current one, by the number it was given."""
    _next_number: int = 0

    def add(self, model_id: ModelId, key: float) -> None:
        """Enter a model whose pages may be wanted back some day."""
        if model_id not in self._members:
            self._next_number += 1
            self._members[model_id] = self._next_number
            # Lower than any shift makes it: it is looked up when it comes to the top.
            heapq.heappush(self._heap, (key - SHIFT_MAX, model_id, self._next_number))

    def discard(self, model_id: ModelId) -> None:
        """Leave a model out."""
        self._members.pop(model_id, None)
        if len(self._heap) > 2 * len(self._members) + _STALE_MAX:
            members = self._members
            self._heap = [entry for entry in self._heap if members.get(entry[1]) == entry[2]]
            heapq.heapify(self._heap)

    def choose(
        self,
        pages: int,
        *,
        key_of: Callable[[ModelId], float | None],
        pages_of: Callable[[ModelId], int],
    ) -> list[ModelId] | None:
        """Choose what to free so that `pages` come free; nothing is changed.

        Args:
            pages: How many are wanted beyond the free ones.
            key_of: A model's popularity now, shifted at will; None if it must stay.
            pages_of: How many pages a model holds.

        Returns:
            The victims, least popular first; None when all that may go is not enough.
        """
        heap, members = self._heap, self._members
        victims: list[ModelId] = []
        looked_at: list[tuple[float, ModelId, int]] = []
        while pages > 0 and heap:
            known, model_id, number = heapq.heappop(heap)
            if members.get(model_id) != number:
                continue
            key = key_of(model_id)
            if key is not None and key > known and heap and key > heap[0][0]:
                heapq.heappush(heap, (key, model_id, number))
                continue
            looked_at.append((known if key is None else key, model_id, number))
            if key is not None:
                victims.append(model_id)
                pages -= pages_of(model_id)
        for entry in looked_at:
            heapq.heappush(heap, entry)
        return victims if pages <= 0 else None
