"""The offset between two monotonic clocks, and how wrong it can be.

Rules
-----
1. A ping is sent (our clock), received and replied to (theirs) and returned (ours). No message
   arrives before it was sent, so ``offset = theirs - ours`` lies in the interval from
   ``replied - returned`` to ``received - sent``, however unlike the two ways are. The interval is
   as wide as the round trip without the time spent at the peer.
2. Clocks drift apart by at most ``drift_ppm``. An interval measured ``age`` ago therefore still
   holds when both of its ends are moved outwards by ``age * drift_ppm / 1e6``.
3. The offset lies in the intersection of all intervals of the window. So the quickest way there
   and the quickest way back count, even when they belong to different pings, and the bound is never
   worse than that of the quickest round trip.
4. An empty intersection means that a clock was stepped, or drifted faster than rule 2 allows. Then
   the newest interval is right and all older ones are forgotten.
5. Conversions use the middle of the intersection as it was at the last ping; the bound is half of
   its width, and grows with the age of that ping.

Source: the intersection of intervals is K. Marzullo's (1984), as in NTP; that minimum delays over a
sliding window suffice on a data-centre network is Clockwork's experience (OSDI 2020, its
implementation keeps 32 messages).
"""

from collections import deque
from typing import Final

import attrs

from cw.units import div_ceil

_MILLION: Final = 1_000_000


@attrs.frozen(kw_only=True)
class Exchange:
    """One ping, answered: four readings of two clocks."""

    sent_ns: int
    """Ours, before the ping left."""
    received_ns: int
    """Theirs, when it had come."""
    replied_ns: int
    """Theirs, before the answer left."""
    returned_ns: int
    """Ours, when the answer had come."""

    @property
    def is_possible(self) -> bool:
        """Whether each clock ran forwards, and the peer did not keep the ping longer than we."""
        theirs_ns = self.replied_ns - self.received_ns
        return 0 <= theirs_ns <= self.returned_ns - self.sent_ns


@attrs.define
class _Interval:
    """Bounds of the offset, each moved to our clock's zero as by rule 2, so that ages compare."""

    least_ppm_ns: int
    most_ppm_ns: int


class ClockSync:
    """Maps instants between this process's clock and the cluster's (the controller's).

    Args:
        window: Exchanges remembered. At four a second, 64 are 16 s: long enough to hold a quiet
            moment of the network, short enough that the drift over it stays small.
        drift_ppm: How fast the clocks may drift apart. Crystals stay under 100 and NTP slews
            gently as a rule; what goes beyond is caught by rule 4.
    """

    def __init__(self, *, window: int = 64, drift_ppm: int = 200) -> None:
        assert window > 0, "a window of no exchanges can't hold an offset"
        assert drift_ppm >= 0, "clocks can't drift by less than nothing"
        self._drift_ppm = drift_ppm
        self._window: deque[_Interval] = deque(maxlen=window)
        self._updated_ns = 0
        self._offset_ns = 0
        # The intersection's ends in ns * 1e6, moved to our clock's zero: exact ints.
        self._least_ppm_ns = 0
        self._most_ppm_ns = 0

    @property
    def is_synced(self) -> bool:
        """Whether any exchange was seen: before that nothing can be converted."""
        return bool(self._window)

    def observe(self, exchange: Exchange) -> None:
        """Learn from one ping.

        An impossible exchange (a clock that ran backwards) is left out: it would only widen what is
        known.
        """
        if not exchange.is_possible:
            return
        now_ns = exchange.returned_ns
        drift_ppm_ns = now_ns * self._drift_ppm
        newest = _Interval(
            # The lower end was true at `returned`, the upper at `sent`: both are widened to now.
            (exchange.replied_ns - now_ns) * _MILLION + drift_ppm_ns,
            (exchange.received_ns - exchange.sent_ns) * _MILLION
            - exchange.sent_ns * self._drift_ppm,
        )
        self._window.append(newest)
        self._intersect()
        if self._most_at(now_ns) < self._least_at(now_ns):
            self._window.clear()
            self._window.append(newest)
            self._intersect()
        self._updated_ns = now_ns
        self._offset_ns = (self._least_at(now_ns) + self._most_at(now_ns)) // 2

    def to_cluster_ns(self, local_ns: int) -> int:
        """Say what the cluster's clock shows when ours shows `local_ns`."""
        assert self._window, "no exchange was seen yet: the clocks can't be compared"
        return local_ns + self._offset_ns

    def to_local_ns(self, cluster_ns: int) -> int:
        """Say what our clock shows when the cluster's shows `cluster_ns`."""
        assert self._window, "no exchange was seen yet: the clocks can't be compared"
        return cluster_ns - self._offset_ns

    def error_bound_ns(self, now_ns: int) -> int:
        """Say by how much a conversion of an instant near `now_ns` can be wrong.

        Args:
            now_ns: Our clock; not before the last exchange.
        """
        assert self._window, "no exchange was seen yet: the clocks can't be compared"
        now_ns = max(now_ns, self._updated_ns)
        least_ns, most_ns = self._least_at(now_ns), self._most_at(now_ns)
        return max(most_ns - self._offset_ns, self._offset_ns - least_ns, 0)

    def _intersect(self) -> None:
        self._least_ppm_ns = max(interval.least_ppm_ns for interval in self._window)
        self._most_ppm_ns = min(interval.most_ppm_ns for interval in self._window)

    def _least_at(self, now_ns: int) -> int:
        """Return the offset's lower end at an instant, rounded down."""
        return (self._least_ppm_ns - now_ns * self._drift_ppm) // _MILLION

    def _most_at(self, now_ns: int) -> int:
        """Return the offset's upper end at an instant, rounded up."""
        return div_ceil(self._most_ppm_ns + now_ns * self._drift_ppm, _MILLION)
