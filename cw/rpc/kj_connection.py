"""Connections: listen, serve, connect.

Addresses are ``tcp:HOST:PORT`` (``tcp:[::1]:7000`` for IPv6, port 0 for any free one) and
``unix:PATH``.  Every connection has its own nursery: its bytes are carried there, and the peer's
calls run there, so that leaving a connection leaves none of its tasks behind.

All capabilities of a connection die with it.  Nothing is seen of a peer that is stopped or cut
off without closing: whoever holds the connection calls it now and then under a deadline.

Neighbours: ``kj_loop.open_kj`` must be open around all of this; clients and servers of the
project's schemas are built on it.
"""

import errno
import logging
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs
import capnp
import trio

from cw.errors import ConfigError, PeerDisconnected
from cw.rpc.kj_errors import open_plain_nursery, renamed_errors
from cw.rpc.kj_flow import FlowLimits, Slot
from cw.rpc.kj_loop import KjLoop
from cw.rpc.kj_transport import SocketTransport, StreamTransport, Transport

log = logging.getLogger(__name__)

ACCEPT_BACKLOG: Final = 1024
"""Connections that the kernel keeps for us between two accepts."""

MAX_CONNECTIONS: Final = 1024
"""Connections served at a time by one listener; further ones wait in the backlog."""

_ACCEPT_RETRY_S: Final = 0.1
_OUT_OF_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

SOCKET_BUFFER_BYTES: Final = 1 << 20
"""Kernel buffers each way: a 600 KB body fits; 1.5 to 2 times the calls/s of the default sizes."""


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
        return renamed_errors(self.peer)

    async def wait_disconnected(self) -> None:
        """Return when the connection has ended, whoever ended it."""
        await self._transport.ended.wait()

    def close(self) -> None:
        """End the connection: open calls of both sides fail, all its capabilities are dead."""
        self._transport.close()

    def _open_network(self, stream: Any, make_bootstrap: "Bootstrap | None") -> None:
        words = self.limits.max_message_bytes // 8
        if make_bootstrap is None:
            self._network = capnp.TwoPartyClient(stream, traversal_limit_in_words=words)
        else:
            self._network = capnp.TwoPartyServer(
                stream, bootstrap=make_bootstrap(self), traversal_limit_in_words=words
            )

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
            transport = SocketTransport(loop, protocol, nursery, limits, link)
        else:
            transport = StreamTransport(loop, protocol, nursery, limits, link)
        return transport

    stream = await capnp.AsyncIoStream.create_connection(make_transport=make_transport)
    assert transport is not None
    return KjConnection(peer=peer, nursery=nursery, limits=limits, transport=transport), stream


@asynccontextmanager
async def connect(address: str, *, limits: FlowLimits | None = None) -> AsyncIterator[KjConnection]:
    """Dial ``address`` and speak Cap'n Proto over it for the length of the block.

    It tries once: whether and when to try again is the caller's decision.

    Raises:
        ConfigError: The address cannot be read.
        PeerDisconnected: Nobody answers there.
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
    async with open_connection(link, address, limits=limits) as connection:
        yield connection


def listen(address: str) -> trio.socket.SocketType:
    """Bind ``address`` and listen; connections queue up in the kernel until they are served.

    The file of a Unix socket whose process is gone is replaced.

    Raises:
        ConfigError: The address cannot be read.
        OSError: It is taken, or may not be bound.
    """
    family, where = parse_address(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(where, str):
            _remove_dead_socket(Path(where))
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune_socket(sock)  # Accepted sockets inherit it.
        sock.bind(where)
        sock.listen(ACCEPT_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return trio.socket.from_stdlib_socket(sock)


def address_of(listener: trio.socket.SocketType) -> str:
    """Return the address to dial, with the real port where 0 was asked for."""
    where = listener.getsockname()
    if isinstance(where, str):
        return f"unix:{where}"
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"tcp:{host}:{where[1]}"


async def serve(
    listener: trio.socket.SocketType,
    make_bootstrap: Bootstrap,
    limits: FlowLimits | None = None,
    *,
    max_connections: int = MAX_CONNECTIONS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every connection to ``listener`` until cancelled; closes the listener.

    Nothing that one peer does, garbage included, ends another's connection.

    Args:
        listener: From :func:`listen`.
        make_bootstrap: Makes the first capability of each connection.
        limits: Bounds for each connection.
        max_connections: Served at a time; further ones wait to be accepted.
        task_status: Started with the address to dial.
    """
    room = trio.Semaphore(max_connections)
    here = address_of(listener)

    async def serve_one(accepted: trio.socket.SocketType) -> None:
        peer = f"client {accepted.fileno()} of {here}"
        link = socket.socket(fileno=accepted.detach())
        try:
            async with open_connection(
                link, peer, make_bootstrap=make_bootstrap, limits=limits
            ) as connection:
                await connection.wait_disconnected()
        except Exception:  # One peer's connection must not end the others'.
            log.exception("connection failed peer=%s", peer)
        finally:
            room.release()

    with listener:
        async with open_plain_nursery() as nursery:
            task_status.started(here)
            while True:
                await room.acquire()
                nursery.start_soon(serve_one, await _accepted(listener))


async def _accepted(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    """Accept the next connection, outlasting a shortage of file descriptors."""
    while True:
        try:
            accepted, _ = await listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                log.error("accept failed error=%s retry_s=%s", error, _ACCEPT_RETRY_S)
                await trio.sleep(_ACCEPT_RETRY_S)
            elif error.errno != errno.ECONNABORTED:  # That one left while it queued.
                raise
        else:
            return accepted


def parse_address(address: str) -> tuple[socket.AddressFamily, tuple[str, int] | str]:
    """Split an address into its family and what ``bind`` and ``connect`` take.

    Raises:
        ConfigError: It is neither ``tcp:HOST:PORT`` nor ``unix:PATH``.
    """
    kind, _, where = address.partition(":")
    host, _, port = where.rpartition(":")
    if kind == "unix" and where:
        return socket.AF_UNIX, where
    if kind == "tcp" and host and port.isdecimal() and int(port) < 1 << 16:
        is_v6 = host.startswith("[")
        return (socket.AF_INET6 if is_v6 else socket.AF_INET), (host.strip("[]"), int(port))
    raise ConfigError(f"address {address!r}: expected tcp:HOST:PORT or unix:PATH")


def tune_socket(sock: socket.socket) -> None:
    """Switch Nagle's algorithm off and give the socket buffers of a tensor's size.

    Header and body leave as two pieces: with Nagle's algorithm they arrive 40 ms apart.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)


def _remove_dead_socket(path: Path) -> None:
    """Remove a Unix socket's file when nobody listens behind it."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
