"""The thread behind one lane of a device: one call at a time, started on time, and measured.

The event loop hands it a call and is told of the end. While one call runs the next may be waiting
here already (*staged*), so that between the two there is no turn of the event loop. A call may have
a window for its start: the thread sleeps until shortly before `earliest`, then watches the clock.

Sleeping is left to the kernel's timers with this thread's slack set to nothing: at the default of
50 us every start would be late by that. design/0013 has what each of this bought.
"""

import ctypes
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, Generic, TypeVar

import attrs
import outcome
import trio

from cw.actors.clock import now_ns
from cw.devices.device import DeviceReport
from cw.errors import DeviceFault, StartMissed
from cw.messages import Window
from cw.units import SECOND, US, format_ms

T = TypeVar("T")

WATCH_NS: Final = 60 * US
"""The clock is watched for so long before a start: a sleeping thread wakes up to that late."""

_PR_SET_TIMERSLACK: Final = 29
_libc: Final = ctypes.CDLL(None, use_errno=True)


@attrs.frozen(kw_only=True)
class Measured(Generic[T]):
    """What a call gave, and how long it took."""

    value: T
    report: DeviceReport


@attrs.define(eq=False)
class _Call:
    work: Callable[[], Any]
    window: Window | None
    task: trio.lowlevel.Task


class LaneThread:
    """One serial lane. Made and used inside one Trio run, on a real clock.

    Args:
        name: Of the thread, for debuggers.
        cores: Processors that the thread is kept on; empty means any.
        switch_interval_s: Python's thread switch interval while the lane lives: at the default
            5 ms the thread waits that long for the interpreter whenever the event loop is busy.
        surroundings: Entered by the thread before its first call, left after its last.
    """

    def __init__(
        self,
        *,
        name: str,
        cores: Sequence[int] = (),
        switch_interval_s: float = 5e-5,
        watch_ns: int = WATCH_NS,
        surroundings: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._token: Final = trio.lowlevel.current_trio_token()
        self._calls: Final[queue.SimpleQueue[_Call | None]] = queue.SimpleQueue()
        self._open: Final[set[_Call]] = set()  # handed over and not answered; the event loop's own
        self._given_up: str | None = None
        self._cores: Final = tuple(cores)
        self._watch_ns: Final = watch_ns
        self._surroundings: Final = surroundings
        self._stopped: Final = trio.Event()
        self._clock_offset_ns: Final = _clock_offset_ns()
        self._switch_interval_before_s: Final = sys.getswitchinterval()
        sys.setswitchinterval(switch_interval_s)
        # A daemon: when the event loop dies without closing the device, the process still ends.
        self._thread: Final = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T], *, window: Window | None = None) -> Measured[T]:
        """Do `work` on the thread, after the calls before it.

        A call can't be stopped half-way: a cancel is seen at the caller's next checkpoint.

        Args:
            work: What to do; it must be quick, or let go of the interpreter's lock.
            window: Bounds on its start, on this process's clock; None: at once.

        Raises:
            StartMissed: Its turn came after `latest`; it was not started.
            DeviceFault: The thread was given up.
            Exception: What `work` raised.
        """
        if self._given_up is not None:
            raise DeviceFault(self._given_up)
        assert self._thread.is_alive(), "a call to a device that was closed"
        call = _Call(work, window, trio.lowlevel.current_task())
        self._open.add(call)
        self._calls.put(call)
        result: Measured[T] = await trio.lowlevel.wait_task_rescheduled(_refuse_to_abort)
        return result

    @property
    def is_idle(self) -> bool:
        """Whether no call runs or waits."""
        return not self._open

    def give_up(self, reason: str) -> None:
        """Answer all calls, and all later ones, with a `DeviceFault`.

        For a thread that hangs in one: nothing can stop it, it ends with the process.
        """
        self._given_up = reason
        for call in list(self._open):
            self._answer(call, outcome.Error(DeviceFault(reason)))
        self._stopped.set()

    async def aclose(self) -> None:
        """Let the calls in progress end, and the thread. Closing twice is allowed."""
        self._calls.put(None)
        with trio.CancelScope(shield=True):
            await self._stopped.wait()
        if self._given_up is None:
            self._thread.join()
        sys.setswitchinterval(self._switch_interval_before_s)

    def _serve(self) -> None:
        """Run calls until told to stop. The thread's own code: nothing of Trio but the token."""
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # 0 is this thread, not the process
        _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
        with self._surroundings():
            while call := self._calls.get():
                result = outcome.capture(self._measure, call.work, call.window)
                if not self._tell(self._answer, call, result):
                    return
                # Or the last call's tensors would live until the next one.
                del call, result
        self._tell(self._stopped.set)

    def _answer(self, call: _Call, result: outcome.Outcome[Any]) -> None:
        """Let the caller go on; on the event loop's thread. A late answer is nobody's."""
        if call in self._open:
            self._open.remove(call)
            trio.lowlevel.reschedule(call.task, result)

    def _measure(self, work: Callable[[], T], window: Window | None) -> Measured[T]:
        if window is not None:
            self._await_window(window)
        begin_ns, running_begin_ns = time.perf_counter_ns(), time.thread_time_ns()
        value = work()
        running_end_ns, end_ns = time.thread_time_ns(), time.perf_counter_ns()
        device_ns = end_ns - begin_ns
        return Measured(
            value=value,
            report=DeviceReport(
                start_ns=begin_ns + self._clock_offset_ns,
                end_ns=end_ns + self._clock_offset_ns,
                device_ns=device_ns,
                running_ns=min(device_ns, running_end_ns - running_begin_ns),
            ),
        )

    def _await_window(self, window: Window) -> None:
        """Return at `earliest`, or at once when that has passed.

        Raises:
            StartMissed: `latest` has passed, too.
        """
        earliest_ns = window.earliest_ns - self._clock_offset_ns
        sleep_ns(earliest_ns - time.perf_counter_ns() - self._watch_ns)
        while (instant_ns := time.perf_counter_ns()) < earliest_ns:
            pass
        check_window(window, instant_ns + self._clock_offset_ns)

    def _tell(self, function: Callable[..., object], *arguments: object) -> bool:
        """Have the event loop call something; False when there is no loop any more."""
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            return False
        return True


def sleep_ns(duration_ns: int) -> None:
    """Let go of the interpreter's lock for so long; at once if it is not positive."""
    if duration_ns > 0:
        time.sleep(duration_ns / SECOND)


def check_window(window: Window, start_ns: int) -> None:
    """Compare the instant at which a call could start with its window.

    Raises:
        StartMissed: `latest` has passed.
    """
    late_ns = start_ns - window.latest_ns
    if late_ns > 0:
        width_ns = window.latest_ns - window.earliest_ns
        raise StartMissed(
            f"expected a start within a window of {format_ms(width_ns)}, the lane was free "
            f"{format_ms(late_ns)} after its end: the actions before it took too long"
        )


def _refuse_to_abort(_raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _clock_offset_ns() -> int:
    """Say what to add to `perf_counter_ns` for this run's clock, to about a microsecond."""
    before_ns = time.perf_counter_ns()
    instant_ns = now_ns()
    return instant_ns - (before_ns + time.perf_counter_ns()) // 2
