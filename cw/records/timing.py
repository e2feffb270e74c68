"""How well plans came true: starts against windows and plans, durations against estimates.

Errors are signed, actual less planned: a start before its planned one is no fault (windows open
early, and what ran before took less than its estimate), one after it may have cost a promise.

Only what ran has errors. An UNLOAD has neither window nor plan, so it is only counted.
"""

from array import array
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from cw.actors.telemetry import ActionRecord
from cw.messages import Outcome
from cw.records.files import KINDS
from cw.units import US

_OK: Final = Outcome.OK.value


def quantile(ordered_ns: NDArray[np.int64], share: float) -> int:
    """Read a quantile of sorted values: nearest rank, rounded up, as `core/durations.py` does."""
    assert len(ordered_ns), "nothing has no quantile"
    return int(ordered_ns[min(len(ordered_ns) - 1, int(share * len(ordered_ns)))])


@attrs.frozen(kw_only=True)
class Errors:
    """Quantiles of signed errors, ns: actual less planned."""

    p1: int
    p50: int
    p99: int
    max: int

    def as_us(self) -> dict[str, float]:
        """Give them in microseconds, for JSON."""
        return {name: value / US for name, value in attrs.asdict(self).items()}


@attrs.define(eq=False)
class Timing:
    """Counts actions of one kind, or of several, as they come."""

    actions: int = 0
    ran: int = 0
    windowed: int = 0
    """Of those that ran, the ones with a window: all but UNLOADs."""
    in_window: int = 0
    """Started within it, both ends included."""
    in_window_by_clock: int = 0
    """The same, when each end may be off by the error of the executor's clock."""
    _start_ns: "array[int]" = attrs.field(factory=lambda: array("q"))
    _duration_ns: "array[int]" = attrs.field(factory=lambda: array("q"))

    def add(self, record: ActionRecord) -> None:
        """Count an action."""
        self.actions += 1
        if record.outcome != _OK:
            return
        self.ran += 1
        if record.kind == "UNLOAD":
            return
        self.windowed += 1
        start_ns, error_ns = record.start_ns, record.clock_error_ns
        self.in_window += record.earliest_ns <= start_ns <= record.latest_ns
        self.in_window_by_clock += (
            record.earliest_ns - error_ns <= start_ns <= record.latest_ns + error_ns
        )
        self._start_ns.append(start_ns - record.planned_start_ns)
        self._duration_ns.append(record.device_ns - record.expected_ns)

    @property
    def start_errors(self) -> Errors | None:
        """How far starts lay behind the planned ones; None if nothing ran."""
        return _errors(self._start_ns)

    @property
    def duration_errors(self) -> Errors | None:
        """How far durations on the device lay above what was planned with: mispredictions."""
        return _errors(self._duration_ns)

    def to_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        start, duration = self.start_errors, self.duration_errors
        return {
            "actions": self.actions,
            "ran": self.ran,
            "in_window_share": share(self.in_window, self.windowed),
            "in_window_by_clock_share": share(self.in_window_by_clock, self.windowed),
            "start_error_us": None if start is None else start.as_us(),
            "duration_error_us": None if duration is None else duration.as_us(),
        }


@attrs.define(eq=False)
class Timings:
    """All actions, and those of each kind."""

    total: Timing = attrs.field(factory=Timing)
    by_kind: dict[str, Timing] = attrs.field(factory=lambda: {kind: Timing() for kind in KINDS})

    def add(self, record: ActionRecord) -> None:
        """Count an action."""
        self.total.add(record)
        self.by_kind[record.kind].add(record)

    def to_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        kinds = {kind: timing.to_json() for kind, timing in self.by_kind.items() if timing.actions}
        return {**self.total.to_json(), "kinds": kinds}


def share(part: int, whole: int) -> float | None:
    """Divide, for JSON; None where there is nothing to have a share of."""
    return round(part / whole, 6) if whole else None


def _errors(values_ns: "array[int]") -> Errors | None:
    if not values_ns:
        return None
    ordered = np.sort(np.frombuffer(values_ns, np.int64))
    return Errors(
        p1=quantile(ordered, 0.01),
        p50=quantile(ordered, 0.5),
        p99=quantile(ordered, 0.99),
        max=int(ordered[-1]),
    )
