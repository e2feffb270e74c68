"""Reports: what became of a load, as one JSON object and as tables for people.

requests = kept + refused + broken + failed. *kept*: answered in time by the client's clock;
*broken*: promised, then late or failed; *failed*: never promised (bad input, lost connection).
`answers` equals `requests`, or something is lost.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table

from cw.units import MS
from cw.workload.client import End, Sent


def quantile(values: Sequence[float], q: float) -> float | None:
    """Return the q-quantile as one of the values (nearest rank); None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def quantiles_ms(durations_ns: Iterable[int], *qs: float) -> dict[str, float | None]:
    """Return named quantiles in milliseconds, e.g. ``p50``, ``p999``."""
    values = [duration / MS for duration in durations_ns]
    named = {}
    for q in qs:
        value = quantile(values, q)
        name = f"p{q * 100:g}".replace(".", "")
        named[name] = None if value is None else round(value, 3)
    return named


def counts(sent: Sequence[Sent]) -> dict[str, Any]:
    """Count a load's ends: ``requests, answers, kept, refused, broken, failed``."""
    ends = Counter(entry.end for entry in sent)
    return {
        "requests": len(sent),
        "answers": sum(ends.values()),
        "kept": ends[End.KEPT],
        "refused": dict(Counter(e.reason for e in sent if e.end is End.REFUSED)),
        "broken": ends[End.BROKEN],
        "failed": dict(Counter(e.reason for e in sent if e.end is End.FAILED)),
    }


def times(sent: Sequence[Sent], seconds: float) -> dict[str, Any]:
    """Say how long answers took, how far predictions were off, and what rates that makes."""
    kept = [entry for entry in sent if entry.end is End.KEPT]
    refused = [entry for entry in sent if entry.end is End.REFUSED]
    promised = [
        entry.result.timing.total_ns - entry.result.timing.predicted_ns
        for entry in sent
        if entry.result is not None
        and entry.result.promised
        and entry.result.failure is None
        and entry.result.timing.predicted_ns
    ]
    return {
        "offered_rps": round(len(sent) / seconds, 2),
        "goodput_rps": round(len(kept) / seconds, 2),
        "latency_ms": quantiles_ms((entry.latency_ns for entry in kept), 0.5, 0.99, 0.999),
        "refusal_ms": quantiles_ms((entry.latency_ns for entry in refused), 0.5, 0.99),
        "prediction_error_ms": quantiles_ms(promised, 0.5, 0.99),
        "sent_late_ms": quantiles_ms((entry.lateness_ns for entry in sent), 0.5, 0.99),
    }


def added_latency_ns(entry: Sent) -> int | None:
    """Latency that neither the model nor the lane's other work explains; None without outputs."""
    if entry.end is not End.KEPT or entry.result is None:
        return None
    timing = entry.result.timing
    return entry.latency_ns - timing.device_ns - timing.lane_busy_ns


def by_model(sent: Sequence[Sent]) -> dict[str, list[Sent]]:
    """Group a load by model, in the order of names."""
    groups: dict[str, list[Sent]] = {}
    for entry in sent:
        groups.setdefault(entry.planned.model, []).append(entry)
    return dict(sorted(groups.items()))


def model_table(sent: Sequence[Sent], *, title: str) -> Table:
    """Make the table for people: one row per model, and all together."""
    table = Table(
        title=title,
        title_justify="left",
        caption="actual - predicted: below 0, the answer came earlier than its promise said",
        caption_justify="left",
    )
    table.add_column("model")
    for heading in ("requests", "kept", "refused", "broken", "failed"):
        table.add_column(heading, justify="right")
    table.add_column("p50 / p99 ms", justify="right")
    table.add_column("actual - predicted, p50 / p99 ms", justify="right")
    groups = by_model(sent)
    rows = [*groups.items(), ("all", list(sent))] if len(groups) > 1 else list(groups.items())
    for name, group in rows:
        total = counts(group)
        measured = times(group, 1.0)
        table.add_row(
            name,
            str(total["requests"]),
            str(total["kept"]),
            str(sum(total["refused"].values())),
            str(total["broken"]),
            str(sum(total["failed"].values())),
            _pair(measured["latency_ms"], "p50", "p99"),
            _pair(measured["prediction_error_ms"], "p50", "p99"),
        )
    return table


def _pair(named: dict[str, float | None], first: str, second: str) -> str:
    return " / ".join("-" if named[key] is None else f"{named[key]:.1f}" for key in (first, second))
