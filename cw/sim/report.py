"""The report: what a run came to, in the keys that `cw simulate` prints.

``requests = kept + refused + broken + failed``. ``refused`` and ``failed`` are counts by reason.
The same scenario gives the same report, byte for byte; only ``wall_seconds`` is of the machine that
ran it, and is therefore handed in by whoever measured it.
"""

import json
from collections import Counter
from typing import Any, Final

import attrs

from cw.sim.histogram import Histogram
from cw.sim.journal import Journal
from cw.sim.scenario import Scenario
from cw.sim.tally import ModelCount, Tally
from cw.units import MS, SECOND, div_ceil

_QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p999": 0.999, "max": 1.0}


@attrs.frozen(kw_only=True)
class ModelReport:
    """What became of one model's requests."""

    name: str
    tenant: int
    offered: int
    kept: int
    refused: int
    broken: int
    share: float
    """Kept of offered."""


@attrs.frozen(kw_only=True)
class Series:
    """The run second by second, for plots. Requests count in the second of their arrival."""

    offered: tuple[int, ...]
    kept: tuple[int, ...]
    refused: tuple[int, ...]
    cold: tuple[int, ...]
    """Of the refused ones."""
    broken: tuple[int, ...]
    p50_ms: tuple[float, ...]
    """Of the latencies of kept requests; to within 2 %, and 0 where none was kept."""
    p99_ms: tuple[float, ...]
    max_ms: tuple[float, ...]
    cold_starts: tuple[int, ...]
    """LOADs that ended in the second: models that had to be fetched."""
    utilisation: tuple[float, ...]
    """Of all executors by INFERs. An action counts in the second in which it ended."""
    load_utilisation: tuple[float, ...]
    """Of all executors' links by LOADs."""


@attrs.frozen(kw_only=True)
class Report:
    """What a run came to. Shares are 0 to 1, latencies milliseconds, from a request's arrival.

    Quantiles are right to 0.1 %, maxima exact.
    """

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
    median_model_share: float
    tenant_shares: dict[str, float]
    """Of its own requests, what each tenant got kept."""
    offered_rps: float
    goodput_rps: float
    bound_rps: float
    """What no schedule could exceed (`bound.py`)."""
    share_of_bound: float
    utilisation: float
    """Share of the executors' time in which they ran INFERs; a batch that nobody waited for any
    more counts, too."""
    load_utilisation: float
    """Share of their time in which they ran LOADs."""
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
    models: tuple[ModelReport, ...]
    """Those that were asked for; not in the JSON, which would be as long as there are models."""
    series: Series
    """Not in the JSON either."""

    def as_json(self, *, wall_seconds: float | None = None) -> str:
        """Write one line of JSON, with the time that the run took if it is given."""
        values: dict[str, Any] = attrs.asdict(self, filter=_is_short)
        if wall_seconds is not None:
            values["wall_seconds"] = round(wall_seconds, 3)
        return json.dumps(values)


def _is_short(attribute: "attrs.Attribute[Any]", value: object) -> bool:
    del value
    return attribute.name not in ("models", "series")


def make_report(scenario: Scenario, journal: Journal) -> Report:
    """Sum a run up."""
    tally = journal.tally
    seconds = scenario.duration_ns / SECOND
    assert journal.bound is not None, "the journal of a run counts its bound"
    bound = journal.bound.total()
    requests, kept = tally.requests, tally.kept
    of_models = sorted(count.share for count in tally.models.values())
    of_tenants = _tenant_shares(scenario, tally)
    device_s = seconds * scenario.executors
    return Report(
        policy=scenario.settings.policy,
        seed=scenario.seed,
        requests=requests,
        kept=kept,
        refused=_sorted(tally.refused),
        refused_at_arrival=tally.refused_at_arrival,
        broken=tally.broken.total(),
        failed=_sorted(tally.failed),
        least_model_share=_at(of_models, 0),
        p10_model_share=_at(of_models, 0.1),
        median_model_share=_at(of_models, 0.5),
        tenant_shares={str(tenant): share for tenant, share in of_tenants.items()},
        offered_rps=round(requests / seconds, 3),
        goodput_rps=round(kept / seconds, 3),
        bound_rps=round(bound / seconds, 3),
        share_of_bound=round(kept / bound, 6) if bound else 1.0,
        utilisation=round(journal.infer_busy_ns / SECOND / device_s, 6),
        load_utilisation=round(journal.load_busy_ns / SECOND / device_s, 6),
        sim_seconds=seconds,
        broken_by=_sorted(tally.broken),
        latency_ms=_quantiles(tally.latency_ns),
        refusal_ms=_quantiles(tally.refusal_ns),
        promise_ms=_quantiles(tally.promise_ns),
        prediction_error_ms=_quantiles(tally.prediction_error_ns),
        batch_mean=round(kept / journal.infers, 3) if journal.infers else 0.0,
        loads=journal.loads,
        models=tuple(
            _of_model(scenario, index, tally.models[index]) for index in sorted(tally.models)
        ),
        series=_series(scenario, tally),
    )


def _of_model(scenario: Scenario, index: int, count: ModelCount) -> ModelReport:
    model = scenario.models[index]
    return ModelReport(
        name=model.name,
        tenant=model.tenant,
        offered=count.offered,
        kept=count.kept,
        refused=count.refused,
        broken=count.broken,
        share=round(count.share, 6),
    )


def _tenant_shares(scenario: Scenario, tally: Tally) -> dict[int, float]:
    """Say what share of its requests each tenant got kept."""
    offered, kept = Counter[int](), Counter[int]()
    for index, count in tally.models.items():
        tenant = scenario.models[index].tenant
        offered[tenant] += count.offered
        kept[tenant] += count.kept
    return {tenant: round(kept[tenant] / offered[tenant], 6) for tenant in sorted(offered)}


def _series(scenario: Scenario, tally: Tally) -> Series:
    """Turn the seconds that a run counted into columns, up to the end of the traffic."""
    seconds = tally.seconds[: div_ceil(scenario.duration_ns, SECOND)]
    latencies = [
        [value / MS for value in one.latency_ns.quantiles((0.5, 0.99, 1.0))]
        if one.kept
        else [0.0, 0.0, 0.0]
        for one in seconds
    ]
    device_ns = SECOND * scenario.executors
    return Series(
        offered=tuple(one.offered for one in seconds),
        kept=tuple(one.kept for one in seconds),
        refused=tuple(one.refused for one in seconds),
        cold=tuple(one.cold for one in seconds),
        broken=tuple(one.broken for one in seconds),
        p50_ms=tuple(row[0] for row in latencies),
        p99_ms=tuple(row[1] for row in latencies),
        max_ms=tuple(row[2] for row in latencies),
        cold_starts=tuple(one.loads for one in seconds),
        utilisation=tuple(one.infer_busy_ns / device_ns for one in seconds),
        load_utilisation=tuple(one.load_busy_ns / device_ns for one in seconds),
    )


def _at(ascending: list[float], share: float) -> float:
    if not ascending:
        return 1.0
    return round(ascending[min(len(ascending) - 1, int(share * len(ascending)))], 6)


def _sorted(reasons: Counter[str]) -> dict[str, int]:
    return dict(sorted(reasons.items()))


def _quantiles(durations_ns: Histogram) -> dict[str, float]:
    """Give p50, p99, p999 and the maximum in ms; nothing of nothing."""
    if durations_ns.greatest is None:
        return {}
    values = durations_ns.quantiles(_QUANTILES.values())
    return {name: round(ns / MS, 4) for name, ns in zip(_QUANTILES, values, strict=True)}


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
        f"models    least share {report.least_model_share:.3f}, p10 {report.p10_model_share:.3f}, "
        f"median {report.median_model_share:.3f}",
        f"executors {100 * report.utilisation:8.1f} % busy, {100 * report.load_utilisation:.1f} % "
        "loading, "
        f"{report.batch_mean:g} kept to an INFER, {report.loads} LOADs",
    ]
    if len(report.tenant_shares) > 1:
        shares = sorted(report.tenant_shares.values())
        least, p10, median = (_at(shares, part) for part in (0, 0.1, 0.5))
        lines.append(f"tenants   least share {least:.3f}, p10 {p10:.3f}, median {median:.3f}")
    for name in ("latency_ms", "refusal_ms", "promise_ms", "prediction_error_ms"):
        quantiles = "  ".join(f"{key} {value:.2f}" for key, value in getattr(report, name).items())
        lines.append(f"{name.replace('_', ' '):20s}{quantiles or 'none'}")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in counts.items())
