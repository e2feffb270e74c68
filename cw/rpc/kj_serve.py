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
from cw.rpc.kj_tls import secured_accept
from cw.tls import ServerTls

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 1024
"""Connections served at a time by one listener; further ones wait in the backlog."""

_ACCEPT_RETRY_S: Final = 0.1
_OUT_OF_FILES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


async def serve(
    listener: trio.socket.SocketType,
    make_bootstrap: Bootstrap,
    limits: FlowLimits | None = None,
    *,
    max_connections: int = MAX_CONNECTIONS,
    tls: ServerTls | None = None,
    handshake_limit_s: float = 10,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve every connection to ``listener`` until cancelled; closes the listener.

    Nothing that one peer does, garbage included, ends another's connection.

    Args:
        listener: From :func:`listen`.
        make_bootstrap: Makes the first capability of each connection.
        limits: Bounds for each connection.
        max_connections: Served at a time; further ones wait to be accepted.
        tls: Given: nothing but TLS is spoken.
        handshake_limit_s: For TLS to be agreed on; then the connection is closed.
        task_status: Started with the address to dial.
    """
    room = trio.Semaphore(max_connections)
    here = address_of(listener, tls=tls is not None)

    async def serve_one(accepted: trio.socket.SocketType) -> None:
        peer = f"client {accepted.fileno()} of {here}"
        link = socket.socket(fileno=accepted.detach())
        try:
            if tls is not None:
                link = await secured_accept(link, peer, tls, handshake_limit_s)
            async with open_connection(
                link, peer, make_bootstrap=make_bootstrap, limits=limits
            ) as connection:
                await connection.wait_disconnected()
        except PeerDisconnected as exc:
            log.warning("connection refused: %s", exc)
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
