"""The HTTP door at an address, until cancelled."""

import logging
import socket
from contextlib import suppress
from typing import Final

import trio

from cw.config import HttpSettings
from cw.http.connection import Answer, HttpConnection, OpenBodies
from cw.http.exchange import HttpError

logger = logging.getLogger(__name__)

_TURNED_AWAY: Final = HttpError(
    503, "this gateway has as many connections as it serves; retry, or use another", retry_after_s=1
)


async def serve_http(
    listener: trio.socket.SocketType,
    answer: Answer,
    settings: HttpSettings,
    *,
    task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients.

    Args:
        listener: A socket that listens.
        answer: Answers each request.
        settings: Bounds.
        task_status: Started with the door's URL.
    """
    places = trio.CapacityLimiter(settings.max_connections)
    bodies = OpenBodies(settings.max_open_bytes)

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
            connection = HttpConnection(stream, answer, settings, bodies)
            try:
                places.acquire_on_behalf_of_nowait(connection)
            except trio.WouldBlock:
                await _turn_away(stream)
                return
            try:
                await connection.serve()
            except Exception:
                # One client's end must not be the others'.
                logger.exception("connection ended")
            finally:
                places.release_on_behalf_of(connection)

    host, port = listener.getsockname()[:2]
    task_status.started(f"http://{host}:{port}")
    await trio.serve_listeners(serve, [trio.SocketListener(listener)])


async def _turn_away(stream: trio.SocketStream) -> None:
    body = b"".join(bytes(piece) for piece in _TURNED_AWAY.response().body)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with suppress(trio.BrokenResourceError), trio.move_on_after(1):
        await stream.send_all(head.encode() + body)
