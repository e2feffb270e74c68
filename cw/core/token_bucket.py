"""A token bucket: a rate with a bound on bursts, as two ints and no timer.

Kept as the instant at which the bucket would be full again (the generic cell rate algorithm), so
that taking a token is one comparison and one addition, and idle buckets cost nothing.
"""

import attrs

from cw.units import SECOND


@attrs.define(eq=False)
class TokenBucket:
    """Lets `rate_per_s` through, and up to `burst_s` of that at once (one at least).

    Args:
        rate_per_s: Above 0.
        burst_s: How long a silent tenant saves up.
    """

    rate_per_s: float
    burst_s: float = 1.0
    _interval_ns: int = attrs.field(init=False)
    _depth_ns: int = attrs.field(init=False)
    _full_ns: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        assert self.rate_per_s > 0, "no bound is no bucket"
        self._interval_ns = max(1, int(SECOND / self.rate_per_s))
        self._depth_ns = max(self._interval_ns, int(self.burst_s * SECOND))

    def take(self, now_ns: int) -> int:
        """Take a token.

        Returns:
            0 if there was one; otherwise nothing is taken, and in so many ns there will be.
        """
        full_ns = max(self._full_ns, now_ns) + self._interval_ns
        wait_ns = full_ns - self._depth_ns - now_ns
        if wait_ns > 0:
            return wait_ns
        self._full_ns = full_ns
        return 0
