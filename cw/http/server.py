"""The HTTP door at an address, until cancelled."""

import logging
import socket
from collections import Counter
from contextlib import suppress
from http import HTTPStatus
from typing import Final

import trio

from cw.config import HttpSettings
from cw.errors import PeerDisconnected
from cw.http.connection import Answer, HttpConnection, OpenBodies
from cw.http.exchange import HttpError
from cw.tls import HANDSHAKE_BYTE, ServerTls, explained
from cw.units import SECOND

logger = logging.getLogger(__name__)

_TURNED_AWAY: Final = HttpError(
    503, "this gateway has as many connections as it serves; retry, or use another", retry_after_s=1
)

_TLS_WANTED: Final = HttpError(400, "this port speaks TLS: use https:// in place of http://")
_DRAIN_BYTES: Final = 1 << 16


async def serve_http(
    listener: trio.socket.SocketType,
    answer: Answer,
    settings: HttpSettings,
    *,
    tls: ServerTls | None = None,
    task_status: "trio.TaskStatus[str]" = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve clients.

    Args:
        listener: A socket that listens.
        answer: Answers each request.
        settings: Bounds.
        tls: Given: nothing but HTTPS is spoken.
        task_status: Started with the door's URL.
    """
    places: Counter[str] = Counter()
    bodies = OpenBodies(settings.max_open_bytes)

    def is_full(address: str) -> bool:
        return (
            places.total() >= settings.max_connections
            or places[address] >= settings.max_connections_per_address
        )

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
                address = str(stream.socket.getpeername()[0])
            except OSError:
                return  # It has left already.
            if is_full(address):
                if tls is None:  # Else it would cost a handshake, of which there are to be no more.
                    await _say(stream, _TURNED_AWAY)
                return
            places[address] += 1
            try:
                secured = stream if tls is None else await _secured(stream, tls, settings)
                await HttpConnection(secured, answer, settings, bodies).serve()
            except PeerDisconnected as exc:
                logger.warning("connection refused: %s", exc)
            except Exception:
                # One client's end must not be the others'.
                logger.exception("connection ended")
            finally:
                places[address] -= 1
                if not places[address]:
                    del places[address]

    host, port = listener.getsockname()[:2]
    task_status.started(f"{'http' if tls is None else 'https'}://{host}:{port}")
    await trio.serve_listeners(serve, [trio.SocketListener(listener)])


async def _secured(
    stream: trio.SocketStream, tls: ServerTls, settings: HttpSettings
) -> trio.SSLStream[trio.SocketStream]:
    """Agree on TLS with a client.

    Raises:
        PeerDisconnected: There is no agreement; says why.
    """
    peer = "a client"
    with trio.move_on_after(settings.handshake_limit_ns / SECOND):
        try:
            first = await stream.socket.recv(1, socket.MSG_PEEK)
            if first and first[0] != HANDSHAKE_BYTE:
                await _say(stream, _TLS_WANTED)
                raise PeerDisconnected(f"{peer} does not speak TLS: it is to use https://")
            secured = trio.SSLStream(stream, tls.context(), server_side=True, https_compatible=True)
            await secured.do_handshake()
        except OSError as exc:
            raise PeerDisconnected(f"{peer} left: {exc}") from exc
        except trio.BrokenResourceError as exc:
            cause = exc.__cause__
            why = explained(cause, peer) if isinstance(cause, OSError) else f"{peer} left"
            raise PeerDisconnected(why) from exc
        return secured
    raise PeerDisconnected(
        f"{peer}: no TLS handshake within {settings.handshake_limit_ns / SECOND:g} s"
    )


async def _say(stream: trio.SocketStream, error: HttpError) -> None:
    """Answer without having read: then close, however much of a request is on its way."""
    response = error.response()
    body = b"".join(bytes(piece) for piece in response.body)
    head = (
        f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in response.headers)
        + f"connection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with suppress(trio.BrokenResourceError), trio.move_on_after(1):
        await stream.send_all(head.encode() + body)
        await stream.send_eof()
        while await stream.receive_some(_DRAIN_BYTES):
            pass  # Closing with its bytes unread would take the answer back.
