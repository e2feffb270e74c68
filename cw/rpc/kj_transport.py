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
from typing import TYPE_CHECKING, Any, Final, NamedTuple

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


_TLS_ALERT: Final = b"\x15\x03"
_TLS_HELLO: Final = b"\x16\x03"
"""What records of TLS begin with; as Cap'n Proto it would be hundreds of segments too many."""


class Progress(NamedTuple):
    """How far a connection has come: what ``kj_guard`` looks at now and then."""

    messages: int
    """From the peer, told apart so far: each by its first words."""
    is_message_begun: bool
    """Whether the rest of one is being waited for; not while we ourselves read nothing."""
    writes: int
    """That the kernel took something of."""
    is_write_blocked: bool
    """Whether something waits for the peer to read."""


class Transport(ABC):
    """What pycapnp's protocol needs of an asyncio transport, and the limits of the connection.

    Attributes:
        nursery: Where the peer's calls run.
        incoming: The peer's open calls.
        outgoing: The budget for our calls.
        ended: Set when the connection is gone.
        end_reason: Why it is gone, where more is known of that than that it is.
    """

    def __init__(
        self, loop: "KjLoop", protocol: Any, nursery: trio.Nursery, limits: FlowLimits
    ) -> None:
        """Join ``protocol`` to the connection; :meth:`run` then carries its bytes."""
        self.nursery = nursery
        self.incoming = OpenCalls(limits, self._wake_reader)
        self.outgoing = SendBudget(limits, self._is_backlogged)
        self.ended = trio.Event()
        self.end_reason = ""
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
        self._has_read = False
        self._writes = 0

    def progress(self) -> Progress:
        """Say how far both directions have come."""
        return Progress(
            messages=self._in_meter.messages,
            is_message_begun=self._in_meter.unfinished_bytes > 0 and self._may_read(),
            writes=self._writes,
            is_write_blocked=self._is_blocked and self._unsent_bytes > 0,
        )

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
            self.end_reason = self._explained(group.exceptions[0])
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

    def _explained(self, error: BaseException) -> str:
        """Say what an error of the link means; empty where it says that itself."""
        return ""

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
        if not self._has_read:
            self._has_read = True
            self._look_at_first(bytes(data[:2]))
        self._in_meter.feed(data)
        self._protocol.buffer_updated(len(data))
        self._loop.pump(self)
        if self.incoming.is_abused:
            log.warning("peer leaves its answers unfinished; connection closed")
            self.close()

    def _look_at_first(self, start: bytes) -> None:
        """Tell apart a peer that speaks TLS: no message of Cap'n Proto begins so."""
        if start == _TLS_ALERT:
            self.end_reason = "it speaks TLS there: dial tls:HOST:PORT"
        elif start == _TLS_HELLO:
            self.end_reason = "it speaks TLS and we do not here: it is to dial tcp:HOST:PORT"
            log.warning("a peer speaks TLS at a door without: it is to dial tcp:HOST:PORT")

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
        peer: str = "the peer",
    ) -> None:
        """Carry ``protocol``'s bytes over ``sock``, to and from ``peer``."""
        super().__init__(loop, protocol, nursery, limits)
        self._sock = sock
        self._peer = peer
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
        buffer = self._buffer
        while True:
            self._feed()
            if not self._may_read():
                if not await self._wait_until_readable():
                    return
                continue
            await self._wait_for_bytes()
            if not self._may_read():
                continue
            place = self._protocol.get_buffer(-1)
            try:
                if self._allowance_bytes() >= len(place):
                    size = self._receive_into(place)
                    if size:
                        self._took(place[:size])
                else:  # What the socket has may be more than the budget allows: cut it.
                    size = self._receive_into(buffer)
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
                self._drop(self._send())
            self._is_blocked = False
        except (BlockingIOError, InterruptedError):
            self._is_blocked = True
            if self._parked_writer is not None:
                parked, self._parked_writer = self._parked_writer, None
                reschedule(parked)
        except OSError as error:  # Broken pipe: the reader would see it too, perhaps much later.
            self.end_reason = self.end_reason or self._explained(error)
            unsent.clear()
            self._unsent_bytes = 0
            self.close()
        self._sent()

    async def _wait_for_bytes(self) -> None:
        await trio.lowlevel.wait_readable(self._sock)

    def _receive_into(self, place: memoryview) -> int:
        """Read what there is; 0 at the end of it all.

        Raises:
            BlockingIOError: Nothing is there.
        """
        return self._sock.recv_into(place)

    def _send(self) -> int:
        """Write the queue's first bytes; return how many.

        Raises:
            BlockingIOError: None can be taken now.
        """
        unsent = self._unsent
        return self._sock.sendmsg(
            list(unsent)
            if len(unsent) <= PIECES_PER_WRITE
            else [unsent[at] for at in range(PIECES_PER_WRITE)]
        )

    def _drop(self, size_bytes: int) -> None:
        """Forget the first ``size_bytes`` of the queue: they are written."""
        self._unsent_bytes -= size_bytes
        self._writes += 1
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
