"""Addresses, and the sockets behind them.

``tcp:HOST:PORT`` (``tcp:[::1]:7000`` for IPv6, port 0 for any free one), ``tls:HOST:PORT`` for the
same with TLS, and ``unix:PATH``.
"""

import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from cw.errors import ConfigError

ACCEPT_BACKLOG: Final = 1024
"""Connections that the kernel keeps for us between two accepts."""

SOCKET_BUFFER_BYTES: Final = 1 << 20
"""Kernel buffers each way: a 600 KB body fits; 1.5 to 2 times the calls/s of the default sizes."""

KEEPALIVE_IDLE_S: Final = 30
KEEPALIVE_INTERVAL_S: Final = 10
KEEPALIVE_PROBES: Final = 3
"""A peer that is gone without a word (its machine, or the way to it) is found within a minute, by
the kernel; a client may be silent for as long as it is there."""


def listen(address: str) -> trio.socket.SocketType:
    """Bind ``address`` and listen; connections queue up in the kernel until they are served.

    The file of a Unix socket whose process is gone is replaced.

    Raises:
        ConfigError: The address cannot be read.
        OSError: It is taken, or may not be bound.
    """
    family, where = parse_address(address)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(where, str):
            _remove_dead_socket(Path(where))
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tune_socket(sock)  # Accepted sockets inherit it.
        sock.bind(where)
        sock.listen(ACCEPT_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return trio.socket.from_stdlib_socket(sock)


def address_of(listener: trio.socket.SocketType, *, tls: bool = False) -> str:
    """Return the address to dial, with the real port where 0 was asked for."""
    where = listener.getsockname()
    if isinstance(where, str):
        return f"unix:{where}"
    host = f"[{where[0]}]" if ":" in where[0] else where[0]
    return f"{'tls' if tls else 'tcp'}:{host}:{where[1]}"


def speaks_tls(address: str) -> bool:
    """Tell whether TLS is to be spoken with whoever is at an address."""
    return address.startswith("tls:")


def parse_address(address: str) -> tuple[socket.AddressFamily, tuple[str, int] | str]:
    """Split an address into its family and what ``bind`` and ``connect`` take.

    Raises:
        ConfigError: It is none of ``tcp:HOST:PORT``, ``tls:HOST:PORT`` and ``unix:PATH``.
    """
    kind, _, where = address.partition(":")
    host, _, port = where.rpartition(":")
    if kind == "unix" and where:
        return socket.AF_UNIX, where
    if kind in ("tcp", "tls") and host and port.isdecimal() and int(port) < 1 << 16:
        is_v6 = host.startswith("[")
        return (socket.AF_INET6 if is_v6 else socket.AF_INET), (host.strip("[]"), int(port))
    raise ConfigError(f"address {address!r}: expected tcp:HOST:PORT, tls:HOST:PORT or unix:PATH")


def tune_socket(sock: socket.socket) -> None:
    """Switch Nagle's algorithm off, watch for dead peers, and give buffers of a tensor's size.

    Header and body leave as two pieces: with Nagle's algorithm they arrive 40 ms apart.
    """
    if sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)


def _remove_dead_socket(path: Path) -> None:
    """Remove a Unix socket's file when nobody listens behind it."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
