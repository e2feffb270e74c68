"""Streams: kinds of open-loop traffic, composed of arrivals, popularity and SLOs."""

from collections.abc import Iterator

import attrs

from cw.workload.arrivals import ArrivalProcess, Popularity, Uniform, draw
from cw.workload.workload import Call


@attrs.frozen(kw_only=True)
class OpenLoop:
    """One process of arrivals, shared out among models by their popularity."""

    arrivals: ArrivalProcess
    popularity: Popularity = attrs.field(factory=Uniform)
    models: tuple[int, ...]
    """The most popular first."""
    slo_ns: int

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
