"""The tally: what a run's requests add up to, counted as each of them ends.

Nothing of a request is kept but what it adds to a count, so that an hour at ten thousand requests
a second takes no more memory than a minute. Each request counts in the second in which it arrived,
whenever it ended: in every second offered = kept + refused + broken + failed.

Neighbours: `journal.py` feeds it, `report.py` reads it.
"""

import enum
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from cw.sim.histogram import COARSE_BITS, Histogram
from cw.units import SECOND

if TYPE_CHECKING:
    from cw.sim.journal import RequestRecord


class End(enum.Enum):
    """How a request ended."""

    KEPT = "kept"
    REFUSED = "refused"
    BROKEN = "broken"
    """Promised, then late or failed."""
    FAILED = "failed"
    """Neither served, nor refused, nor was a promise broken."""


@attrs.define(eq=False)
class Second:
    """One second of the traffic."""

    offered: int = 0
    kept: int = 0
    refused: int = 0
    cold: int = 0
    """Of the refused ones, those whose model was not on a GPU and could not be there in time."""
    broken: int = 0
    failed: int = 0
    loads: int = 0
    """LOADs that ended in it: models that were cold."""
    infer_busy_ns: int = 0
    """Time of all executors together, on INFERs."""
    load_busy_ns: int = 0
    latency_ns: Histogram = attrs.field(factory=lambda: Histogram(COARSE_BITS))
    """Of kept requests, from their arrival."""


@attrs.define(eq=False)
class ModelCount:
    """One model's requests."""

    offered: int = 0
    kept: int = 0
    refused: int = 0
    broken: int = 0

    @property
    def share(self) -> float:
        """Of what was asked for, what was kept."""
        return self.kept / self.offered


@attrs.define(eq=False)
class Tally:
    """All counts of a run."""

    begin_ns: int = 0
    """When the traffic began."""
    models: dict[int, ModelCount] = attrs.field(factory=dict)
    """By the model's index; only those that were asked for."""
    seconds: list[Second] = attrs.field(factory=list)
    kept: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    """By reason, as the next two."""
    broken: Counter[str] = attrs.field(factory=Counter)
    failed: Counter[str] = attrs.field(factory=Counter)
    best_effort: Counter[End] = attrs.field(factory=Counter)
    """Ends of the requests without an SLO, which no other count here has."""
    refused_at_arrival: int = 0
    latency_ns: Histogram = attrs.field(factory=Histogram)
    refusal_ns: Histogram = attrs.field(factory=Histogram)
    promise_ns: Histogram = attrs.field(factory=Histogram)
    prediction_error_ns: Histogram = attrs.field(factory=Histogram)

    def second(self, instant_ns: int) -> Second:
        """Give the second of the traffic in which an instant lies."""
        index, seconds = (instant_ns - self.begin_ns) // SECOND, self.seconds
        while index >= len(seconds):
            seconds.append(Second())
        return seconds[index]

    def ended(self, record: "RequestRecord") -> None:
        """Count a request that has just ended."""
        if record.is_best_effort:
            assert record.end is not None
            self.best_effort[record.end] += 1
            return
        model = self.models.get(record.model)
        if model is None:
            model = self.models[record.model] = ModelCount()
        end, reason, arrival_ns = record.end, record.reason, record.arrival_ns
        second = self.second(arrival_ns)
        model.offered += 1
        second.offered += 1
        if record.promised_ns is not None:
            self.promise_ns.add(record.promised_ns - arrival_ns)
        if end is End.KEPT:
            latency_ns = record.ended_ns - arrival_ns
            self.kept += 1
            model.kept += 1
            second.kept += 1
            second.latency_ns.add(latency_ns)
            self.latency_ns.add(latency_ns)
            self.prediction_error_ns.add(record.ended_ns - record.predicted_finish_ns)
        elif end is End.REFUSED:
            self.refused[reason] += 1
            model.refused += 1
            second.refused += 1
            second.cold += reason == "cold"
            self.refused_at_arrival += record.decided_at_arrival
            self.refusal_ns.add(record.ended_ns - arrival_ns)
        elif end is End.BROKEN:
            self.broken[reason] += 1
            model.broken += 1
            second.broken += 1
        else:
            self.failed[reason] += 1
            second.failed += 1

    @property
    def requests(self) -> int:
        """How many have ended."""
        ended = self.refused.total() + self.broken.total() + self.failed.total()
        return self.kept + ended
