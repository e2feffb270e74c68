"""Histograms of durations: as many as there are, in a bounded space, to within 0.1 %.

A value falls into a bucket of its leading bits, so buckets grow with what is in them, and quantiles
are right to a part of themselves, small or large. The greatest is kept exactly.

Source: the idea is HdrHistogram's (G. Tene).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

import attrs

FINE_BITS: Final = 11
"""Quantiles to within 0.05 %: nothing that is printed shows the difference."""
COARSE_BITS: Final = 6
"""To within 1.6 %: enough for a point of a plot, and some dozens of buckets to a second."""


@attrs.define(eq=False)
class Histogram:
    """Counts of ints, by bucket."""

    bits: int = FINE_BITS
    """Leading bits that are told apart; values of fewer bits are exact."""
    greatest: int | None = None
    """None of nothing."""
    _buckets: defaultdict[int, int] = attrs.field(factory=lambda: defaultdict(int))
    """By a bucket's lower end."""

    def add(self, value: int) -> None:
        """Count a value."""
        if self.greatest is None or value > self.greatest:
            self.greatest = value
        shift = value.bit_length() - self.bits
        if shift > 0:
            value = value >> shift << shift
        self._buckets[value] += 1

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self._buckets.values())

    def quantiles(self, shares: Iterable[float]) -> list[int]:
        """Give the values below or at which these shares (ascending) lie: nearest rank.

        Args:
            shares: Of the values, 0 to 1; 1 gives the greatest. There must be a value.
        """
        greatest = self.greatest
        assert greatest is not None, "expected at least one value: of nothing are no quantiles"
        found: list[int] = []
        count, ordered = self.count, iter(sorted(self._buckets.items()))
        lower, passed = next(ordered)
        for share in shares:
            rank = min(count - 1, int(share * count))
            while passed <= rank:
                lower, held = next(ordered)
                passed += held
            half = (1 << max(0, lower.bit_length() - self.bits)) // 2
            found.append(min(lower + half, greatest) if share < 1 else greatest)
        return found
