"""Arrivals: when requests come, and which model each is for.

Pure and seeded: the same process, popularity and seed give the same requests, in the simulator and
in `cw bench` alike. Times and models are drawn from two streams, so that changing the number of
models leaves the instants as they were. Instants are nanoseconds from the start of the run.

It must not know: what is sent, to whom, or on which clock. Neighbours: `trace_files.py` (recorded
instants), `cw/sim/world.py` and the load generator (who replay what is drawn here).
"""

import itertools
import random
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

import attrs

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.trace_files import read_counts, read_instants_ns


class Arrival(NamedTuple):
    """One request: when it comes, and the index of its model (0 is the most popular)."""

    instant_ns: int
    model: int


class ArrivalProcess(Protocol):
    """Draws the instants at which requests come."""

    def instants_ns(self, rng: random.Random) -> Iterator[int]:
        """Yield instants from 0 on, in order; endless unless the source is a recording."""
        ...


class Popularity(Protocol):
    """Says how much of the traffic each model gets."""

    def weights(self, models: int) -> list[float]:
        """Give each of `models` models its share, the most popular first; the sum is free."""
        ...


# --- processes ------------------------------------------------------------------------------------


def _check_rate(_: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    if not 0 < value <= SECOND:
        raise ConfigError(
            f"expected {attribute.name} of more than 0 and at most 10^9 requests/s, got {value}"
        )


@attrs.frozen(kw_only=True)
class Poisson:
    """Independent requests at a steady mean rate: many callers who know nothing of each other."""

    rate_rps: float = attrs.field(validator=_check_rate)

    def instants_ns(self, rng: random.Random) -> Iterator[int]:
        """See `ArrivalProcess`."""
        now_s = 0.0
        while True:
            now_s += rng.expovariate(self.rate_rps)
            yield round(now_s * SECOND)


@attrs.frozen(kw_only=True)
class Constant:
    """Requests at equal distances: a camera, or a paced batch job."""

    rate_rps: float = attrs.field(validator=_check_rate)

    def instants_ns(self, rng: random.Random) -> Iterator[int]:
        """See `ArrivalProcess`. Draws nothing: only the models are random."""
        del rng
        return (round(count * SECOND / self.rate_rps) for count in itertools.count())


@attrs.frozen(kw_only=True)
class Bursts:
    """Poisson with two rates that take turns (a Markov-modulated Poisson process).

    Dwell times are exponential; `rate_rps` is the mean over both states.
    """

    rate_rps: float = attrs.field(validator=_check_rate)
    factor: float = attrs.field(default=4.0, validator=attrs.validators.gt(1.0))
    """The rate inside a burst, in multiples of the rate outside."""
    share: float = attrs.field(
        default=0.2, validator=[attrs.validators.gt(0.0), attrs.validators.lt(1.0)]
    )
    """The part of the time that lies in bursts."""
    burst_s: float = attrs.field(default=0.5, validator=attrs.validators.gt(0.0))
    """Mean length of a burst."""

    def instants_ns(self, rng: random.Random) -> Iterator[int]:
        """See `ArrivalProcess`."""
        quiet_rps = self.rate_rps / (1 - self.share + self.share * self.factor)
        quiet_s = self.burst_s * (1 - self.share) / self.share
        states = ((quiet_rps, quiet_s), (quiet_rps * self.factor, self.burst_s))
        bursting = rng.random() < self.share
        turn_s = 0.0
        while True:
            rate_rps, dwell_s = states[bursting]
            now_s = turn_s
            turn_s += rng.expovariate(1 / dwell_s)
            # Without memory, a gap cut off at the turn may be drawn anew at the other rate.
            while (now_s := now_s + rng.expovariate(rate_rps)) < turn_s:
                yield round(now_s * SECOND)
            bursting = not bursting


@attrs.frozen(kw_only=True)
class Replay:
    """Recorded instants, as they were or brought to another mean rate. Ends with the recording."""

    recorded_ns: tuple[int, ...]
    rate_rps: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_check_rate)
    )
    """Stretch or squeeze time so that this becomes the mean; None leaves it alone."""

    def instants_ns(self, rng: random.Random) -> Iterator[int]:
        """See `ArrivalProcess`. Draws nothing: only the models are random."""
        del rng
        span_ns = self.recorded_ns[-1] if self.recorded_ns else 0
        if self.rate_rps is None or not span_ns:
            return iter(self.recorded_ns)
        stretch = len(self.recorded_ns) * SECOND / self.rate_rps / span_ns
        return (round(instant_ns * stretch) for instant_ns in self.recorded_ns)


@attrs.frozen(kw_only=True)
class Counts:
    """Recorded numbers of requests per second, each second a Poisson process of that rate.

    Ends with the recording. Counts keep their shape in time and are scaled to another mean rate.
    """

    per_second: tuple[int, ...]
    rate_rps: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_check_rate)
    )
    """The mean over the whole recording; None leaves it alone."""

    def instants_ns(self, rng: random.Random) -> Iterator[int]:
        """See `ArrivalProcess`."""
        scale = 1.0
        if self.rate_rps is not None:
            scale = self.rate_rps * len(self.per_second) / sum(self.per_second)
        for second, count in enumerate(self.per_second):
            if not count:
                continue
            now_s = rng.expovariate(count * scale)
            while now_s < 1.0:
                yield round((second + now_s) * SECOND)
                now_s += rng.expovariate(count * scale)


# --- popularity -----------------------------------------------------------------------------------


@attrs.frozen
class Uniform:
    """Every model gets the same traffic."""

    def weights(self, models: int) -> list[float]:
        """See `Popularity`."""
        return [1.0] * models


@attrs.frozen
class Zipf:
    """The i-th most popular model gets traffic in proportion to i^-exponent.

    Source: web and inference traces are commonly fitted with exponents of 0.6 to 1.1.
    """

    exponent: float = attrs.field(validator=attrs.validators.ge(0.0))

    def weights(self, models: int) -> list[float]:
        """See `Popularity`."""
        return [rank**-self.exponent for rank in range(1, models + 1)]


# --- drawing --------------------------------------------------------------------------------------


def draw(
    process: ArrivalProcess,
    popularity: Popularity,
    *,
    models: int,
    duration_ns: int,
    seed: int,
) -> Iterator[Arrival]:
    """Draw a run's requests.

    Args:
        process: When they come.
        popularity: Whom they are for.
        models: How many models there are; indexes are below it.
        duration_ns: Requests at or after this instant are not drawn.
        seed: Same seed, same requests.

    Yields:
        Requests in the order of their instants.
    """
    bounds = list(itertools.accumulate(popularity.weights(models)))
    # Strings are hashed to seeds by their contents, alike in every process.
    times, choices = random.Random(f"times {seed}"), random.Random(f"models {seed}")
    for instant_ns in process.instants_ns(times):
        if instant_ns >= duration_ns:
            return
        index = bisect(bounds, choices.random() * bounds[-1], hi=models - 1)
        yield Arrival(instant_ns, index)


def parse_arrivals(text: str, *, rate_rps: float | None) -> ArrivalProcess:
    """Read ``poisson``, ``constant``, ``bursts``, ``trace:FILE`` or ``counts:FILE``.

    Args:
        text: As typed.
        rate_rps: The mean rate. A trace is stretched to it, or left as recorded when None.

    Raises:
        ConfigError: No such process, no rate where one is needed, or an unreadable trace.
    """
    if text.startswith("trace:"):
        recorded_ns = read_instants_ns(Path(text.removeprefix("trace:")))
        return Replay(recorded_ns=tuple(recorded_ns), rate_rps=rate_rps)
    if text.startswith("counts:"):
        counts = read_counts(Path(text.removeprefix("counts:")))
        return Counts(per_second=tuple(counts), rate_rps=rate_rps)
    kinds: dict[str, type[Poisson | Constant | Bursts]] = {
        "poisson": Poisson,
        "constant": Constant,
        "bursts": Bursts,
    }
    if text not in kinds:
        raise ConfigError(
            f"expected arrivals {', '.join(kinds)}, trace:FILE or counts:FILE, got {text!r}"
        )
    if rate_rps is None:
        raise ConfigError(
            f"arrivals {text!r} need a rate (requests/s); only recordings have their own"
        )
    return kinds[text](rate_rps=rate_rps)


def parse_popularity(text: str) -> Popularity:
    """Read ``uniform`` or ``zipf:EXPONENT``.

    Raises:
        ConfigError: Neither of them, or the exponent is not a number of at least 0.
    """
    if text == "uniform":
        return Uniform()
    kind, _, exponent = text.partition(":")
    if kind == "zipf":
        try:
            return Zipf(float(exponent))
        except ValueError:
            pass  # said below
    raise ConfigError(f"expected popularity 'uniform' or 'zipf:0.9', got {text!r}")
