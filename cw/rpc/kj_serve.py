"""Serving connections at a listening socket, until cancelled."""

import errno
import logging
import socket
from typing import Final

import trio

from cw.errors import PeerDisconnected
from cw.rpc.kj_address import address_of
from cw.rpc.kj_connection import Bootstrap, open_connection
from cw.rpc.kj_errors import open_plain_nursery
from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_guard import DoorLimits, Guard
from cw.rpc.kj_tls import secured_accept
from cw.tls import ServerTls

log = logging.getLogger(__name__)

_ACCEPT_RETRY_S: Final = 0.1
DEFAULT_DOOR: Final = DoorLimits()
_OUT_OF_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def serve(
    listener: trio.socket.SocketType,
    make_bootstrap: Bootstrap,
    limits: FlowLimits | None = None,
    *,
    door: DoorLimits = DEFAULT_DOOR,
    tls: ServerTls | None = None,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every connection to ``listener`` until cancelled; closes the listener.

    Nothing that one peer does, garbage included, ends another's connection.

    Args:
        listener: From :func:`listen`.
        make_bootstrap: Makes the first capability of each connection.
        limits: Bounds for each connection.
        door: Bounds for all of them together.
        tls: Given: nothing but TLS is spoken.
        task_status: Started with the address to dial.
    """
    room = trio.Semaphore(door.max_connections)
    guard = Guard(door)
    here = address_of(listener, tls=tls is not None)

    async def serve_one(link: socket.socket, address: str) -> None:
        peer = f"client {link.fileno()} of {here}"
        try:
            if tls is not None:
                link = await secured_accept(link, peer, tls, door.handshake_limit_s)
            async with open_connection(
                link, peer, make_bootstrap=make_bootstrap, limits=limits
            ) as connection:
                guard.watch(connection)
                try:
                    await connection.wait_disconnected()
                finally:
                    guard.unwatch(connection)
        except PeerDisconnected as exc:
            log.warning("connection refused: %s", exc)
        except Exception:  # One peer's connection must not end the others'.
            log.exception("connection failed peer=%s", peer)
        finally:
            guard.left(address)
            room.release()

    with listener:
        async with open_plain_nursery() as nursery:
            nursery.start_soon(guard.run)
            task_status.started(here)
            while True:
                await room.acquire()
                link, address = await _accepted(listener)
                if guard.admit(address):
                    nursery.start_soon(serve_one, link, address)
                else:
                    log.warning("connection refused: too many from address=%s", address)
                    link.close()
                    room.release()


async def _accepted(listener: trio.socket.SocketType) -> tuple[socket.socket, str]:
    """Accept the next connection, outlasting a shortage of file descriptors.

    Returns:
        Its socket, and the IP address that it comes from; empty for a Unix socket's.
    """
    while True:
        try:
            accepted, where = await listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                log.error("accept failed error=%s retry_s=%s", error, _ACCEPT_RETRY_S)
                await trio.sleep(_ACCEPT_RETRY_S)
            elif error.errno != errno.ECONNABORTED:  # That one left while it queued.
                raise
        else:
            address = str(where[0]) if isinstance(where, tuple) else ""
            return socket.socket(fileno=accepted.detach()), address
