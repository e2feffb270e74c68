"""One client's connection: HTTP/1.1 with keep-alive, one request at a time, all of it bounded.

h11 knows the protocol and does no I/O; here is what it does not decide: how much may come, how long
it may take, and what a client that hangs up means. While a request is answered its client is
watched: if it leaves, the answer is cancelled, and the cluster learns that nobody waits any more.
"""

import logging
import zlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import unquote, urlsplit

import attrs
import h11
import trio

from cw.actors.clock import now_ns
from cw.config import HttpSettings
from cw.http.exchange import HttpError, HttpRequest, HttpResponse
from cw.units import SECOND, format_bytes

logger = logging.getLogger(__name__)

Answer = Callable[[HttpRequest], Awaitable[HttpResponse]]

READ_BYTES: Final = 1 << 18
_THREAD_FROM_BYTES: Final = 1 << 16
"""Compressed bodies of this size leave the event loop: 16 MiB take 60 ms."""
_LINGER_S: Final = 2.0
"""What a client goes on to send is thrown away for so long, or it would not read its answer."""
_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS
_AHEAD_BYTES_MAX: Final = 1 << 16
"""What a client may send of its next requests before it has its answer."""


@attrs.define(eq=False)
class OpenBodies:
    """The bytes of bodies that all connections of a door hold together."""

    max_bytes: int
    held_bytes: int = 0

    def hold(self, size_bytes: int) -> None:
        """Count some more.

        Raises:
            HttpError: There is no room for them.
        """
        if self.held_bytes + size_bytes > self.max_bytes:
            raise HttpError(
                503,
                f"this gateway holds {format_bytes(self.held_bytes)} of requests, of "
                f"{format_bytes(self.max_bytes)} at most; retry, or use another",
                retry_after_s=1,
            )
        self.held_bytes += size_bytes


@attrs.define(eq=False)
class HttpConnection:
    """Serves one client until it leaves, breaks the protocol, or takes too long.

    Args:
        stream: To the client; closed by whoever opened it.
        answer: Answers a request; may raise `HttpError`.
        settings: Bounds.
        bodies: What all connections hold.
    """

    stream: trio.abc.Stream
    answer: Answer
    settings: HttpSettings
    bodies: OpenBodies
    _held_bytes: int = attrs.field(default=0, init=False)
    _h11: h11.Connection = attrs.field(init=False)
    _has_ended: bool = attrs.field(default=False, init=False)
    _is_head: bool = attrs.field(default=False, init=False)
    """Whether the request asks for the head of its answer only."""

    def __attrs_post_init__(self) -> None:
        self._h11 = h11.Connection(
            h11.SERVER, max_incomplete_event_size=self.settings.max_header_bytes
        )

    async def serve(self) -> None:
        """Answer one request after another."""
        while await self._serve_one():
            self._h11.start_next_cycle()

    async def _serve_one(self) -> bool:
        """Answer a request; whether the connection goes on."""
        self._is_head = False  # What is no request has no method, and its error has a body.
        try:
            request = await self._request()
            response = None if request is None else await self._answered(request)
        except h11.RemoteProtocolError as exc:
            hint = exc.error_status_hint or 400
            response = HttpError(hint, f"expected HTTP/1.1: {exc}").response()
        except HttpError as exc:
            response = exc.response()
        finally:
            self.bodies.held_bytes -= self._held_bytes
            self._held_bytes = 0
        if response is None:
            return False  # nobody is there to read it
        with trio.move_on_after(self.settings.send_limit_ns / SECOND) as sending:
            await self._send(response)
        if sending.cancelled_caught or self._h11.our_state is h11.ERROR:
            return False
        if self._h11.their_state is not h11.DONE:
            await self._linger()  # it was refused before all of it had come
            return False
        return self._h11.our_state is h11.DONE

    def _hold(self, size_bytes: int) -> None:
        self.bodies.hold(size_bytes)
        self._held_bytes += size_bytes

    async def _linger(self) -> None:
        with trio.move_on_after(_LINGER_S), suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(READ_BYTES):
                pass

    # --- reading ----------------------------------------------------------------------------------

    async def _request(self) -> HttpRequest | None:
        """Read a whole request; None when the client has left, or idled for too long."""
        head: object = None
        with trio.move_on_after(self.settings.idle_limit_ns / SECOND):
            head = await self._event()
        if not isinstance(head, h11.Request):
            return None
        self._is_head = head.method == b"HEAD"
        headers = {name.decode("latin-1"): _text(value) for name, value in head.headers}
        body = await self._body(headers)
        if body is None:
            return None
        return HttpRequest(
            method=head.method.decode("latin-1"),
            path=_path(head.target),
            headers=headers,
            body=await self._decoded(body, headers),
            arrival_ns=now_ns(),
        )

    async def _body(self, headers: dict[str, str]) -> bytearray | None:
        most = self.settings.max_body_bytes
        announced = headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > most:
            raise _too_large(int(announced), most)
        if self._h11.they_are_waiting_for_100_continue:
            proceed = h11.InformationalResponse(status_code=100, headers=[])
            await self.stream.send_all(self._h11.send(proceed) or b"")
        body = bytearray()
        with trio.move_on_after(self.settings.body_limit_ns / SECOND):
            while True:
                event = await self._event()
                if isinstance(event, h11.EndOfMessage):
                    return body
                if not isinstance(event, h11.Data):
                    return None
                self._hold(len(event.data))
                body += event.data
                if len(body) > most:
                    raise _too_large(len(body), most)
        raise HttpError(
            408,
            f"expected the whole body within {self.settings.body_limit_ns / SECOND:g} s, "
            f"got {format_bytes(len(body))} of it",
        )

    async def _decoded(self, body: bytearray, headers: dict[str, str]) -> bytes | bytearray:
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in ("identity", ""):
            return body
        decode = partial(decoded, body, encoding, self.settings.max_body_bytes)
        is_long = len(body) >= _THREAD_FROM_BYTES
        plain = await trio.to_thread.run_sync(decode) if is_long else decode()
        self._hold(len(plain))
        return plain

    async def _event(self) -> object:
        """Give the protocol's next event, reading as much as that takes."""
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            try:
                came = await self.stream.receive_some(READ_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return h11.ConnectionClosed()
            if not came:
                self._has_ended = True
            self._h11.receive_data(bytes(came))
        return event

    # --- answering --------------------------------------------------------------------------------

    async def _answered(self, request: HttpRequest) -> HttpResponse | None:
        """Have a request answered; None when its client left meanwhile."""
        response = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                response = await self.answer(request)
            except HttpError as exc:
                response = exc.response()
            except Exception:
                logger.exception("request failed path=/%s", "/".join(request.path)[:200])
                response = HttpError(
                    500, "cw failed to answer; the gateway's log says why"
                ).response()
            nursery.cancel_scope.cancel()
        return response

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel the answer when the client hangs up; keep what it sends ahead, up to a bound."""
        ahead_bytes = 0
        while ahead_bytes < _AHEAD_BYTES_MAX and not self._has_ended:
            try:
                came = await self.stream.receive_some(_AHEAD_BYTES_MAX)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()
                return
            if not came:
                scope.cancel()
                return
            try:
                self._h11.receive_data(bytes(came))
            except h11.RemoteProtocolError:
                return  # found again when it is its turn
            ahead_bytes += len(came)

    async def _send(self, response: HttpResponse) -> None:
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [*response.headers, ("content-length", str(response.body_bytes))]
        if self._h11.their_state is not h11.DONE:
            headers.append(("connection", "close"))
        head = h11.Response(
            status_code=response.status,
            reason=HTTPStatus(response.status).phrase.encode(),
            headers=headers,
        )
        pieces = [self._h11.send(head) or b""]
        for piece in () if self._is_head else response.body:
            # Passed through as it is: h11 asks for its length only.
            pieces += (
                self._h11.send_with_data_passthrough(h11.Data(data=cast("bytes", piece))) or []
            )
        pieces += self._h11.send_with_data_passthrough(h11.EndOfMessage()) or []
        try:
            await self.stream.send_all(b"".join(pieces))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._h11.send_failed()


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _path(target: bytes) -> tuple[str, ...]:
    path = urlsplit(target.decode("latin-1")).path
    return tuple(unquote(part) for part in path.split("/") if part)


def _too_large(size_bytes: int, most: int) -> HttpError:
    return HttpError(
        413,
        f"expected a body of at most {format_bytes(most)}, got {format_bytes(size_bytes)} or more",
    )


def decoded(body: bytearray, encoding: str, most: int) -> bytes:
    """Undo a content-encoding, no further than to `most` bytes.

    Raises:
        HttpError: The encoding is not known, its data are broken, or they hold too much.
    """
    if encoding not in ("gzip", "deflate"):
        raise HttpError(
            415, f"expected the content-encoding gzip, deflate or identity, got {encoding[:32]!r}"
        )
    decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        plain = decompressor.decompress(body, most)
    except zlib.error as exc:
        raise HttpError(400, f"expected a body in {encoding}, got broken data: {exc}") from exc
    if not decompressor.eof:
        if decompressor.unconsumed_tail:
            raise _too_large(most + 1, most)
        raise HttpError(400, f"expected a whole body in {encoding}, its end is missing")
    return plain
