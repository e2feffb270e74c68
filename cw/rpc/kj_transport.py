"""Carries one connection's bytes between a socket (or Trio stream) and pycapnp's protocol.

A transport pauses reading at the end of a message while the peer's open calls are past their
budget (``kj_flow``), reads large bodies straight into the C++ library's memory, and writes all
that one pump produced with one system call.

It must report ``is_closing()`` before the protocol hears of the end: pycapnp 2.2.4 otherwise
starts a read on a null pointer.  Knows nothing of calls' meaning; ``kj_connection`` owns it.
"""

import logging
import select
import socket
from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from cw.rpc.kj_flow import FlowLimits, MessageMeter, OpenCalls, SendBudget

if TYPE_CHECKING:
    from cw.rpc.kj_loop import KjLoop

log = logging.getLogger(__name__)

READ_BYTES: Final = 1 << 16
"""Bytes read at a time where the library's own buffer cannot be read into."""

UNSENT_HIGH_BYTES: Final = 1 << 20
"""Unsent bytes at which the library is told to hold its writes back."""

PIECES_PER_WRITE: Final = 512
"""Buffers given to one sendmsg; the kernel's bound is 1024 (IOV_MAX)."""

HANGUP_POLL_S: Final = 0.05
"""How often a connection that is past its budget, thus not read, is asked if its peer left."""


class Transport(ABC):
    """What pycapnp's protocol needs of an asyncio transport, and the limits of the connection.

    Attributes:
        nursery: Where the peer's calls run.
        incoming: The peer's open calls.
        outgoing: The budget for our calls.
        ended: Set when the connection is gone.
    """

    def __init__(
        self, loop: "KjLoop", protocol: Any, nursery: trio.Nursery, limits: FlowLimits
    ) -> None:
        """Join ``protocol`` to the connection; :meth:`run` then carries its bytes."""
        self.nursery = nursery
        self.incoming = OpenCalls(limits, self._wake_reader)
        self.outgoing = SendBudget(limits, self._is_backlogged)
        self.ended = trio.Event()
        self._loop = loop
        self._protocol = protocol
        self._scope = trio.CancelScope()
        self._in_meter = MessageMeter(self.incoming.received)
        self._out_meter = MessageMeter(self.incoming.sent)
        self._is_paused = True
        self._is_closing = False
        self._unsent: deque[bytes | memoryview] = deque()
        self._unsent_bytes = 0
        self._is_blocked = False
        self._is_write_paused = False
        self._parked_reader: trio.lowlevel.Task | None = None
        self._unread = memoryview(b"")

    async def run(self) -> None:
        """Carry bytes until either side ends the connection, then tell the library."""
        reason = "peer disconnected"
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._write_on)
                    await self._read_on()
                    nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as group:
            reason = str(group.exceptions[0])
        finally:
            self._is_closing = True
            self._close_handle()
            self._protocol.eof_received()
            self._protocol.connection_lost(reason)
            self._unsent.clear()
            self._unsent_bytes = 0
            self._loop.pump()
            self.outgoing.drained()
            self.ended.set()

    # What pycapnp calls.

    def pause_reading(self) -> None:
        """Give the protocol no more bytes."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Give the protocol the bytes that it now has a place for."""
        self._is_paused = False
        self._wake_reader()

    def write(self, data: bytes) -> None:
        """Queue bytes for the end of this pump."""
        if self._is_closing:
            return
        self._out_meter.feed(data)
        if not self._unsent and not self._is_blocked:
            self._loop.flush_later(self)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > UNSENT_HIGH_BYTES and not self._is_write_paused:
            self._is_write_paused = True
            self._protocol.pause_writing()

    def is_closing(self) -> bool:
        """Tell whether the connection has ended or is about to."""
        return self._is_closing

    def can_write_eof(self) -> bool:
        """Half-closed connections are not used."""
        return False

    def close(self) -> None:
        """End the connection when this pump is done; what it wrote still goes out if it can."""
        if not self._is_closing:
            self._is_closing = True
            self._loop.call_soon(self._scope.cancel)

    # Reading.

    @abstractmethod
    async def _read_on(self) -> None:
        """Read until the peer closes."""

    def _allowance_bytes(self) -> int:
        """How much the library may be given: the message in progress, or what the budget allows."""
        return max(self._in_meter.unfinished_bytes, self.incoming.room_bytes)

    def _may_read(self) -> bool:
        return not self._is_paused and self._allowance_bytes() > 0

    def _feed(self) -> None:
        """Hand bytes read before to the library, letting it run after each piece."""
        if self._loop.has_turns:
            self._loop.pump()  # So that the turns to come are this connection's alone.
        while self._unread and self._may_read():
            place = self._protocol.get_buffer(-1)
            size = min(len(place), len(self._unread), self._allowance_bytes())
            place[:size] = self._unread[:size]
            self._unread = self._unread[size:]
            self._took(place[:size])

    def _took(self, data: memoryview) -> None:
        """Follow bytes that were put into the library's buffer, and let it act on them."""
        self._in_meter.feed(data)
        self._protocol.buffer_updated(len(data))
        self._loop.pump(self)
        if self.incoming.is_abused:
            log.warning("peer leaves its answers unfinished; connection closed")
            self.close()

    async def _wait_until_readable(self) -> bool:
        """Sleep while nothing may be read; False when the peer was found to have left."""
        while not self._may_read():
            if self._is_paused:
                await self._park_reader()
                continue
            with trio.move_on_after(HANGUP_POLL_S):
                await self._park_reader()
            if self._has_hung_up():
                return False
        return True

    async def _park_reader(self) -> None:
        self._parked_reader = current_task()
        await wait_task_rescheduled(self._unpark_reader)

    def _unpark_reader(self, _: RaiseCancelT) -> Abort:
        self._parked_reader = None
        return Abort.SUCCEEDED

    def _wake_reader(self) -> None:
        if self._parked_reader is not None and self._may_read():
            parked, self._parked_reader = self._parked_reader, None
            reschedule(parked)

    def _has_hung_up(self) -> bool:
        """Tell, without reading, whether the peer has closed; False where that cannot be told."""
        return False

    # Writing.

    @abstractmethod
    def flush(self) -> None:
        """Write what was queued, as far as it goes without waiting."""

    @abstractmethod
    async def _write_on(self) -> None:
        """Write what :meth:`flush` could not."""

    @abstractmethod
    def _close_handle(self) -> None:
        """Let go of the socket or stream."""

    def _is_backlogged(self) -> bool:
        return self._unsent_bytes > 0

    def _sent(self) -> None:
        """After a write: let the library write on, or abandoned calls' room be used again."""
        if self._is_write_paused and self._unsent_bytes <= UNSENT_HIGH_BYTES // 4:
            self._is_write_paused = False
            self._protocol.resume_writing()
        if not self._unsent_bytes:
            self.outgoing.drained()


class SocketTransport(Transport):
    """Over a connected, non-blocking stream socket, which it owns."""

    def __init__(
        self,
        loop: "KjLoop",
        protocol: Any,
        nursery: trio.Nursery,
        limits: FlowLimits,
        sock: socket.socket,
    ) -> None:
        """Carry ``protocol``'s bytes over ``sock``."""
        super().__init__(loop, protocol, nursery, limits)
        self._sock = sock
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._parked_writer: trio.lowlevel.Task | None = None

    def _close_handle(self) -> None:
        trio.lowlevel.notify_closing(self._sock)
        self._sock.close()

    def _has_hung_up(self) -> bool:
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        return bool(poll.poll(0))

    async def _read_on(self) -> None:
        sock, buffer = self._sock, self._buffer
        while True:
            self._feed()
            if not self._may_read():
                if not await self._wait_until_readable():
                    return
                continue
            await trio.lowlevel.wait_readable(sock)
            if not self._may_read():
                continue
            place = self._protocol.get_buffer(-1)
            try:
                if self._allowance_bytes() >= len(place):
                    size = sock.recv_into(place)
                    if size:
                        self._took(place[:size])
                else:  # What the socket has may be more than the budget allows: cut it.
                    size = sock.recv_into(buffer)
                    self._unread = buffer[:size]
            except (BlockingIOError, InterruptedError):
                continue
            if not size:
                return

    def flush(self) -> None:
        """Write with as few system calls as the kernel allows."""
        unsent = self._unsent
        try:
            while unsent:
                pieces = (
                    list(unsent)
                    if len(unsent) <= PIECES_PER_WRITE
                    else [unsent[i] for i in range(PIECES_PER_WRITE)]
                )
                self._drop(self._sock.sendmsg(pieces))
            self._is_blocked = False
        except (BlockingIOError, InterruptedError):
            self._is_blocked = True
            if self._parked_writer is not None:
                parked, self._parked_writer = self._parked_writer, None
                reschedule(parked)
        except OSError:  # Broken pipe: the reader would see it too, but perhaps much later.
            unsent.clear()
            self._unsent_bytes = 0
            self.close()
        self._sent()

    def _drop(self, size_bytes: int) -> None:
        """Forget the first ``size_bytes`` of the queue: they are written."""
        self._unsent_bytes -= size_bytes
        unsent = self._unsent
        while size_bytes:
            head = unsent.popleft()
            if size_bytes < len(head):
                unsent.appendleft(memoryview(head)[size_bytes:])
                return
            size_bytes -= len(head)

    async def _write_on(self) -> None:
        while True:
            if not self._is_blocked:
                self._parked_writer = current_task()
                await wait_task_rescheduled(self._unpark_writer)
            await trio.lowlevel.wait_writable(self._sock)
            self.flush()
            self._loop.pump()

    def _unpark_writer(self, _: RaiseCancelT) -> Abort:
        self._parked_writer = None
        return Abort.SUCCEEDED


class StreamTransport(Transport):
    """Over any Trio stream, which it owns: memory streams in tests, TLS over a socket."""

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
