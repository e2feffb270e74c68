"""How many calls a second one peer may begin: a bucket of them, filled as time passes."""

from collections.abc import Callable
from typing import Final

import trio

UNBOUNDED: Final = 1 << 62


class CallRate:
    """A second's worth of calls may come at once; then as many as the rate gives.

    The clock is read only when the bucket is empty, so a peer below its rate costs no look at it.
    """

    def __init__(self, per_s: int, clock: Callable[[], float] = trio.current_time) -> None:
        """Begin with a full bucket; a rate of 0 is none, and bounds nothing."""
        self._per_s = per_s
        self._clock = clock
        self._left: float = per_s
        self._filled_at_s = clock() if per_s else 0.0

    @property
    def left(self) -> int:
        """How many may begin now."""
        if not self._per_s:
            return UNBOUNDED
        if self._left < 1:
            now_s = self._clock()
            earned = (now_s - self._filled_at_s) * self._per_s
            self._left = min(self._left + earned, self._per_s)
            self._filled_at_s = now_s
        return max(int(self._left), 0)

    def take(self) -> None:
        """Note that one has begun."""
        self._left -= 1
