"""How long a model's batches took, and how good the estimates were that planned with them.

A run is an INFER that was carried out, with requests or without: probes are run to be measured, and
count as any other. Its duration is the one on the device, which is what profiles learn from.

The estimates are the ones that the controller really planned with, as each record tells. They are
judged by the runs with requests only: nobody was promised anything on a probe, and the first ones
are planned with a guess.
"""

from array import array
from collections.abc import Iterable
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from cw.actors.telemetry import ActionRecord
from cw.messages import Outcome
from cw.records.timing import quantile
from cw.units import MS, SECOND

P999_RUNS_MIN: Final = 1_000
"""With fewer, the 99.9 % quantile is the largest by another name."""
HOUR_NS: Final = 3600 * SECOND


@attrs.frozen(kw_only=True)
class Hindsight:
    """How far the estimates stood above what came true, in a span of time."""

    runs: int
    covered_share: float
    """Took no longer than estimated."""
    ratio_mean: float
    """Estimate / actual."""
    ratio_p99: float

    def to_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        return {name: round(value, 6) for name, value in attrs.asdict(self).items()}


@attrs.define(eq=False)
class Runs:
    """All runs of one batch size on one kind of device, as they come."""

    probes: int = 0
    estimate_ns: int = 0
    """What the latest was planned with."""
    last_date_ns: int = 0
    _durations_ns: "array[int]" = attrs.field(factory=lambda: array("q"))
    _dates_ns: "array[int]" = attrs.field(factory=lambda: array("q"))
    _estimates_ns: "array[int]" = attrs.field(factory=lambda: array("q"))
    """0 for a probe."""

    def __len__(self) -> int:
        """Count them."""
        return len(self._durations_ns)

    def add(self, record: ActionRecord) -> None:
        """Take a run."""
        is_probe = record.slots == 0
        self.probes += is_probe
        if record.date_ns >= self.last_date_ns:
            self.last_date_ns, self.estimate_ns = record.date_ns, record.expected_ns
        self._durations_ns.append(record.device_ns)
        self._dates_ns.append(record.date_ns)
        self._estimates_ns.append(0 if is_probe else record.expected_ns)

    def ordered_ns(self) -> NDArray[np.int64]:
        """Sort the durations, shortest first."""
        return np.sort(np.frombuffer(self._durations_ns, np.int64))

    def hindsight(self, since_ns: int) -> Hindsight | None:
        """Judge the estimates of the runs with requests since a date; None if there were none."""
        durations_ns = np.frombuffer(self._durations_ns, np.int64)
        estimates_ns = np.frombuffer(self._estimates_ns, np.int64)
        wanted = (np.frombuffer(self._dates_ns, np.int64) >= since_ns) & (estimates_ns > 0)
        if not wanted.any():
            return None
        estimates_ns, durations_ns = estimates_ns[wanted], durations_ns[wanted]
        ratios = np.sort(estimates_ns / durations_ns)
        return Hindsight(
            runs=len(ratios),
            covered_share=float(np.mean(durations_ns <= estimates_ns)),
            ratio_mean=float(np.mean(ratios)),
            ratio_p99=float(ratios[min(len(ratios) - 1, int(0.99 * len(ratios)))]),
        )


@attrs.frozen(kw_only=True)
class BatchProfile:
    """What was measured of one batch size on one kind of device. Durations in ns."""

    device: str
    batch_size: int
    runs: int
    probes: int
    p50_ns: int
    p99_ns: int
    p999_ns: int | None
    """None with fewer than `P999_RUNS_MIN` runs."""
    max_ns: int
    estimate_ns: int
    """What the latest run was planned with."""
    last_date_ns: int
    hindsight: Hindsight | None
    """Of the span that was asked for; None if nothing ran in it."""
    ordered_ns: NDArray[np.int64] = attrs.field(repr=False, eq=False)
    """All durations, shortest first."""

    @property
    def spread(self) -> float:
        """p99/p50: 1 is a clockwork."""
        return self.p99_ns / self.p50_ns

    def to_json(self) -> dict[str, Any]:
        """Give the documented keys."""
        return {
            "device": self.device,
            "batch_size": self.batch_size,
            "runs": self.runs,
            "probes": self.probes,
            "p50_ms": self.p50_ns / MS,
            "p99_ms": self.p99_ns / MS,
            "p999_ms": None if self.p999_ns is None else self.p999_ns / MS,
            "max_ms": self.max_ns / MS,
            "spread": round(self.spread, 6),
            "estimate_ms": self.estimate_ns / MS,
            "hindsight": None if self.hindsight is None else self.hindsight.to_json(),
        }


def profiles_of(records: Iterable[ActionRecord], *, since_ns: int) -> list[BatchProfile]:
    """Measure a model's batches, by device and size.

    Args:
        records: Of one model.
        since_ns: The date from which on the estimates are judged; the durations are all taken.
    """
    found: dict[tuple[str, int], Runs] = {}
    for record in records:
        if record.kind == "INFER" and record.outcome == Outcome.OK.value and record.device_ns > 0:
            key = record.device, record.batch_size
            runs = found.get(key)
            if runs is None:
                runs = found[key] = Runs()
            runs.add(record)
    return [_profile(device, size, found[device, size], since_ns) for device, size in sorted(found)]


def _profile(device: str, batch_size: int, runs: Runs, since_ns: int) -> BatchProfile:
    ordered_ns = runs.ordered_ns()
    return BatchProfile(
        device=device,
        batch_size=batch_size,
        runs=len(runs),
        probes=runs.probes,
        p50_ns=quantile(ordered_ns, 0.5),
        p99_ns=quantile(ordered_ns, 0.99),
        p999_ns=quantile(ordered_ns, 0.999) if len(runs) >= P999_RUNS_MIN else None,
        max_ns=int(ordered_ns[-1]),
        estimate_ns=runs.estimate_ns,
        last_date_ns=runs.last_date_ns,
        hindsight=runs.hindsight(since_ns),
        ordered_ns=ordered_ns,
    )
