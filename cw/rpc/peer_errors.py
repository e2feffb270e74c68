"""Errors of ``cw.errors`` across the wire: by type name, and raised as the same type again.

An error reaches the caller as the text ``Type: explanation``. A type of the tree comes out as
itself. All else is `RemoteFailed`: what is no `CwError` at all, and the types that speak of a
connection, since it was the peer's own connection to somebody else that broke and this one is
sound. Used for Cap'n Proto (`kj_errors`) and for ports in memory alike.
"""

from typing import Final

from cw import errors
from cw.errors import CwError, PeerDisconnected, RemoteFailed

BY_NAME: Final[dict[str, type[CwError]]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, CwError)
    and not issubclass(kind, PeerDisconnected | RemoteFailed)
}


def error_from_peer(text: str, peer: str) -> CwError:
    """Turn the text of a peer's error into the error to raise here.

    Args:
        text: ``Type: explanation``.
        peer: Who was called, for the text of a `RemoteFailed`.
    """
    name, _, explanation = text.partition(":")
    kind = BY_NAME.get(name)
    if kind is None:
        return RemoteFailed(f"{peer}: {text}")
    return kind(explanation.strip())


def error_as_if_from_peer(error: Exception, peer: str) -> CwError:
    """Turn an error of an actor in this process into what a caller behind a wire would see."""
    return error_from_peer(f"{type(error).__name__}: {error}", peer)
