"""Inbox: bounded, ordered, one wake per batch."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from cw.actors.inbox import Inbox
from cw.errors import OutboxFull, PeerDisconnected


async def test_one_wake_takes_all_that_has_come():
    """Under load a task switch is shared by many items: the reason not to use a Trio channel."""
    inbox: Inbox[int] = Inbox(8, name="test")
    batches = []

    async def read():
        while batch := await inbox.drain():
            batches.append(batch)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        for item in range(3):
            inbox.put_nowait(item)
        await wait_all_tasks_blocked()
        inbox.put_nowait(3)
        inbox.close()

    assert batches == [[0, 1, 2], [3]]


async def test_a_full_inbox_says_so_and_keeps_what_it_has():
    """Whoever puts has to shed; what was accepted must not be lost for it."""
    inbox: Inbox[int] = Inbox(2, name="test")
    inbox.put_nowait(1)
    inbox.put_nowait(2)

    with pytest.raises(OutboxFull, match="at most 2 items in the test inbox"):
        inbox.put_nowait(3)
    assert await inbox.drain() == [1, 2]
    inbox.put_nowait(4)
    assert await inbox.drain() == [4]


async def test_a_cancelled_reader_takes_nothing(autojump_clock):
    """A reader that times out must find the item when it comes back."""
    inbox: Inbox[int] = Inbox(2, name="test")
    with trio.move_on_after(1):
        await inbox.drain()
    inbox.put_nowait(1)

    assert await inbox.drain() == [1]


async def test_closed_inbox_refuses_and_ends_its_reader():
    """A neighbour learns that the reader ended instead of filling a box nobody empties."""
    inbox: Inbox[int] = Inbox(2, name="test")
    inbox.put_nowait(1)
    inbox.close()
    inbox.close()

    with pytest.raises(PeerDisconnected):
        inbox.put_nowait(2)
    assert await inbox.drain() == [1]
    assert await inbox.drain() == []
