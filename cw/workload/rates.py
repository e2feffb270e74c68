"""Streams whose rates change from minute to minute: recorded counts, and a synthetic cluster's day.

What a source gives is the number of requests that each model is to expect in each period; within
a period requests come as a Poisson process. That is how Clockwork replays the Azure Functions trace
of 2019, which has nothing finer than counts by the minute.

Neighbours: `trace_files.py` reads the counts.
"""

import bisect
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import Final, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.workload import Call

MINUTE: Final = 60 * SECOND
_DAY_MINUTES: Final = 24 * 60


class Expectations(Protocol):
    """Says how many requests each model has to expect, period by period."""

    @property
    def period_ns(self) -> int:
        """Say how long a period is."""
        ...

    def periods(self, seed: int) -> Iterator[Sequence[float]]:
        """Yield for each period the numbers for each model, until the source ends, if it does."""
        ...


@attrs.frozen(kw_only=True)
class Piecewise:
    """A Poisson process whose rate, and whose shares of models, change with each period."""

    source: Expectations
    models: tuple[int, ...]
    slo_ns: int

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        gaps, choices = random.Random(f"times {seed}"), random.Random(f"models {seed}")
        gap, choice, find = gaps.expovariate, choices.random, bisect.bisect
        period_ns, models, slo_ns = self.source.period_ns, self.models, self.slo_ns
        for number, expected in enumerate(self.source.periods(seed)):
            begin_ns = number * period_ns
            if begin_ns >= duration_ns:
                return
            bounds = list(itertools.accumulate(expected))
            total = bounds[-1]
            if total <= 0:
                continue
            last = len(bounds) - 1
            end_ns = min(begin_ns + period_ns, duration_ns)
            per_ns = total / period_ns
            at_ns = begin_ns + int(gap(per_ns))
            while at_ns < end_ns:
                place = find(bounds, choice() * total, hi=last)
                yield Call(at_ns, models[place], slo_ns)
                at_ns += int(gap(per_ns))


@attrs.frozen(kw_only=True, eq=False)
class RecordedCounts:
    """Counts by the minute, as read from a file. Ends with the file."""

    counts: NDArray[np.int64]
    """[model, minute], in the order of the models' volumes."""
    scale: float = 1.0
    """What is expected of each request that was counted."""
    from_minute: int = 0
    period_ns: int = MINUTE

    @classmethod
    def at_rate(
        cls, counts: NDArray[np.int64], *, rate_rps: float, from_minute: int = 0
    ) -> "RecordedCounts":
        """Scale counts so that they are `rate_rps` on average over the whole file."""
        seconds = counts.shape[1] * MINUTE / SECOND
        recorded = counts.sum() / seconds
        if not recorded:
            raise ConfigError("expected counts above 0 to scale to a rate, found only zeros")
        return cls(counts=counts, scale=rate_rps / recorded, from_minute=from_minute)

    def periods(self, seed: int) -> Iterator[Sequence[float]]:
        """See `Expectations`. Draws nothing."""
        del seed
        for minute in range(self.from_minute, self.counts.shape[1]):
            yield (self.counts[:, minute] * self.scale).tolist()


@attrs.frozen(kw_only=True)
class AzureLike:
    """A day of a serverless platform, drawn from what was published about one.

    What is fitted, of Azure Functions in July 2019 (Shahrad et al., "Serverless in the Wild", ATC
    2020, section 3), whose figures for applications are taken for functions:

    - 45 % are invoked once an hour or less on average, 81 % once a minute or less. A lognormal
      distribution of rates through both points has a mean of its logarithm (per day) of 3.69 and
      a deviation of 4.08.
    - Rates span eight orders of magnitude. Cut off at 10^7 a day, the distribution predicts that
      those above once a minute carry 99.7 % of all invocations (published: 99.6 %), and for as
      many functions as there were twice the recorded total: hence rates are scaled.
    - The load has a baseline of half its peak and a daily rhythm.

    What is chosen: of the functions below `steady_rps`, a fifth fire all that they have at fixed
    times (16 % have timers for triggers, and few invocations), and three in ten are switched on and
    off. What is above is steady but for noise from minute to minute: a few of them carry the load,
    and if those could be switched off, the load would be theirs alone. The recorded trace's own
    bursts are not public beyond counts by the minute, so results on this are no results on the
    trace.

    As with the recorded trace, function i of T by volume belongs to model floor(M * i / T).
    """

    models: int
    rate_rps: float
    """Of all models together, averaged over a day."""
    functions: int = 46_413
    """As many as are in the recorded first day."""
    log_mean: float = 3.69
    log_deviation: float = 4.08
    invocations_per_day_max: float = 1e7
    timer_ratio: float = 0.2
    switched_ratio: float = 0.3
    steady_rps: float = 1.0
    noise_ratio: float = attrs.field(default=0.1, validator=attrs.validators.le(0.5))
    """Relative deviation of a function's rate from minute to minute, uniformly distributed."""
    peak_hour: float = 14.0
    start_hour: float = 19.5
    """Of the day; from here on the first hour's mean is the day's."""
    period_ns: int = MINUTE

    def function_rates(self) -> NDArray[np.float64]:
        """Give the mean rates (requests/s) of the functions, the greatest first."""
        quantile = NormalDist(self.log_mean, self.log_deviation).inv_cdf
        middle = (self.functions - index - 0.5 for index in range(self.functions))
        # Not numpy's exp and sum: their last digits differ from one processor to another.
        per_day = [math.exp(quantile(rank / self.functions)) for rank in middle]
        per_day = [min(rate, self.invocations_per_day_max) for rate in per_day]
        return np.array(per_day, dtype=np.float64) * (self.rate_rps / math.fsum(per_day))

    def periods(self, seed: int) -> Iterator[Sequence[float]]:
        """See `Expectations`. Endless."""
        rng = np.random.Generator(np.random.PCG64(seed))
        functions = _Functions(self, rng)
        places = np.arange(self.functions) * self.models // self.functions
        for minute in itertools.count():
            hour = self.start_hour + minute / 60
            # From the quietest hour to the busiest as 1 to 2, around a mean of 1.
            rhythm = 1 + math.cos((hour - self.peak_hour) * math.tau / 24) / 3
            expected = functions.expected(minute) * rhythm
            yield np.bincount(places, weights=expected, minlength=self.models).tolist()


class _Functions:
    """The functions of a synthetic platform, and what each is doing."""

    _PERIODS: Final = (1, 5, 10, 15, 30, 60)
    """Minutes between the firings of timers."""
    _STAY: Final = 0.9
    """Chance that a function that is switched stays as it is for another minute."""

    def __init__(self, shape: AzureLike, rng: np.random.Generator) -> None:
        self._rng, self._noise = rng, shape.noise_ratio
        self._rates = shape.function_rates()
        count = shape.functions
        kind, small = rng.random(count), self._rates < shape.steady_rps
        self._timers = np.flatnonzero(small & (kind < shape.timer_ratio))
        switched = small & (kind >= shape.timer_ratio)
        switched &= kind < shape.timer_ratio + shape.switched_ratio
        self._switched = np.flatnonzero(switched)
        self._on = rng.random(len(self._switched)) < 0.5
        self._every = rng.choice(self._PERIODS, len(self._timers))
        self._phase = rng.integers(0, self._every)

    def expected(self, minute: int) -> NDArray[np.float64]:
        """Say how many requests each function has to expect in a minute of the run."""
        rng = self._rng
        noise = (rng.random(len(self._rates)) - 0.5) * (math.sqrt(12) * self._noise)
        expected: NDArray[np.float64] = self._rates * (MINUTE / SECOND) * (1.0 + noise)
        fires = (minute + self._phase) % self._every == 0
        expected[self._timers] *= fires * self._every
        turns = rng.random(len(self._on)) >= self._STAY
        self._on = self._on != turns
        expected[self._switched] *= self._on * 2.0
        return expected
