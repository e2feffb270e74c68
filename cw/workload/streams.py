"""Streams: kinds of open-loop traffic, composed of arrivals, popularity and SLOs.

Each is lazy and seeded, and draws from generators of its own: instants from one, models from
another. Neighbours: `rates.py` has the streams whose rates change from minute to minute.
"""

import heapq
import itertools
import random
from array import array
from collections.abc import Iterator

import attrs

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.arrivals import ArrivalProcess, Bursts, Poisson, Popularity, Uniform, draw
from cw.workload.workload import Call


@attrs.frozen(kw_only=True)
class OpenLoop:
    """One process of arrivals, shared out among models by their popularity."""

    arrivals: ArrivalProcess
    popularity: Popularity = attrs.field(factory=Uniform)
    models: tuple[int, ...]
    """The most popular first."""
    slo_ns: int | None
    """None: best effort."""

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        drawn = draw(
            self.arrivals,
            self.popularity,
            models=len(self.models),
            duration_ns=duration_ns,
            seed=seed,
        )
        models, slo_ns = self.models, self.slo_ns
        return (Call(instant_ns, models[place], slo_ns) for instant_ns, place in drawn)


@attrs.frozen(kw_only=True)
class OwnBursts:
    """Each model has a Markov-modulated Poisson process of its own: bursts do not coincide."""

    rate_rps: float
    """Of all models together, on average."""
    popularity: Popularity = attrs.field(factory=Uniform)
    models: tuple[int, ...]
    slo_ns: int
    factor: float = 4.0
    """See `Bursts`, as the next two."""
    share: float = 0.2
    burst_s: float = 0.5

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        weights = self.popularity.weights(len(self.models))
        each = [
            self._of_one(model, self.rate_rps * weight / sum(weights), seed, duration_ns)
            for model, weight in zip(self.models, weights, strict=True)
        ]
        return heapq.merge(*each)

    def _of_one(self, model: int, rate_rps: float, seed: int, duration_ns: int) -> Iterator[Call]:
        process = Bursts(
            rate_rps=rate_rps, factor=self.factor, share=self.share, burst_s=self.burst_s
        )
        instants_ns = process.instants_ns(random.Random(f"bursts of {model} {seed}"))
        in_time = itertools.takewhile(lambda instant_ns: instant_ns < duration_ns, instants_ns)
        return (Call(instant_ns, model, self.slo_ns) for instant_ns in in_time)


@attrs.frozen(kw_only=True)
class Flood:
    """One or a few models, or a tenant with them, are asked for at a rate for a part of the run."""

    models: tuple[int, ...]
    rate_rps: float
    slo_ns: int
    from_ns: int = 0
    until_ns: int | None = None
    """None: the end of the traffic."""

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        until_ns = duration_ns if self.until_ns is None else min(self.until_ns, duration_ns)
        inner = OpenLoop(
            arrivals=Poisson(rate_rps=self.rate_rps), models=self.models, slo_ns=self.slo_ns
        )
        calls = inner.calls(seed=seed, duration_ns=max(0, until_ns - self.from_ns))
        return (call._replace(instant_ns=call.instant_ns + self.from_ns) for call in calls)


@attrs.frozen(kw_only=True)
class Awakening:
    """A steady rate is spread evenly over the models that are active, and ever more become so.

    Source: Clockwork (OSDI 2020), figure 6: one more model each second after a quarter of an hour.
    """

    models: tuple[int, ...]
    """In the order in which they become active."""
    rate_rps: float
    """Of all active ones together."""
    slo_ns: int
    first_count: int = 1
    """Active from the beginning."""
    from_ns: int = 0
    """When the next one becomes active."""
    every_ns: int = SECOND

    def active(self, instant_ns: int) -> int:
        """Say how many models are active at an instant of the traffic."""
        more = 0
        if instant_ns >= self.from_ns:
            more = (instant_ns - self.from_ns) // self.every_ns + 1
        return min(len(self.models), self.first_count + more)

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        choices = random.Random(f"models {seed}")
        process = Poisson(rate_rps=self.rate_rps)
        for instant_ns in process.instants_ns(random.Random(f"times {seed}")):
            if instant_ns >= duration_ns:
                return
            place = int(choices.random() * self.active(instant_ns))
            yield Call(instant_ns, self.models[place], self.slo_ns)


@attrs.frozen(kw_only=True)
class Recording:
    """Recorded requests, each with its own model. Ends with the recording."""

    instants_ns: "array[int]"
    """Ascending, the first at 0."""
    places: "array[int]"
    """For each, its model's place in `models`."""
    models: tuple[int, ...]
    slo_ns: int
    rate_rps: float | None = None
    """Stretch or squeeze time so that this becomes the mean; None leaves it alone."""
    grain_ns: int = 0
    """Of the recorded instants: requests are spread over so long a time, at random, as recorders
    round down. 0 leaves them where they are."""

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `Stream`."""
        rng, stretch = random.Random(f"grains {seed}"), self.stretch
        # Within a grain requests are brought into an order again; across grains they stay in order.
        for _, group in itertools.groupby(
            zip(self.instants_ns, self.places, strict=True), key=lambda row: row[0]
        ):
            spread = [
                (instant_ns + int(rng.random() * self.grain_ns), place)
                for instant_ns, place in group
            ]
            for instant_ns, place in sorted(spread):
                at_ns = round(instant_ns * stretch)
                if at_ns >= duration_ns:
                    return
                yield Call(at_ns, self.models[place], self.slo_ns)

    @property
    def stretch(self) -> float:
        """By how much the recording's time is longer when it is played."""
        span_ns = self.instants_ns[-1] + self.grain_ns if self.instants_ns else 0
        if self.rate_rps is None or not span_ns:
            return 1.0
        if self.rate_rps <= 0:
            raise ConfigError(f"expected a rate of more than 0 requests/s, got {self.rate_rps}")
        return len(self.instants_ns) * SECOND / self.rate_rps / span_ns
