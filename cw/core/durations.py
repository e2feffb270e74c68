"""Durations: the last measurements of one thing, and the bound to plan with.

The concept: planning needs a bound that holds nearly always, since every estimate below what comes
true endangers the promises queued behind: a high quantile of a sliding window. It also needs
robustness: one outlier (a page fault, an interrupt) must not double a bound for hours, so the
single largest measurement of a window counts only when a second one confirms it. And it needs to
notice change: when the device became slower or faster, old measurements are dropped at once.

Knows nothing of what is measured. Neighbours: `profile.py` has one per batch size, `timeline.py`
three per executor, `books.py` one of deliveries.

Source: Clockwork (OSDI 2020) section 5.3 plans with the 99th percentile of the last 10.
"""

from bisect import bisect_left, insort
from collections import deque
from typing import Final

import attrs

OUTLIER_RATIO: Final = 1.1
"""A lone largest measurement this far above the next one is set aside until confirmed."""
SLOWER_RUN: Final = 4
"""So many measurements above the estimate in a row are a slower device, not bad luck: at a 99 %
quantile the odds are 1 in 10^8."""
FASTER_RUN: Final = 64
"""So many in a row far below the estimate: what made it so high is over. Longer than `SLOWER_RUN`,
since a bound too high costs a little throughput and one too low breaks promises; and long enough
that the largest of what is kept is again a high quantile."""
FASTER_RATIO: Final = 0.7
"""Far below: on a CPU the median is commonly three quarters of the 99 % quantile."""
TYPICAL_QUANTILE: Final = 0.75
"""Above the middle, since slow runs come in rows."""
TYPICAL_PLAY: Final = 50
"""The typical duration moves when it is off by more than one part in so many."""


@attrs.define(eq=False)
class DurationWindow:
    """The last durations of one thing, and the bound to plan with. Durations in ns."""

    size: int
    quantile: float
    estimate_ns: int = 0
    typical_ns: int = 0
    """What most runs stay under: what many of them in a row take each. Follows with a little play,
    so that it does not move at every measurement."""
    _recent: deque[int] = attrs.field(factory=deque)
    _ordered: list[int] = attrs.field(factory=list)
    _above: int = 0
    _below: int = 0
    _ranked: int = 0
    """For how many measurements the two ranks below hold."""
    _bound_rank: int = 0
    _typical_rank: int = 0

    def __len__(self) -> int:
        """Count the measurements remembered."""
        return len(self._recent)

    @property
    def recent(self) -> tuple[int, ...]:
        """The measurements remembered, oldest first."""
        return tuple(self._recent)

    def add(self, duration_ns: int) -> bool:
        """Learn one measurement; say whether the estimate moved, or is the first."""
        # Several of these are asked per batch and one per request: written for speed.
        recent, ordered, estimate_ns = self._recent, self._ordered, self.estimate_ns
        recent.append(duration_ns)
        insort(ordered, duration_ns)
        if len(recent) > self.size:
            del ordered[bisect_left(ordered, recent.popleft())]
        if duration_ns > estimate_ns > 0 or duration_ns < FASTER_RATIO * estimate_ns:
            self._watch_for_change(duration_ns, estimate_ns)
            ordered = self._ordered
        else:
            self._above = self._below = 0
        if len(ordered) != self._ranked:
            self._rank(len(ordered))
        bound_ns, typical_ns = ordered[self._bound_rank], ordered[self._typical_rank]
        if self._bound_rank == self._ranked - 1:
            bound_ns = self._confirmed_ns()
        self.estimate_ns = bound_ns
        if typical_ns > bound_ns:
            typical_ns = bound_ns
        if abs(typical_ns - self.typical_ns) * TYPICAL_PLAY > typical_ns:
            self.typical_ns = typical_ns
            return True
        return bound_ns != estimate_ns or self._ranked == 1

    def correct(self, durations_ns: list[int]) -> bool:
        """Learn measurements made in doubt: if all are far below the estimate, it was stale.

        Returns:
            Whether the estimate moved.
        """
        before_ns = self.estimate_ns
        if max(durations_ns) < FASTER_RATIO * before_ns:
            self._recent.clear()
            self._ordered.clear()
            self._above = self._below = 0
            self.estimate_ns = self.typical_ns = 0
        for duration_ns in durations_ns:
            self.add(duration_ns)
        return self.estimate_ns != before_ns

    def at(self, quantile: float) -> int:
        """Read a quantile (nearest rank, rounded up); 0 when nothing was measured."""
        ordered = self._ordered
        return ordered[_rank(quantile, len(ordered))] if ordered else 0

    def _rank(self, count: int) -> None:
        self._ranked = count
        self._bound_rank = _rank(self.quantile, count)
        self._typical_rank = _rank(TYPICAL_QUANTILE, count)

    def _confirmed_ns(self) -> int:
        """Read the bound where it is the largest: that counts only when the next confirms it."""
        ordered = self._ordered
        if len(ordered) > 2 and ordered[-1] > OUTLIER_RATIO * ordered[-2]:
            return ordered[-2]
        return ordered[-1]

    def _watch_for_change(self, duration_ns: int, estimate_ns: int) -> None:
        """Count a measurement above the estimate, or far below it."""
        if duration_ns > estimate_ns:
            self._below = 0
            self._above += 1
            if self._above >= SLOWER_RUN:
                self._forget_all_but(SLOWER_RUN)
        else:
            self._above = 0
            self._below += 1
            if self._below >= FASTER_RUN:
                self._forget_all_but(FASTER_RUN)

    def _forget_all_but(self, count: int) -> None:
        while len(self._recent) > count:
            self._recent.popleft()
        self._ordered = sorted(self._recent)
        self._above = self._below = 0


def _rank(quantile: float, count: int) -> int:
    return min(count - 1, int(quantile * count))
