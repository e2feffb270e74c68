"""Runs a small graph whenever the card has idled for a while, so that its clocks stay up."""

from collections.abc import Callable
from typing import Final

import trio

from cw.actors.clock import now_ns
from cw.devices.lane_thread import LaneThread
from cw.errors import DeviceFault
from cw.units import SECOND

_LOOKS_PER_TIME: Final = 4


class KeepWarm:
    """A timer that INFERs wind up.

    Args:
        replay: Runs the small graph to its end; on the INFER lane's thread.
        after_ns: So long may the card idle.
    """

    def __init__(self, replay: Callable[[], object], after_ns: int) -> None:
        self._replay: Final = replay
        self._after_ns: Final = after_ns
        self.used_ns = now_ns()
        """When the card was used last."""

    async def run(self, lane: LaneThread) -> None:
        """Run it on the INFER lane, until cancelled or until the card breaks."""
        while True:
            if lane.is_idle and now_ns() - self.used_ns >= self._after_ns:
                try:
                    await lane.run(self._replay)
                except DeviceFault:  # the next action finds it, and tells
                    return
                self.used_ns = now_ns()
            await trio.sleep(self._after_ns / _LOOKS_PER_TIME / SECOND)
