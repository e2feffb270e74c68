"""Facts of this machine, as its kernel tells them.

Each reader takes the root of the file system, so that a test can lay out another machine's files.
"""

import ctypes
import os
import resource
import threading
import time
from pathlib import Path
from typing import Final

from cw.doctor.clocks import ClockFacts
from cw.doctor.limits import LimitFacts
from cw.doctor.memory import MemoryFacts
from cw.doctor.processors import ProcessorFacts
from cw.units import MS, SECOND, US, KiB

_ROOT: Final = Path("/")
_SLEEPS: Final = 200
"""Of 1 ms: enough for a p99, and over in a fraction of a second."""
_SLEEPS_WITHIN_NS: Final = 1 * SECOND
_REALTIME_PRIORITY: Final = 10
"""What `cli/process.py` asks for."""
_UNLIMITED_BYTES: Final = 1 << 60
"""Control groups (v1) without a limit tell a number near 2**63."""


def limits(root: Path = _ROOT) -> LimitFacts:
    """Read what this process is allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    quota, periods, throttled_ns = _processor_quota(root)
    limit_bytes, used_bytes = _memory_limit(root)
    return LimitFacts(
        open_files=_files(soft),
        open_files_hard=_files(hard),
        may_run_realtime=may_run_realtime(),
        cpu_quota_cores=quota,
        throttled_periods=periods,
        throttled_ns=throttled_ns,
        memory_limit_bytes=limit_bytes,
        memory_used_bytes=used_bytes,
    )


def may_run_realtime() -> bool:
    """Try it, on a thread that ends with the try: no capability or limit tells the whole truth."""
    allowed = []

    def ask() -> None:
        try:
            policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(_REALTIME_PRIORITY))
        except OSError:
            return
        allowed.append(True)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return bool(allowed)


def memory(folder: Path, root: Path = _ROOT) -> MemoryFacts:
    """Read what memory there is, and what room on the disk of a folder."""
    sizes = {}
    for line in _lines(root / "proc/meminfo"):
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            sizes[name] = int(words[0]) * KiB
    disk = os.statvfs(folder)
    swappiness = _text(root / "proc/sys/vm/swappiness")
    huge = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    return MemoryFacts(
        total_bytes=sizes["MemTotal"],
        available_bytes=sizes["MemAvailable"],
        swap_total_bytes=sizes.get("SwapTotal", 0),
        swap_used_bytes=sizes.get("SwapTotal", 0) - sizes.get("SwapFree", 0),
        swappiness=int(swappiness) if swappiness.isdigit() else None,
        huge_pages=huge.partition("[")[2].partition("]")[0] or None,
        folder=str(folder),
        disk_free_bytes=disk.f_bavail * disk.f_frsize,
    )


def processors(root: Path = _ROOT) -> ProcessorFacts:
    """Read what the processors are set to, and measure how soon a sleeper wakes."""
    governors = {
        _text(path)
        for path in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    }
    late_ns = sorted(_wake_ups())
    return ProcessorFacts(
        cores=len(os.sched_getaffinity(0)),
        governors=tuple(sorted(governors - {""})),
        stolen_share=_stolen_share(root),
        late_ns_p50=late_ns[len(late_ns) // 2],
        late_ns_p99=late_ns[len(late_ns) * 99 // 100],
        late_ns_max=late_ns[-1],
    )


def clocks(root: Path = _ROOT) -> ClockFacts:
    """Read what the kernel says of its clocks."""
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    adjustment = _adjustment()
    if adjustment is None:
        return ClockFacts(source=source or None, is_synchronised=None, drift_ppm=None)
    is_synchronised, drift_ppm = adjustment
    return ClockFacts(source=source or None, is_synchronised=is_synchronised, drift_ppm=drift_ppm)


def _wake_ups() -> list[int]:
    """Sleep 1 ms many times; give by how much each was late, ns."""
    late_ns = []
    begin_ns = time.monotonic_ns()
    for _ in range(_SLEEPS):
        before_ns = time.monotonic_ns()
        time.sleep(MS / SECOND)
        after_ns = time.monotonic_ns()
        late_ns.append(after_ns - before_ns - MS)
        if after_ns - begin_ns > _SLEEPS_WITHIN_NS:
            break
    return late_ns


def _stolen_share(root: Path) -> float:
    """Read the first line of /proc/stat: user nice system idle iowait irq softirq steal."""
    words = next(iter(_lines(root / "proc/stat")), "").split()[1:9]
    ticks = [int(word) for word in words]
    total = sum(ticks)
    return ticks[7] / total if len(ticks) == 8 and total else 0.0


def _processor_quota(root: Path) -> tuple[float | None, int, int]:
    """Read a control group's quota (v2, else v1): cores, periods throttled, ns throttled."""
    folder = _group(root, "")
    words = _text(folder / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        counts = _counts(folder / "cpu.stat")
        throttled_ns = counts.get("throttled_usec", 0) * US
        return int(words[0]) / int(words[1]), counts.get("nr_throttled", 0), throttled_ns
    folder = _group(root, "cpu")
    quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit():  # without a quota it is -1
        counts = _counts(folder / "cpu.stat")
        throttled_ns = counts.get("throttled_time", 0)
        return int(quota) / int(period), counts.get("nr_throttled", 0), throttled_ns
    return None, 0, 0


def _memory_limit(root: Path) -> tuple[int | None, int]:
    """Read a control group's limit on memory and what it uses, without page cache."""
    for controller, limit_name, used_name in (
        ("", "memory.max", "memory.current"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        folder = _group(root, controller)
        limit, used = _text(folder / limit_name), _text(folder / used_name)
        if limit.isdigit() and used.isdigit() and int(limit) < _UNLIMITED_BYTES:
            counts = _counts(folder / "memory.stat")
            cache = counts.get("file", counts.get("total_cache", 0))
            return int(limit), max(0, int(used) - cache)
    return None, 0


def _group(root: Path, controller: str) -> Path:
    """Find the folder of this process's control group; `controller` is empty for version 2.

    In a container the path may be one of the host: then the mount's own root is ours.
    """
    base = root / "sys/fs/cgroup" / controller
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        is_it = controllers == "" if not controller else controller in controllers.split(",")
        if is_it and (base / path.lstrip("/")).is_dir():
            return base / path.lstrip("/")
    return base


def _counts(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    pairs = (line.split() for line in _lines(path))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _files(limit: int) -> int:
    return limit if limit != resource.RLIM_INFINITY else 1 << 20


def _text(path: Path) -> str:
    """Read a small file; empty where there is none, or it may not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _lines(path: Path) -> list[str]:
    return _text(path).splitlines()


class _Timex(ctypes.Structure):
    """The beginning of `struct timex` of adjtimex(2), and room for the rest of it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


_STA_UNSYNC: Final = 0x40
_PPM_SHIFT: Final = 16
"""`freq` is in parts per million, shifted left by so many bits."""


def _adjustment() -> tuple[bool, float] | None:
    """Ask adjtimex(2), which changes nothing when no mode is set: synchronised? and ppm."""
    timex = _Timex(modes=0)
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC, timex.freq / (1 << _PPM_SHIFT)
