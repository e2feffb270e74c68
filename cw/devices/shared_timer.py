"""One timer for all lanes of many emulated devices: no thread and no descriptor for each.

A lane thread starts within 60 us, and a thousand executors would have two thousand of them. Here
the lanes' ends wait in a heap, and one timerfd is set to the first. What it costs is precision:
whatever else the event loop does delays a wake-up. The lanes' own times do not suffer, since an
emulated lane reckons them and does not read them off the clock.

Neighbours: `emulated.py` uses it, `lane_thread.py` is what the few have instead.
"""

import heapq
import itertools
from collections.abc import Iterator
from typing import Final

import trio

from cw.actors.alarm import Alarm
from cw.actors.clock import now_ns


class SharedTimer:
    """Wakes any number of tasks, each at its instant. Used inside one Trio run.

    It holds one entry for each task that sleeps, so lanes bound it: one call each is under way.
    """

    def __init__(self) -> None:
        self._heap: Final[list[tuple[int, int, trio.Event]]] = []
        self._order: Final[Iterator[int]] = itertools.count()
        self._alarm: Final = Alarm()
        self._bell = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wake sleepers until cancelled; all of those that are due at one turn of the loop."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._alarm.run)
            task_status.started()
            while True:
                self._bell = trio.Event()
                now = now_ns()
                while self._heap and self._heap[0][0] <= now:
                    heapq.heappop(self._heap)[2].set()
                self._alarm.set(self._heap[0][0] if self._heap else None, self._bell)
                await self._bell.wait()

    async def sleep_until_ns(self, instant_ns: int) -> None:
        """Sleep until `instant_ns` on this run's clock; at once (a checkpoint) if it has passed."""
        if instant_ns <= now_ns():
            await trio.lowlevel.checkpoint()
            return
        event = trio.Event()
        heapq.heappush(self._heap, (instant_ns, next(self._order), event))
        if self._heap[0][2] is event:
            self._alarm.set(instant_ns, self._bell)
        await event.wait()
