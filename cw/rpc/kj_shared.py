"""One Cap'n Proto loop for all who need one in a Trio run: opened by the first, closed by the last.

Neither a program that connects twice, from tasks that know nothing of each other, nor the
composition root has to nest itself into ``open_kj``.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from cw.rpc.kj_loop import KjLoop, open_kj


@attrs.define(eq=False)
class _Shared:
    users: int = 0
    is_open: trio.Event = attrs.field(factory=trio.Event)
    to_close: trio.Event = attrs.field(factory=trio.Event)
    is_closed: trio.Event = attrs.field(factory=trio.Event)

    async def run(self) -> None:
        """Hold the loop open; a system task, since no user's task outlives all the others."""
        try:
            async with open_kj():
                self.is_open.set()
                await self.to_close.wait()
        finally:
            self.is_closed.set()


_shared: Final[trio.lowlevel.RunVar[_Shared | None]] = trio.lowlevel.RunVar("shared_kj", None)


@asynccontextmanager
async def shared_kj() -> AsyncIterator[None]:
    """Have a Cap'n Proto loop open for the length of the block.

    Inside of somebody's ``open_kj`` that one is used, and must outlast the block.

    Raises:
        RuntimeError: A loop of asyncio runs in this thread.
    """
    shared = _shared.get()
    if shared is None:
        running: object = asyncio._get_running_loop()
        if isinstance(running, KjLoop):
            yield
            return
        if running is not None:
            raise RuntimeError("asyncio runs in this thread; use a thread of its own for cw")
        shared = _Shared()
        _shared.set(shared)
        trio.lowlevel.spawn_system_task(shared.run)
    elif shared.to_close.is_set():
        await shared.is_closed.wait()
        async with shared_kj():
            yield
        return
    shared.users += 1
    try:
        await shared.is_open.wait()
        yield
    finally:
        shared.users -= 1
        if not shared.users:
            shared.to_close.set()
            with trio.CancelScope(shield=True):
                await shared.is_closed.wait()
            if _shared.get() is shared:
                _shared.set(None)
