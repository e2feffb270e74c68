"""The report: what a run came to, in the keys that `cw simulate` prints.

``requests = kept + refused + broken + failed``. ``refused`` and ``failed`` are counts by reason.
The same scenario gives the same report, byte for byte; only ``wall_seconds`` is of the machine that
ran it, and is therefore handed in by whoever measured it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from cw.sim.bound import BoundRequest, upper_bound
from cw.sim.journal import End, Journal, RequestRecord
from cw.sim.scenario import Scenario
from cw.units import MS, SECOND


@attrs.frozen(kw_only=True)
class Report:
    """What a run came to. Shares are 0 to 1, latencies milliseconds, from a request's arrival."""

    policy: str
    seed: int
    requests: int
    kept: int
    refused: dict[str, int]
    refused_at_arrival: int
    """Refused by the controller in the instant in which it heard of the request."""
    broken: int
    failed: dict[str, int]
    least_model_share: float
    """Of its own requests, what the worst-served model got kept."""
    p10_model_share: float
    offered_rps: float
    goodput_rps: float
    bound_rps: float
    """What no schedule could exceed (`bound.py`)."""
    share_of_bound: float
    utilisation: float
    """Share of the executors' time in which they ran INFERs; a batch that nobody waited for any
    more counts, too."""
    sim_seconds: float
    broken_by: dict[str, int]
    latency_ms: dict[str, float]
    """Of kept requests."""
    refusal_ms: dict[str, float]
    """From the arrival until the refusal is there."""
    promise_ms: dict[str, float]
    """From the arrival until the promise is there."""
    prediction_error_ms: dict[str, float]
    """How much earlier (-) or later (+) than predicted kept requests were answered."""
    batch_mean: float
    """Kept requests to an INFER."""
    loads: int

    def as_json(self, *, wall_seconds: float | None = None) -> str:
        """Write one line of JSON, with the time that the run took if it is given."""
        values: dict[str, Any] = attrs.asdict(self)
        if wall_seconds is not None:
            values["wall_seconds"] = round(wall_seconds, 3)
        return json.dumps(values)


def make_report(scenario: Scenario, journal: Journal) -> Report:
    """Sum a run up."""
    records = list(journal.requests.values())
    ends = Counter(record.end for record in records)
    kept = [record for record in records if record.end is End.KEPT]
    refused = [record for record in records if record.end is End.REFUSED]
    promised = [record for record in records if record.promised_ns is not None]
    seconds = scenario.duration_ns / SECOND
    bound = _bound(scenario, records)
    shares = _model_shares(records)
    busy_s = journal.infer_busy_ns / SECOND
    return Report(
        policy=scenario.settings.policy,
        seed=scenario.seed,
        requests=len(records),
        kept=len(kept),
        refused=_reasons(refused),
        refused_at_arrival=sum(record.decided_at_arrival for record in refused),
        broken=ends[End.BROKEN],
        failed=_reasons(record for record in records if record.end is End.FAILED),
        least_model_share=round(shares[0], 6) if shares else 1.0,
        p10_model_share=round(shares[len(shares) // 10], 6) if shares else 1.0,
        offered_rps=round(len(records) / seconds, 3),
        goodput_rps=round(len(kept) / seconds, 3),
        bound_rps=round(bound / seconds, 3),
        share_of_bound=round(len(kept) / bound, 6) if bound else 1.0,
        utilisation=round(busy_s / (seconds * scenario.executors), 6),
        sim_seconds=seconds,
        broken_by=_reasons(record for record in records if record.end is End.BROKEN),
        latency_ms=_quantiles([record.ended_ns - record.arrival_ns for record in kept]),
        refusal_ms=_quantiles([record.ended_ns - record.arrival_ns for record in refused]),
        promise_ms=_quantiles([_promise_ns(record) for record in promised]),
        prediction_error_ms=_quantiles(
            [record.ended_ns - record.predicted_finish_ns for record in kept]
        ),
        batch_mean=round(len(kept) / journal.infers, 3) if journal.infers else 0.0,
        loads=journal.loads,
    )


def _promise_ns(record: RequestRecord) -> int:
    assert record.promised_ns is not None
    return record.promised_ns - record.arrival_ns


def _bound(scenario: Scenario, records: Sequence[RequestRecord]) -> float:
    return upper_bound(
        [BoundRequest(one.arrival_ns, one.deadline_ns, one.model) for one in records],
        {index: scenario.table_of(model) for index, model in enumerate(scenario.models)},
        executors=scenario.executors,
    )


def _model_shares(records: Iterable[RequestRecord]) -> list[float]:
    """Say what share of its requests each model that was asked for got kept, ascending."""
    asked, kept = Counter[int](), Counter[int]()
    for record in records:
        asked[record.model] += 1
        kept[record.model] += record.end is End.KEPT
    return sorted(kept[model] / asked[model] for model in asked)


def _reasons(records: Iterable[RequestRecord]) -> dict[str, int]:
    return dict(sorted(Counter(record.reason for record in records).items()))


def _quantiles(durations_ns: list[int]) -> dict[str, float]:
    """Give p50, p99, p999 and the maximum in ms (nearest rank); nothing of nothing."""
    if not durations_ns:
        return {}
    durations_ns.sort()
    last = len(durations_ns) - 1
    at = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {
        name: round(durations_ns[min(last, int(share * len(durations_ns)))] / MS, 4)
        for name, share in at.items()
    }


def format_report(report: Report) -> str:
    """Write a report for people."""
    lines = [
        f"policy {report.policy}, seed {report.seed}, {report.sim_seconds:g} s",
        f"offered   {report.offered_rps:9.1f}/s  ({report.requests} requests)",
        f"kept      {report.goodput_rps:9.1f}/s  ({report.kept}); of the bound "
        f"({report.bound_rps:.1f}/s): {100 * report.share_of_bound:.1f} %",
        f"refused   {sum(report.refused.values()):9d}    at arrival {report.refused_at_arrival}; "
        + _counts(report.refused),
        f"broken    {report.broken:9d}    {_counts(report.broken_by)}",
        f"failed    {sum(report.failed.values()):9d}    {_counts(report.failed)}",
        f"models    least share {report.least_model_share:.3f}, p10 {report.p10_model_share:.3f}",
        f"executors {100 * report.utilisation:8.1f} % busy, "
        f"{report.batch_mean:g} kept to an INFER, {report.loads} LOADs",
    ]
    for name in ("latency_ms", "refusal_ms", "promise_ms", "prediction_error_ms"):
        quantiles = "  ".join(f"{key} {value:.2f}" for key, value in getattr(report, name).items())
        lines.append(f"{name.replace('_', ' '):20s}{quantiles or 'none'}")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())
