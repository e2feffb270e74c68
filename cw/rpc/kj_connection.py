"""Connections: speak Cap'n Proto over a link, dialled (`connect`) or accepted (``kj_serve``).

Every connection has its own nursery: its bytes are carried there, and the peer's
calls run there, so that leaving a connection leaves none of its tasks behind.

All capabilities of a connection die with it.  Nothing is seen of a peer that is stopped or cut
off without closing: whoever holds the connection calls it now and then under a deadline.

Neighbours: ``kj_loop.open_kj`` must be open around all of this; clients and servers of the
project's schemas are built on it.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from typing import Any

import attrs
import capnp
import trio

from cw.config import TlsSettings
from cw.errors import PeerDisconnected
from cw.rpc.kj_address import parse_address, speaks_tls, tune_socket
from cw.rpc.kj_errors import open_plain_nursery, renamed_errors
from cw.rpc.kj_flow import FlowLimits, Slot
from cw.rpc.kj_loop import KjLoop
from cw.rpc.kj_stream import StreamTransport
from cw.rpc.kj_tls import TlsTransport, secured_dial
from cw.rpc.kj_transport import Progress, SocketTransport, Transport


@attrs.define(eq=False)
class KjConnection:
    """One open connection, dialled or accepted.

    Attributes:
        peer: The address that was dialled, or where the peer came from; for logs and errors.
        nursery: Ends with the connection; the peer's calls run here.
        limits: Bounds on what either side holds open.
    """

    peer: str
    nursery: trio.Nursery
    limits: FlowLimits
    _transport: Transport
    _network: Any = None

    @property
    def open_calls(self) -> int:
        """The peer's calls that are not answered yet."""
        return self._transport.incoming.open_calls

    @property
    def open_calls_peak(self) -> int:
        """The most of the peer's calls that were ever open at once."""
        return self._transport.incoming.open_calls_peak

    @property
    def open_bytes(self) -> int:
        """Size of the peer's open calls' messages, in bytes."""
        return self._transport.incoming.open_bytes

    @property
    def sent_calls(self) -> int:
        """Calls of ours that hold a slot, those included that were given up but not yet sent."""
        return self._transport.outgoing.open_calls

    @property
    def sent_bytes(self) -> int:
        """Bytes claimed by those slots."""
        return self._transport.outgoing.open_bytes

    @property
    def is_open(self) -> bool:
        """False as soon as the end of the connection is known."""
        return not self._transport.is_closing()

    def progress(self) -> Progress:
        """Say how far both directions have come."""
        return self._transport.progress()

    def bootstrap(self, interface: Any) -> Any:
        """Return the peer's first capability, as ``interface`` of a loaded schema.

        Raises:
            PeerDisconnected: The connection is gone.
        """
        if not self.is_open:
            raise PeerDisconnected(f"connection to {self.peer} is gone; connect again")
        return self._network.bootstrap().cast_as(interface)

    def slot(self, call_bytes: int) -> Slot:
        """Return an async context manager that holds room for one call; every call needs one.

        Entering waits, in line, while ``max_open_calls`` or ``max_open_bytes`` are in use; a
        cancel leaves the line.

        Args:
            call_bytes: Size of the call's arguments; the payload's size is near enough.
        """
        return self._transport.outgoing.slot(call_bytes)

    def errors(self) -> AbstractContextManager[None]:
        """Return a context manager that renames pycapnp's errors (``kj_errors``)."""
        return renamed_errors(self.peer, lambda: self._transport.end_reason)

    async def wait_disconnected(self) -> None:
        """Return when the connection has ended, whoever ended it."""
        await self._transport.ended.wait()

    def close(self) -> None:
        """End the connection: open calls of both sides fail, all its capabilities are dead."""
        self._transport.close()

    def _open_network(self, stream: Any, make_bootstrap: "Bootstrap | None") -> None:
        bounds = {
            "traversal_limit_in_words": self.limits.max_message_bytes // 8,
            "nesting_limit": self.limits.max_nesting,
        }
        if make_bootstrap is None:
            self._network = capnp.TwoPartyClient(stream, **bounds)
        else:
            self._network = capnp.TwoPartyServer(stream, bootstrap=make_bootstrap(self), **bounds)

    async def _close_when_refused(self) -> None:
        """Close when the library has had enough of the peer: it only stops reading then."""
        with suppress(capnp.KjException):
            await self._network.on_disconnect()
        self.close()

    def _close_network(self) -> None:
        if self._network is not None:
            self._network.close()


Bootstrap = Callable[[KjConnection], Any]
"""Makes the capability (a pycapnp Server) that a new peer gets first."""


@asynccontextmanager
async def open_connection(
    link: socket.socket | trio.abc.Stream,
    peer: str,
    *,
    make_bootstrap: Bootstrap | None = None,
    limits: FlowLimits | None = None,
) -> AsyncIterator[KjConnection]:
    """Speak Cap'n Proto over a link that is there already, for the length of the block.

    Args:
        link: A connected stream socket, or any Trio stream; owned and closed by the connection.
        peer: Its name, for logs and errors.
        make_bootstrap: Given: we are the server of the two. None: we are the client.
        limits: Bounds on both sides' calls.

    Yields:
        The connection. Leaving the block closes it and cancels the calls that it serves.
    """
    async with open_plain_nursery() as nursery:
        connection, stream = await _joined(link, peer, nursery, limits or FlowLimits())
        nursery.start_soon(connection._transport.run)
        try:
            connection._open_network(stream, make_bootstrap)
            nursery.start_soon(connection._close_when_refused)
            yield connection
        finally:
            connection.close()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await connection.wait_disconnected()
            connection._close_network()


async def _joined(
    link: socket.socket | trio.abc.Stream, peer: str, nursery: trio.Nursery, limits: FlowLimits
) -> tuple[KjConnection, Any]:
    """Put a transport under a new pycapnp stream; return the connection and the stream."""
    transport: Transport | None = None

    def make_transport(loop: KjLoop, protocol: Any) -> Transport:
        nonlocal transport
        if isinstance(link, socket.socket):
            link.setblocking(False)
            tune_socket(link)
            kind = TlsTransport if isinstance(link, ssl.SSLSocket) else SocketTransport
            transport = kind(loop, protocol, nursery, limits, link, peer)
        else:
            transport = StreamTransport(loop, protocol, nursery, limits, link)
        return transport

    stream = await capnp.AsyncIoStream.create_connection(make_transport=make_transport)
    assert transport is not None
    return KjConnection(peer=peer, nursery=nursery, limits=limits, transport=transport), stream


@asynccontextmanager
async def connect(
    address: str,
    *,
    limits: FlowLimits | None = None,
    tls: TlsSettings | None = None,
    handshake_limit_s: float = 10,
) -> AsyncIterator[KjConnection]:
    """Dial ``address`` and speak Cap'n Proto over it for the length of the block.

    It tries once: whether and when to try again is the caller's decision.

    Args:
        address: See ``kj_address``.
        limits: Bounds on both sides' calls.
        tls: Whom to trust and what to show at a ``tls:`` address; by default the system's
            authorities, and nothing.
        handshake_limit_s: For TLS to be agreed on.

    Raises:
        ConfigError: The address cannot be read, or a file of ``tls``.
        PeerDisconnected: Nobody answers there, or nobody who can be trusted; the text says why.
    """
    family, where = parse_address(address)
    try:
        if family == socket.AF_UNIX:
            dialled = trio.socket.socket(family)
            with ExitStack() as unless_connected:
                unless_connected.callback(dialled.close)
                await dialled.connect(where)
                unless_connected.pop_all()
        else:
            assert isinstance(where, tuple)
            dialled = (await trio.open_tcp_stream(*where)).socket
    except OSError as error:
        raise PeerDisconnected(f"cannot connect to {address}: {error}") from error
    link = socket.socket(fileno=dialled.detach())
    if speaks_tls(address):
        link = await secured_dial(link, where[0], address, tls or TlsSettings(), handshake_limit_s)
    async with open_connection(link, address, limits=limits) as connection:
        yield connection
