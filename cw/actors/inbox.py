"""A bounded mailbox: many put without waiting, one drains it in batches.

Trio's own memory channel wakes its reader once per item. Here whoever puts wakes the reader at
most once per batch: it then takes all that has come, which under load is many items for one task
switch. What happens when the mailbox is full is the business of whoever puts: `OutboxFull` is
raised, never waited for, so that no actor waits for a peer to make room.
"""

from collections import deque
from typing import Generic, TypeVar

import trio

from cw.errors import OutboxFull, PeerDisconnected

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items in the order in which they were put, at most `capacity` of them.

    Args:
        capacity: Items that may wait.
        name: What it holds, for error texts.
    """

    def __init__(self, capacity: int, *, name: str) -> None:
        assert capacity > 0, f"the {name} inbox needs room for one item at least"
        self._capacity = capacity
        self._name = name
        self._items: deque[T] = deque()
        self._reader = trio.lowlevel.ParkingLot()
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def put_nowait(self, item: T) -> None:
        """Append an item and wake the reader.

        Raises:
            OutboxFull: As many items wait as may; shed this one.
            PeerDisconnected: The reader is gone and will take nothing more.
        """
        if self._closed:
            raise PeerDisconnected(f"nobody reads the {self._name} inbox any more")
        if len(self._items) >= self._capacity:
            raise OutboxFull(
                f"expected at most {self._capacity} items in the {self._name} inbox: "
                "its reader is too slow; shed this one"
            )
        self._items.append(item)
        self._reader.unpark()

    async def drain(self) -> list[T]:
        """Wait for an item, then take all that are there.

        One task at a time may wait. A cancel takes nothing out.

        Returns:
            At least one item; none at all once the inbox is closed and empty.
        """
        if not self._items and not self._closed:
            await self._reader.park()
        else:
            await trio.lowlevel.checkpoint()
        return self.drain_nowait()

    def drain_nowait(self) -> list[T]:
        """Take all that are there, perhaps none."""
        items = list(self._items)
        self._items.clear()
        return items

    def close(self) -> None:
        """Take nothing more; what waits can still be drained. Safe to call twice."""
        self._closed = True
        self._reader.unpark_all()
