"""The one door where errors of Cap'n Proto, and Trio's wrapping of errors, become ``cw.errors``."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import capnp
import trio

from cw.errors import PeerDisconnected
from cw.rpc.peer_errors import error_from_peer

_LIBRARY_PREFIXES: Final = ("remote exception: ", "message = ")


@contextmanager
def renamed_errors(peer: str, why_ended: Callable[[], str] = str) -> Iterator[None]:
    """Rename what pycapnp raises inside the block into ``cw.errors``.

    Args:
        peer: Who was called, for the text.
        why_ended: Says why the connection ended, where that is known better than the library does.

    Raises:
        PeerDisconnected: The connection is gone; redial and ask for the capabilities anew.
        RemoteFailed: The peer's handler raised (its text is ``Type: text``), or the call cannot
            be sent as it is.
        CwError: Of the type that the peer's handler raised (``peer_errors``).
    """
    try:
        yield
    except capnp.KjException as error:
        text = str(error.description).strip()
        if error.type == "DISCONNECTED":
            message = f"connection to {peer} is gone ({why_ended() or text}); connect again"
            raise PeerDisconnected(message) from error
        for prefix in _LIBRARY_PREFIXES:
            text = text.removeprefix(prefix)
        raise error_from_peer(text, peer) from error


@asynccontextmanager
async def open_plain_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that does not wrap the one error of its body into a group.

    For context managers whose background tasks do not raise: their users need not know that there
    is a nursery inside.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except ExceptionGroup as group:
        if len(group.exceptions) != 1:
            raise
        error = group.exceptions[0]
        raise error from error.__cause__
