"""A server's processes: started on one core, found again whatever they do, weighed and ended.

Servers start daemons that leave their group and their parent. Each process of a run carries a mark
in its environment, by which all of them are found.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.errors import CwError
from cw.units import SECOND

_MARK: Final = "CW_PEERS_MARK"
_POLITE_S: Final = 5.0
"""To end by itself after SIGTERM."""
_LINES_SHOWN: Final = 6


class ServerFailed(CwError):
    """A server did not start, or ended; the message has the end of its log. It is reported."""


@attrs.frozen(eq=False)
class Running:
    """A server's processes."""

    process: "subprocess.Popen[bytes]"
    mark: str
    log: Path

    def pids(self) -> list[int]:
        """Find all its processes, daemons included."""
        wanted = f"{_MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found

    def memory_bytes(self) -> int:
        """Add up what they hold: shared pages are divided among those who share (PSS)."""
        total_kib = 0
        for pid in self.pids():
            with contextlib.suppress(OSError, StopIteration):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total_kib += int(next(line for line in lines if line.startswith("Pss:")).split()[1])
        return total_kib * 1024

    def processor_ns(self) -> int:
        """Add up how long they have been on processors, to 10 ms."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += int(words[11]) + int(words[12])
        return ticks * SECOND // os.sysconf("SC_CLK_TCK")

    def check(self) -> None:
        """Raise if the main process has ended.

        Raises:
            ServerFailed: It has.
        """
        status = self.process.poll()
        if status is not None:
            raise ServerFailed(f"it ended with status {status}: {self.last_words()}")

    def last_words(self) -> str:
        """Return the end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return " | ".join(line.strip() for line in lines[-_LINES_SHOWN:] if line.strip())


@asynccontextmanager
async def running(
    argv: Sequence[str], *, core: int, environment: Mapping[str, str], folder: Path
) -> AsyncIterator[Running]:
    """Run a server for the length of the block, on one core.

    Args:
        argv: What to start.
        core: The only processor that it may use.
        environment: Added to this process's own.
        folder: Its working directory; its log is written there.

    Raises:
        ServerFailed: It can't be started.
    """
    mark, log = secrets.token_hex(8), folder / "server.log"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(  # noqa: ASYNC220  # forking takes a millisecond, once
                ["taskset", "--cpu-list", str(core), *argv],
                cwd=folder,
                env={**os.environ, **environment, _MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as exc:
        raise ServerFailed(f"{argv[0]}: {exc}") from exc
    server = Running(process, mark, log)
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_end, server)


def _end(server: Running) -> None:
    """Ask it to end, and end by force whatever is left of it."""
    with contextlib.suppress(ProcessLookupError):
        server.process.send_signal(signal.SIGTERM)
    until_s = time.monotonic() + _POLITE_S
    while time.monotonic() < until_s and (server.process.poll() is None or server.pids()):
        time.sleep(0.1)
    for pid in server.pids():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


def free_port() -> int:
    """Find a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
