"""The engine: virtual time, and a heap of what happens when.

Time jumps from one occurrence to the next. Occurrences at one instant happen in the order in which
they were scheduled, so that a run has exactly one course.
"""

import heapq
from collections.abc import Callable
from typing import Any, Final

import attrs

_SPIN_MAX: Final = 100_000
"""So many occurrences at one instant are a loop without end, not a busy moment."""


class SimulationStuck(AssertionError):
    """Virtual time stands still: something reacts to itself at once, for ever. A bug; mend it."""


@attrs.define(eq=False)
class Engine:
    """A clock that moves when nothing is left to do at its instant."""

    now_ns: int = 0
    _heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = attrs.field(factory=list)
    _scheduled: int = 0

    def at(self, instant_ns: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` at an instant, which is now or later."""
        assert instant_ns >= self.now_ns, f"{instant_ns} ns has passed: it is {self.now_ns} ns"
        self._scheduled += 1
        heapq.heappush(self._heap, (instant_ns, self._scheduled, what, arguments))

    def after(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` in `delay_ns`."""
        self.at(self.now_ns + delay_ns, what, *arguments)

    def run(self, *, until_ns: int, stop: Callable[[], bool] | None = None) -> None:
        """Let everything happen that is due by `until_ns`, or until `stop` says so.

        Args:
            until_ns: The last instant that is still looked at; time stands there afterwards,
                unless `stop` ended it earlier.
            stop: Asked after each occurrence.

        Raises:
            SimulationStuck: Time does not move on.
        """
        spins = 0
        while self._heap and self._heap[0][0] <= until_ns:
            instant_ns, _, what, arguments = heapq.heappop(self._heap)
            spins = spins + 1 if instant_ns == self.now_ns else 0
            if spins > _SPIN_MAX:
                raise SimulationStuck(f"{spins} occurrences at {instant_ns} ns; next: {what}")
            self.now_ns = instant_ns
            what(*arguments)
            if stop is not None and stop():
                return
        self.now_ns = max(self.now_ns, until_ns)
