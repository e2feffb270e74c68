"""Workloads: who asks for what, when, and within which time.

A workload is made of open-loop streams, whose requests come whatever becomes of the ones before,
and of closed loops, whose clients wait for an answer before they ask again. Streams are lazy: an
hour at ten thousand requests a second is never held in memory.

It must not know: who answers. Neighbours: `streams.py` and `azure.py` (kinds of streams),
`arrivals.py` (when requests come), `cw/sim/world.py` (which sends them).
"""

import hashlib
import heapq
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import attrs

from cw.errors import ConfigError
from cw.units import MS


class Call(NamedTuple):
    """One request of an open-loop stream."""

    instant_ns: int
    """From the start of the traffic."""
    model: int
    """Index of its model."""
    slo_ns: int | None
    """None: best effort."""


class Stream(Protocol):
    """Draws requests in the order of their instants."""

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """Draw the requests of a run.

        Args:
            seed: Same seed, same requests.
            duration_ns: Requests at or after this instant are not drawn.
        """
        ...


def _check_models(_: object, attribute: "attrs.Attribute[tuple[int, ...]]", value: object) -> None:
    if not value:
        raise ConfigError(f"expected at least one model in {attribute.name}, got none")


@attrs.frozen(kw_only=True)
class ClosedLoop:
    """Clients with one open request each: the next is sent when the answer, or refusal, came."""

    models: tuple[int, ...] = attrs.field(validator=_check_models)
    clients_per_model: int = attrs.field(validator=attrs.validators.ge(1))
    slo_ns: int
    from_ns: int = 0
    until_ns: int | None = None
    """No client begins a request from here on; None: the end of the traffic."""
    retry_ns: int = 1 * MS
    """After a refusal a client waits so long: else a refusing server is asked in a busy loop."""


@attrs.frozen(kw_only=True)
class Workload:
    """All that is asked of a cluster in a run."""

    streams: tuple[Stream, ...] = ()
    closed: tuple[ClosedLoop, ...] = ()
    impatient_ratio: float = attrs.field(
        default=0.0, validator=[attrs.validators.ge(0.0), attrs.validators.le(1.0)]
    )
    """Of all requests, how many are cancelled by their callers, at any time before the deadline."""

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """Draw the requests of all streams together, in the order of their instants.

        Streams do not disturb each other: each has a seed of its own, made of `seed` and its place,
        so that one more at the end leaves all others as they were.
        """
        drawn = [
            stream.calls(seed=seed_of(seed, place), duration_ns=duration_ns)
            for place, stream in enumerate(self.streams)
        ]
        return drawn[0] if len(drawn) == 1 else heapq.merge(*drawn)


def seed_of(seed: int, place: int) -> int:
    """Make the seed of the stream in a place; the first keeps the run's own."""
    if not place:
        return seed
    return int.from_bytes(hashlib.sha256(f"stream {place} of {seed}".encode()).digest()[:8])
