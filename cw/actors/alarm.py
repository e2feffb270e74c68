"""Alarm: one instant at which an actor wants to be woken, precisely, and may change its mind.

The controller's task waits for events; the scheduler's next instant is one of them, and another one
after nearly every event. So changing it wakes no task, and putting it off costs nothing at all: the
timer rings in vain then, and is armed for the later instant.
"""

import trio

from cw.actors.clock import PreciseTimer, now_ns


class Alarm:
    """Rings at one instant, precisely; what is set later replaces what was set before."""

    def __init__(self) -> None:
        self._at_ns: int | None = None
        self._armed_ns: int | None = None
        self._bell = trio.Event()
        self._timer = PreciseTimer()

    def set(self, at_ns: int | None, bell: trio.Event) -> None:
        """Ring `bell` at `at_ns`, or never."""
        self._bell = bell
        self._at_ns = at_ns
        if at_ns is not None and (self._armed_ns is None or at_ns < self._armed_ns):
            self._arm(at_ns)

    def _arm(self, at_ns: int) -> None:
        self._armed_ns = at_ns
        self._timer.arm(at_ns)

    async def run(self, task_status: "trio.TaskStatus[Alarm]") -> None:
        """Ring when it is time, until cancelled; it may be set from `started` on."""
        with self._timer:
            task_status.started(self)
            while True:
                await self._timer.wait()
                self._armed_ns = None
                if self._at_ns is None:
                    continue
                if self._at_ns > now_ns():
                    self._arm(self._at_ns)
                else:
                    self._at_ns = None
                    self._bell.set()
