"""Histograms of durations: as many as there are, in a bounded space, to within 0.1 %.

A value falls into a bucket of its leading bits, so buckets grow with what is in them, and quantiles
are right to a part of themselves, small or large. The least and the greatest are kept exactly.

Source: the idea is HdrHistogram's (G. Tene).
"""

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
    count: int = 0
    least: int = 0
    greatest: int = 0
    _buckets: dict[int, int] = attrs.field(factory=dict)
    """By a bucket's middle; a negative value lies in the negative of its opposite's."""

    def add(self, value: int) -> None:
        """Count a value."""
        if not self.count:
            self.least = self.greatest = value
        elif value > self.greatest:
            self.greatest = value
        elif value < self.least:
            self.least = value
        self.count += 1
        shift = value.bit_length() - self.bits
        if shift > 0:
            size = value if value > 0 else -value
            middle = (size >> shift << shift) | (1 << (shift - 1))
            value = middle if value > 0 else -middle
        buckets = self._buckets
        buckets[value] = buckets.get(value, 0) + 1

    def quantiles(self, shares: Iterable[float]) -> list[int]:
        """Give the values below or at which these shares (ascending) lie: nearest rank.

        Args:
            shares: Of the values, 0 to 1; 1 gives the greatest. There must be a value.
        """
        assert self.count, "expected at least one value: of nothing there are no quantiles"
        found: list[int] = []
        passed, ordered = 0, iter(sorted(self._buckets.items()))
        middle = self.least
        for share in shares:
            rank = min(self.count - 1, int(share * self.count))
            while passed <= rank:
                middle, held = next(ordered)
                passed += held
            found.append(
                min(max(middle, self.least), self.greatest) if share < 1 else self.greatest
            )
        return found
