"""Facts of a cluster's processes, found on this machine by the folder that they were given."""

import os
import resource
from pathlib import Path
from typing import Final

from cw.doctor.processes import ProcessFacts
from cw.units import KiB

_ROOT: Final = Path("/")


def processes(folder: Path, up_since_s: float, root: Path = _ROOT) -> tuple[ProcessFacts, ...]:
    """Look for a cluster's supervised processes, by name.

    Args:
        folder: The cluster's.
        up_since_s: When all its processes had been started, in seconds since 1970.
        root: Of the file system.
    """
    found = []
    for entry in (root / "proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "--supervised" in words and str(folder.resolve()) in words:
                found.append(_facts(entry, _name(words), up_since_s, root))
        except OSError:  # it has ended meanwhile
            continue
    return tuple(sorted(found, key=lambda each: each.name))


def _name(words: list[str]) -> str:
    """Name a process by its ``--name``, or by its role: ``python -m cw ROLE ...``."""
    if "--name" in words[:-1]:
        return words[words.index("--name") + 1]
    return words[words.index("cw") + 1] if "cw" in words[:-1] else words[0]


def _facts(entry: Path, name: str, up_since_s: float, root: Path) -> ProcessFacts:
    pid = int(entry.name)
    used, limit = _files(entry, pid)
    return ProcessFacts(
        name=name,
        pid=pid,
        files_used=used,
        files_limit=limit,
        is_realtime=_policy(pid) == os.SCHED_FIFO,
        swapped_bytes=_swapped_bytes(entry),
        is_restarted=_started_s(entry, root) > up_since_s,
    )


def _files(entry: Path, pid: int) -> tuple[int | None, int | None]:
    try:
        limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        return len(list((entry / "fd").iterdir())), limit
    except (PermissionError, ProcessLookupError):
        return None, None


def _policy(pid: int) -> int:
    return os.sched_getscheduler(pid) & ~os.SCHED_RESET_ON_FORK


def _swapped_bytes(entry: Path) -> int:
    for line in (entry / "status").read_text().splitlines():
        if line.startswith("VmSwap:"):
            return int(line.split()[1]) * KiB
    return 0


def _started_s(entry: Path, root: Path) -> float:
    """Say when a process began, in seconds since 1970: proc(5), field 22 of its `stat`."""
    # The name in brackets may hold anything; what is behind the last one begins with field 3.
    ticks = int((entry / "stat").read_text().rpartition(")")[2].split()[22 - 3])
    lines = (root / "proc" / "stat").read_text().splitlines()
    boot_s = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
    return boot_s + ticks / os.sysconf("SC_CLK_TCK")
