"""Carries one connection's bytes over a Trio stream: memory streams, mostly of tests."""

from typing import TYPE_CHECKING, Any

import trio

from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_transport import READ_BYTES, Transport

if TYPE_CHECKING:
    from cw.rpc.kj_loop import KjLoop


class StreamTransport(Transport):
    """Over any Trio stream, which it owns: memory streams in tests."""

    def __init__(
        self,
        loop: "KjLoop",
        protocol: Any,
        nursery: trio.Nursery,
        limits: FlowLimits,
        stream: trio.abc.Stream,
    ) -> None:
        """Carry ``protocol``'s bytes over ``stream``."""
        super().__init__(loop, protocol, nursery, limits)
        self._stream = stream
        self._has_unsent = trio.Event()

    def _close_handle(self) -> None:
        trio.lowlevel.spawn_system_task(trio.aclose_forcefully, self._stream)

    async def _read_on(self) -> None:
        while True:
            self._feed()
            if not self._may_read():
                if not await self._wait_until_readable():
                    return
                continue
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return
            self._unread = memoryview(data)

    def flush(self) -> None:
        """Leave the writing to the writer: a stream can only be written by waiting."""
        self._is_blocked = True
        self._has_unsent.set()

    async def _write_on(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent = trio.Event()
            while self._unsent:
                data = b"".join(self._unsent)
                self._unsent.clear()
                await self._stream.send_all(data)
                self._unsent_bytes -= len(data)
                self._sent()
                self._loop.pump()
            self._is_blocked = False
