"""Time for actors: the one bridge between Trio's float seconds and cw's int nanoseconds.

Trio's clock starts at a random offset in each process, so an instant means nothing outside its own
process until `core/clock_sync.py` has mapped it. Trio's event loop wakes at the millisecond grain
of epoll; what has to start inside a window waits here for a timerfd instead, which wakes within
tens of microseconds. Under `trio.testing.MockClock` the same calls are virtual.
"""

import ctypes
import os
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import trio
from trio.testing import MockClock

from cw.units import MS, SECOND

_COARSE_NS: Final = 2 * MS
"""Left to Trio's own timeout, whose grain is 1 ms; only the rest is worth a timer of its own."""

_CLOCK_MONOTONIC: Final = 1
_TFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC


class _Itimerspec(ctypes.Structure):
    """struct itimerspec of timerfd_settime(2)."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


_libc: Final = ctypes.CDLL(None, use_errno=True)


def now_ns() -> int:
    """Read this run's clock; the same clock that all deadlines in this process are on."""
    return round(trio.current_time() * SECOND)


def trio_time(instant_ns: int) -> float:
    """Turn an instant into what Trio's deadlines take."""
    return instant_ns / SECOND


def date_ns(instant_ns: int) -> int:
    """Say at which date (Unix time, ns) an instant of this run's clock was, about now.

    For what outlives this run, such as records: to tell hours apart. The system sets its date when
    it likes, so no duration is ever made of two of these.
    """
    return time.time_ns() - (now_ns() - instant_ns)


class PreciseTimer:
    """A timerfd that one task at a time may sleep on; about 50 us late instead of about 1 ms.

    Use it as a context manager: it owns a file descriptor.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._virtual = trio.CancelScope()

    def __enter__(self) -> Self:
        if not isinstance(trio.lowlevel.current_clock(), MockClock):
            self._fd = _libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_FLAGS)
            if self._fd < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"timerfd_create: {os.strerror(code)}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._fd >= 0:
            trio.lowlevel.notify_closing(self._fd)
            os.close(self._fd)
            self._fd = -1

    async def sleep_until_ns(self, instant_ns: int) -> None:
        """Sleep until `instant_ns` on this run's clock; at once (a checkpoint) if it has passed."""
        if self._fd < 0:
            await trio.sleep_until(trio_time(instant_ns))
            return
        if instant_ns - now_ns() > _COARSE_NS:
            await trio.sleep_until(trio_time(instant_ns - _COARSE_NS))
        if instant_ns <= now_ns():
            await trio.lowlevel.checkpoint()
            return
        self.arm(instant_ns)
        await self.wait()

    def arm(self, instant_ns: int) -> None:
        """Have `wait` return at `instant_ns`, not at what was armed before; wakes no task."""
        if self._fd < 0:
            self._virtual.deadline = trio_time(instant_ns)
            return
        remaining_ns = max(instant_ns - now_ns(), 1)  # 0 would disarm it
        spec = _Itimerspec(0, 0, *divmod(remaining_ns, SECOND))
        if _libc.timerfd_settime(self._fd, 0, ctypes.byref(spec), None) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"timerfd_settime: {os.strerror(code)}")

    async def wait(self) -> None:
        """Return once the armed instant has passed; it may be armed anew meanwhile."""
        if self._fd < 0:
            with self._virtual:
                await trio.sleep_forever()
            self._virtual = trio.CancelScope()
            return
        while True:
            await trio.lowlevel.wait_readable(self._fd)
            with suppress(BlockingIOError):  # armed anew between its ringing and now
                os.read(self._fd, 8)
                return
