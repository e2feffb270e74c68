"""TLS under a Cap'n Proto connection: the handshakes, and the transport after them.

Why OpenSSL stands on the socket itself, and what that costs: design/0022.
"""

import logging
import socket
import ssl
from contextlib import suppress
from typing import Final

import trio

from cw.config import TlsSettings
from cw.errors import PeerDisconnected
from cw.rpc.kj_transport import SocketTransport
from cw.tls import HANDSHAKE_BYTE, TLS_WANTED_ALERT, ServerTls, client_context, explained

log = logging.getLogger(__name__)

RECORD_BYTES: Final = 1 << 14
"""The most that one TLS record carries; each call of OpenSSL reads or writes one."""

_LINGER_S: Final = 1
"""For a peer to read why it was turned away, before its own bytes make the kernel drop that."""


class TlsTransport(SocketTransport):
    """Over a non-blocking TLS socket whose handshake is done; reads and writes whole records."""

    _sock: ssl.SSLSocket

    def _explained(self, error: BaseException) -> str:
        return explained(error, self._peer) if isinstance(error, ssl.SSLError) else ""

    async def _wait_for_bytes(self) -> None:
        """Wait for the kernel only when OpenSSL itself has nothing left."""
        if self._sock.pending():
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.wait_readable(self._sock)

    def _receive_into(self, place: memoryview) -> int:
        """Read record after record while there are any: each read of OpenSSL's gives but one."""
        size_bytes = 0
        while size_bytes < len(place):
            try:
                came_bytes = self._sock.recv_into(place[size_bytes:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                # A write is wanted to answer a change of keys, which waits for the peer to read:
                # the next record brings us here again.
                if size_bytes:
                    return size_bytes
                raise BlockingIOError from error
            if not came_bytes:
                return size_bytes
            size_bytes += came_bytes
        return size_bytes

    def _send(self) -> int:
        """Write a record of the queue's first bytes.

        A write that would block must be repeated with the same bytes, or more: the queue only
        grows at its end, so they are.
        """
        pieces, size_bytes = [], 0
        for piece in self._unsent:
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes >= RECORD_BYTES:
                break
        data = (
            pieces[0]
            if len(pieces) == 1
            else b"".join(
                (
                    *pieces[:-1],
                    memoryview(pieces[-1])[: RECORD_BYTES + len(pieces[-1]) - size_bytes],
                )
                if size_bytes > RECORD_BYTES
                else pieces
            )
        )
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def _close_handle(self) -> None:
        """Say goodbye if that goes without waiting; the protocol above has its own end."""
        with suppress(OSError, ValueError):
            self._sock.unwrap()
        super()._close_handle()


async def secured_dial(
    link: socket.socket, host: str, peer: str, settings: TlsSettings, limit_s: float
) -> ssl.SSLSocket:
    """Agree on TLS with whoever was dialled, and make sure that it is who it should be.

    Args:
        link: Connected; taken over, and closed on failure.
        host: As dialled: what the certificate must be for.
        peer: The address, for errors.
        settings: Whom to trust, and what to show.
        limit_s: For the handshake.

    Raises:
        ConfigError: A file of the settings can't be read.
        PeerDisconnected: There is no agreement; says why, and what to do.
    """
    try:
        context = client_context(settings)
        link.setblocking(False)
        secured = context.wrap_socket(link, server_hostname=host, do_handshake_on_connect=False)
    except BaseException:
        link.close()
        raise
    return await _shaken(secured, peer, limit_s)


async def secured_accept(
    link: socket.socket, peer: str, tls: ServerTls, limit_s: float
) -> ssl.SSLSocket:
    """Agree on TLS with whoever has dialled us; the rest as with `secured_dial`."""
    link.setblocking(False)
    secured = None
    try:
        with trio.move_on_after(limit_s) as waiting:
            await trio.lowlevel.wait_readable(link)
        first = b"" if waiting.cancelled_caught else link.recv(1, socket.MSG_PEEK)
        if first and first[0] != HANDSHAKE_BYTE:
            link.send(TLS_WANTED_ALERT)
            await _linger(link)
            raise PeerDisconnected(f"{peer} does not speak TLS: it is to dial tls:HOST:PORT")
        if not first:
            raise PeerDisconnected(f"{peer} left, or said nothing for {limit_s:g} s")
        secured = tls.context().wrap_socket(link, server_side=True, do_handshake_on_connect=False)
    except OSError as error:
        raise PeerDisconnected(explained(error, peer)) from error
    finally:
        if secured is None:
            link.close()
    return await _shaken(secured, peer, limit_s)


async def _shaken(secured: ssl.SSLSocket, peer: str, limit_s: float) -> ssl.SSLSocket:
    """Go through the handshake; the socket is closed unless it succeeds."""
    done = False
    try:
        with trio.fail_after(limit_s):
            while not done:
                try:
                    secured.do_handshake()
                    done = True
                except ssl.SSLWantReadError:
                    await trio.lowlevel.wait_readable(secured)
                except ssl.SSLWantWriteError:
                    await trio.lowlevel.wait_writable(secured)
    except trio.TooSlowError as error:
        raise PeerDisconnected(f"{peer}: no TLS handshake within {limit_s:g} s") from error
    except OSError as error:
        if secured.server_side:
            await _linger(secured)
        raise PeerDisconnected(explained(error, peer)) from error
    finally:
        if not done:
            secured.close()
    return secured


async def _linger(link: socket.socket) -> None:
    """Let a peer read our last words: closing with its bytes unread would take them back."""
    raw = socket.socket(fileno=socket.dup(link.fileno()))
    with raw, suppress(OSError), trio.move_on_after(_LINGER_S):
        raw.setblocking(False)
        raw.shutdown(socket.SHUT_WR)
        while True:
            await trio.lowlevel.wait_readable(raw)
            if not raw.recv(1 << 16):
                return
