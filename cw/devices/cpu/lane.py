"""The thread that does all of a CPU device's work, one call at a time, measured.

LOAD and INFER share it: on one core they would only slow each other down, in ways that no profile
could foresee. The event loop hands it a call and is told of the end; it never waits for a lock.
"""

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import attrs
import outcome
import torch
import trio

from cw.actors.clock import now_ns
from cw.devices.device import DeviceReport

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Measured(Generic[T]):
    """What a call gave, and how long it took."""

    value: T
    report: DeviceReport


@attrs.define(eq=False)
class _Call:
    work: Callable[[], Any]
    task: trio.lowlevel.Task


class CpuLane:
    """One thread with its own torch settings. Made and used inside one Trio run, on a real clock.

    Args:
        threads: Torch's threads for one operator.
        cores: Processors that the thread is kept on; empty means any.
        switch_interval_s: Python's thread switch interval while the lane lives: at the default
            5 ms the thread waits that long for the interpreter whenever the event loop is busy.
    """

    def __init__(
        self, *, threads: int = 1, cores: Sequence[int] = (), switch_interval_s: float = 5e-5
    ) -> None:
        self._token: Final = trio.lowlevel.current_trio_token()
        self._calls: Final[queue.SimpleQueue[_Call | None]] = queue.SimpleQueue()
        self._threads: Final = threads
        self._cores: Final = tuple(cores)
        self._stopped: Final = trio.Event()
        self._clock_offset_ns: Final = _clock_offset_ns()
        self._switch_interval_before_s: Final = sys.getswitchinterval()
        sys.setswitchinterval(switch_interval_s)
        # A daemon: when the event loop dies without closing the device, the process still ends.
        self._thread: Final = threading.Thread(target=self._serve, name="cpu-lane", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> Measured[T]:
        """Do `work` on the thread, after the calls before it.

        A call can't be stopped half-way: a cancel is seen at the caller's next checkpoint.

        Raises:
            Exception: What `work` raised.
        """
        assert self._thread.is_alive(), "a call to a device that was closed"
        self._calls.put(_Call(work, trio.lowlevel.current_task()))
        result: Measured[T] = await trio.lowlevel.wait_task_rescheduled(_refuse_to_abort)
        return result

    async def aclose(self) -> None:
        """Let the calls in progress end, and the thread. Closing twice is allowed."""
        self._calls.put(None)
        with trio.CancelScope(shield=True):
            await self._stopped.wait()
        self._thread.join()
        sys.setswitchinterval(self._switch_interval_before_s)

    def _serve(self) -> None:
        """Run calls until told to stop. The thread's own code: nothing of Trio but the token."""
        if self._cores:
            os.sched_setaffinity(0, self._cores)  # 0 is this thread, not the process
        # These hold for the calling thread only.
        torch.set_num_threads(self._threads)
        # Numbers near zero would take a hundred times longer than others, in some inputs.
        torch.set_flush_denormal(True)
        with torch.inference_mode():
            while call := self._calls.get():
                result = outcome.capture(self._measure, call.work)
                if not self._tell(trio.lowlevel.reschedule, call.task, result):
                    return
                # Or the last call's tensors would live until the next one.
                del call, result
        self._tell(self._stopped.set)

    def _measure(self, work: Callable[[], T]) -> Measured[T]:
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

    def _tell(self, function: Callable[..., object], *arguments: object) -> bool:
        """Have the event loop call something; False when there is no loop any more."""
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            return False
        return True


def _refuse_to_abort(_raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def _clock_offset_ns() -> int:
    """Say what to add to `perf_counter_ns` for this run's clock, to about a microsecond."""
    before_ns = time.perf_counter_ns()
    instant_ns = now_ns()
    return instant_ns - (before_ns + time.perf_counter_ns()) // 2
