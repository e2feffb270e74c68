"""What stubs and gates have in common: asking, being told, agreeing on a version.

The rules of memory and order are those of ``kj_calls``: params become plain messages in a call's
first step, in order of arrival, and nothing of the call is touched once its caller has left.
"""

import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from cw.errors import CwError, ProtocolViolation, RequestInvalid
from cw.rpc.codec.binding import checked
from cw.rpc.kj_calls import served
from cw.rpc.kj_connection import KjConnection
from cw.rpc.schema import OLDEST_VERSION, PROTOCOL_VERSION
from cw.units import format_bytes

log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT")
ReplyT = TypeVar("ReplyT")

SMALL_BYTES: Final = 256
"""What a call without payload is counted as in the connection's budget."""

ENVELOPE_BYTES: Final = 64 << 10
"""Room left in the largest message for all but the payload."""


class Stub:
    """A capability of the peer on one connection; the `Peer` part of every port."""

    def __init__(self, connection: KjConnection, capability: Any) -> None:
        """Speak to `capability`, which lives as long as `connection`."""
        self._connection: Final = connection
        self._capability: Final = capability

    async def wait_closed(self) -> None:
        """See `Peer.wait_closed`."""
        await self._connection.wait_disconnected()

    def close(self) -> None:
        """See `Peer.close`."""
        self._connection.close()

    async def _ask(
        self,
        method: str,
        fill: Callable[[Any], object],
        read: Callable[[Any], MessageT],
        payload_bytes: int = 0,
    ) -> MessageT:
        """Call a method and wait for its answer; a cancel here cancels the call at the peer.

        Args:
            method: Its name in the schema.
            fill: Fills the params' builder.
            read: Makes a message of the results' reader.
            payload_bytes: Size of the tensors or file contents among the params.

        Raises:
            RequestInvalid: The payload is over the connection's bound for one message.
            PeerDisconnected: The connection is gone, or breaks before the answer.
            ProtocolViolation: The answer means nothing.
            RemoteFailed: The peer failed. Types of ``cw.errors`` come as themselves.
        """
        largest = self._connection.limits.max_message_bytes - ENVELOPE_BYTES
        if payload_bytes > largest:
            raise RequestInvalid(
                f"expected at most {format_bytes(largest)} in one call to {self._connection.peer}, "
                f"got {format_bytes(payload_bytes)}; send less at a time, or raise "
                "max_message on both sides"
            )
        async with self._connection.slot(payload_bytes + SMALL_BYTES):
            with self._connection.errors():
                request = getattr(self._capability, f"{method}_request")()
                fill(request)
                response = await request.send()
            return checked(read)(response)


def nothing(_: Any) -> None:
    """Fill nothing, or read nothing."""


def asked(
    read: Callable[[Any], MessageT],
    perform: Callable[[Any, MessageT], Awaitable[ReplyT]],
    write: Callable[[Any, ReplyT], object] | None = None,
) -> Callable[[Any, Any], Coroutine[Any, Any, None]]:
    """Build a gate's method that answers: `kj_calls.served`, for any gate.

    Args:
        read: Makes a message of the params' reader; damaged ones become `ProtocolViolation`.
        perform: Asks the actor. Its first argument is the gate.
        write: Fills the results' builder from the actor's answer.
    """
    return served(checked(read), perform, write)


def told(
    read: Callable[[Any], MessageT], perform: Callable[[Any, MessageT], None]
) -> Callable[[Any, Any], Coroutine[Any, Any, None]]:
    """Build a gate's ``tell``: read and perform in one step; the peer is dropped if it fails.

    What follows on a failed `tell` would be out of order, so the connection ends with it.

    Args:
        read: Makes messages of the params' reader.
        perform: Hands them to the actor, without waiting. Its first argument is the gate, which
            has the connection as its ``link``.
    """
    read = checked(read)

    async def handler(gate: Any, ctx: Any) -> None:
        try:
            perform(gate, read(ctx.params))
        except CwError as error:
            log.warning("peer dropped peer=%s error=%r", gate.link.peer, error)
            gate.link.close()
            raise

    return handler


def agreed_version(offered: int) -> int:
    """Say which version of the protocol to speak with a client that speaks up to `offered`.

    Raises:
        ProtocolViolation: This build no longer speaks any that old.
    """
    if offered < OLDEST_VERSION:
        raise ProtocolViolation(
            f"expected a peer that speaks protocol version {OLDEST_VERSION} or later, got version "
            f"{offered}; upgrade it"
        )
    return min(offered, PROTOCOL_VERSION)


def check_version(agreed: int) -> None:
    """Check what the server made of the version that was offered to it.

    Raises:
        ProtocolViolation: It chose one that this build does not speak.
    """
    if not OLDEST_VERSION <= agreed <= PROTOCOL_VERSION:
        raise ProtocolViolation(
            f"expected protocol version {OLDEST_VERSION} to {PROTOCOL_VERSION}, got {agreed}; "
            "upgrade whichever side is older"
        )
