"""Alarm: one instant at which an actor wants to be woken, precisely, and may change its mind.

The controller's task waits for events; the scheduler's next instant is one of them.
"""

import trio

from cw.actors.clock import PreciseTimer


class Alarm:
    """Rings at one instant, precisely; what is set later replaces what was set before."""

    def __init__(self) -> None:
        self._at_ns: int | None = None
        self._bell = trio.Event()
        self._changed = trio.Event()
        self._scope: trio.CancelScope | None = None

    def set(self, at_ns: int | None, bell: trio.Event) -> None:
        """Ring `bell` at `at_ns`, or never."""
        self._bell = bell
        if at_ns == self._at_ns:
            return
        self._at_ns = at_ns
        self._changed.set()
        if self._scope is not None:
            self._scope.cancel()

    async def run(self, task_status: "trio.TaskStatus[Alarm]") -> None:
        """Ring when it is time, until cancelled."""
        with PreciseTimer() as timer:
            task_status.started(self)
            while True:
                self._changed = trio.Event()
                if self._at_ns is None:
                    await self._changed.wait()
                    continue
                with trio.CancelScope() as self._scope:
                    await timer.sleep_until_ns(self._at_ns)
                    self._at_ns = None
                    self._bell.set()
