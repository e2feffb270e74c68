"""A client of any server that takes one inference per HTTP/1.1 request: `cw.client.Client`'s twin.

It has the same `infer`, so that the same load generator (`cw/workload/client.py`) drives cw's
native door and all HTTP doors. Connections are kept and taken in turn, the last one first; a new
one is opened whenever none is free, since an open loop waits for nobody.
"""

import select
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import attrs
import h11
import trio

from cw.actors.clock import now_ns, trio_time
from cw.benchmarks.peers.formats import Format, HttpCall
from cw.client import Array, Result
from cw.errors import PeerDisconnected, RequestInvalid
from cw.messages import Failure, FailureKind, ModelSpec, Refusal, RefusalReason, Timing
from cw.units import SECOND, parse_duration_ns

GIVE_UP_NS: Final = 3 * SECOND
"""From a request's scheduled start: then its caller hangs up, as people's clients do."""
_RECEIVE_BYTES: Final = 64 * 1024
_REFUSALS: Final = frozenset({429, 503, 504})
"""Too much, not now, waited too long: whatever a server says in place of an output in time."""


@attrs.frozen(kw_only=True)
class Response:
    """A whole answer."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class HttpClient:
    """Asks one server. Made by `open_http`; calls may overlap.

    Args:
        address: Host and port.
        form: How this server is asked.
        spec: What its models have in common.
    """

    def __init__(self, address: tuple[str, int], form: Format, spec: ModelSpec) -> None:
        self._address: Final = address
        self._format: Final = form
        self._spec: Final = spec
        self._idle: Final[list[_Connection]] = []

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        slo: str | int | None,
        started_ns: int | None = None,
    ) -> Result:
        """Ask for one inference; see `cw.client.Client.infer`.

        Raises:
            PeerDisconnected: The server can't be reached, or hung up.
        """
        begin_ns = now_ns() if started_ns is None else started_ns
        if slo is None:
            raise RequestInvalid("expected an SLO: the comparison asks for no best effort")
        slo_ns = parse_duration_ns(slo) if isinstance(slo, str) else slo
        image = inputs[self._spec.inputs[0].name]
        call = self._format.write(model, image, left_ns=begin_ns + slo_ns - now_ns())
        response: Response | None = None
        with trio.move_on_at(trio_time(begin_ns + GIVE_UP_NS)):
            response = await self.ask(call)
        whole = Timing(total_ns=now_ns() - begin_ns)
        if response is None:
            message = f"no answer within {GIVE_UP_NS / SECOND:g} s"
            return _failed(whole, FailureKind.LATE, message)
        if response.status in _REFUSALS:
            message = f"{response.status}: {response.body[:200]!r}"
            refusal = Refusal(reason=RefusalReason.OVERLOAD, message=message)
            return Result(timing=whole, promised=False, refusal=refusal)
        if response.status != 200:
            message = f"{response.status}: {response.body[:200]!r}"
            return _failed(whole, FailureKind.INTERNAL, message)
        try:
            read = self._format.read(response.headers, response.body)
        except ValueError as exc:
            return _failed(whole, FailureKind.INTERNAL, str(exc))
        outputs = {self._spec.outputs[0].name: read.logits}
        return Result(timing=read.timing or whole, promised=False, outputs=outputs)

    async def ask(self, call: HttpCall, *, method: str = "POST") -> Response:
        """Send one request and read its whole answer.

        Raises:
            PeerDisconnected: The server can't be reached, or hung up.
        """
        connection = await self._connected()
        try:
            response = await connection.ask(call, method)
        except BaseException:  # a cancel, too: what comes on it later would be another's answer
            connection.close()
            raise
        if connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def close(self) -> None:
        """Hang up all connections that are not in use."""
        while self._idle:
            self._idle.pop().close()

    async def _connected(self) -> "_Connection":
        while self._idle:
            connection = self._idle.pop()
            if connection.is_alive():
                return connection
            connection.close()  # the server hung up meanwhile
        try:
            stream = await trio.open_tcp_stream(*self._address)
        except OSError as exc:
            raise PeerDisconnected(f"{self._address}: {exc}") from exc
        return _Connection(stream, self._address)


@asynccontextmanager
async def open_http(
    address: tuple[str, int], form: Format, spec: ModelSpec
) -> AsyncIterator[HttpClient]:
    """Make a client, and close its connections afterwards."""
    client = HttpClient(address, form, spec)
    try:
        yield client
    finally:
        client.close()


class _Connection:
    """One connection, used by one request at a time."""

    def __init__(self, stream: trio.SocketStream, address: tuple[str, int]) -> None:
        self._stream: Final = stream
        self._address: Final = address
        self._host: Final = f"{address[0]}:{address[1]}"
        self._h11: Final = h11.Connection(h11.CLIENT)

    @property
    def is_reusable(self) -> bool:
        """Whether it is ready for the next request."""
        return self._h11.our_state is h11.IDLE

    def is_alive(self) -> bool:
        """Tell whether the server has left it open: nothing is there to be read."""
        poll = select.poll()
        poll.register(self._stream.socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def ask(self, call: HttpCall, method: str) -> Response:
        """See `HttpClient.ask`."""
        length = ("content-length", str(len(call.body)))
        request = h11.Request(
            method=method,
            target=call.target,
            headers=[("host", self._host), *call.headers, length],
        )
        data = self._h11.send(request) or b""
        data += self._h11.send(h11.Data(data=call.body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        try:
            await self._stream.send_all(data)
            return await self._receive()
        except (trio.BrokenResourceError, h11.RemoteProtocolError) as exc:
            raise PeerDisconnected(f"{self._host}: {exc}") from exc

    async def _receive(self) -> Response:
        status, headers, body = 0, {}, bytearray()
        while True:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                self._h11.receive_data(await self._stream.receive_some(_RECEIVE_BYTES))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise trio.BrokenResourceError("hung up before its answer's end")
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return Response(status=status, headers=headers, body=bytes(body))

    def close(self) -> None:
        """Hang up."""
        self._stream.socket.close()


def _failed(timing: Timing, kind: FailureKind, message: str) -> Result:
    return Result(timing=timing, promised=False, failure=Failure(kind=kind, message=message))
