"""The engine: virtual time, and a heap of what happens when.

Time jumps from one occurrence to the next. Occurrences at one instant happen in the order in which
they were scheduled, so that a run has exactly one course.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs

_SPIN_MAX: Final = 100_000
"""So many occurrences at one instant are a loop without end, not a busy moment."""

Occurrence = tuple[int, int, Callable[..., None], tuple[Any, ...]]
"""When, in which place among those of its instant, what, and with which arguments."""


class SimulationStuck(AssertionError):
    """Virtual time stands still: something reacts to itself at once, for ever. A bug; mend it."""


@attrs.define(eq=False)
class Engine:
    """A clock that moves when nothing is left to do at its instant."""

    now_ns: int = 0
    heap: list[Occurrence] = attrs.field(factory=list)
    """What is to come. Links push into it themselves: messages are most of what happens."""
    places: Iterator[int] = attrs.field(factory=itertools.count)
    """The next place among the occurrences of an instant."""

    def at(self, instant_ns: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` at an instant, which is now or later."""
        assert instant_ns >= self.now_ns, f"{instant_ns} ns has passed: it is {self.now_ns} ns"
        heapq.heappush(self.heap, (instant_ns, next(self.places), what, arguments))

    def after(self, delay_ns: int, what: Callable[..., None], *arguments: Any) -> None:
        """Have `what` called with `arguments` in `delay_ns`."""
        self.at(self.now_ns + delay_ns, what, *arguments)

    def run(self, *, until_ns: int) -> None:
        """Let everything happen that is due by `until_ns`.

        Args:
            until_ns: The last instant that is still looked at; time stands there afterwards.

        Raises:
            SimulationStuck: Time does not move on.
        """
        heap, pop, spins = self.heap, heapq.heappop, 0
        while heap:
            occurrence = pop(heap)
            instant_ns, _, what, arguments = occurrence
            if instant_ns > until_ns:
                heapq.heappush(heap, occurrence)
                break
            if instant_ns == self.now_ns:
                spins += 1
                if spins > _SPIN_MAX:
                    raise SimulationStuck(f"{spins} occurrences at {instant_ns} ns; next: {what}")
            else:
                spins, self.now_ns = 0, instant_ns
            what(*arguments)
        self.now_ns = max(self.now_ns, until_ns)
