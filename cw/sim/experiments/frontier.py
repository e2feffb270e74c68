"""Frontier: what does an early refusal cost?

A request that comes later may be the better one to serve, so whoever refuses late can choose
better; whoever is refused late has less time to go elsewhere. Between arrival and promise the
default policy may hold a request for a share of its SLO (`hold_ratio`): swept here from 0 (decide
at arrival) to 1 (as late as possible).

Set-up: families of `families.py` at the rates of overload, as in the goals.

Nothing is published on this. Clockwork's policy refuses when its internal deadline has passed.
"""

from typing import Final

from cw.sim.experiments.experiment import Cell, Options, Result, Table, percent
from cw.sim.experiments.families import family
from cw.sim.experiments.measures import COLUMNS, NOTE, described, grouped, measure
from cw.sim.experiments.overload import traffic_ns
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart, Panel, Series
from cw.sim.report import Report
from cw.units import MS

FAMILIES: Final = ("v25", "v100", "v250", "h25", "h50", "six100", "mix100")
_HOLDS: Final = ("0", "0.05", "0.1", "0.25", "0.5", "0.75", "1")
_QUICK_HOLDS: Final = ("0", "0.25", "1")


def run(options: Options, pool: Pool) -> Result:
    """Sweep what trades goodput for early refusals."""
    names = options.chosen(FAMILIES)
    holds = _QUICK_HOLDS if options.quick else _HOLDS
    policies = options.policies or (
        *(f"default:hold_ratio={hold}" for hold in holds),
        "clockwork",
    )
    seeds = options.seed_range(full=3)
    cases = [(name, policy) for name in names for policy in policies]
    reports = pool.run(
        [
            one.scenario(policy, seed=seed, duration_ns=traffic_ns(one, options))
            for name, policy in cases
            for one in (family(name),)
            for seed in seeds
        ],
        what="frontier",
    )
    found = dict(zip(cases, grouped(reports, len(seeds)), strict=True))
    latest = {
        name: max(measure(found[name, policy]).share_of_bound for policy in policies)
        for name in names
    }
    table = Table(
        name="frontier",
        title="Goodput against the delay of refusals, under overload",
        columns=(
            "family", "policy", *COLUMNS, "goodput, of the best's %", "refused at arrival %",
            "refusal p50, % of SLO", "p99", "max",
        ),
        rows=tuple(
            (name, policy, *_cells(name, list(found[name, policy]), latest[name]))
            for name, policy in cases
        ),
        notes=(NOTE, "Refused at arrival: in the instant in which the controller heard of it."),
    )  # fmt: skip
    return Result(
        set_up=f"{described(seeds)}; each family at its overload",
        tables=(table,),
        charts=(_chart(names, policies, {case: list(group) for case, group in found.items()}),),
    )


def refusal_delay(reports: list[Report], key: str, slo_ns: int) -> float:
    """Give a quantile of the time from arrival to refusal as a share of the SLO, mean of seeds."""
    delays = [report.refusal_ms[key] for report in reports if report.refusal_ms]
    return sum(delays) / len(delays) * MS / slo_ns if delays else 0.0


def _at_arrival(reports: list[Report]) -> float:
    refused = sum(sum(report.refused.values()) for report in reports)
    return sum(report.refused_at_arrival for report in reports) / refused if refused else 1.0


def _cells(name: str, reports: list[Report], best: float) -> tuple[Cell, ...]:
    measures, slo_ns = measure(reports), family(name).slo_ns
    return (
        *measures.cells(),
        percent(measures.share_of_bound / best if best else 1.0),
        percent(_at_arrival(reports)),
        *(percent(refusal_delay(reports, key, slo_ns)) for key in ("p50", "p99", "max")),
    )


def _chart(
    names: list[str], policies: tuple[str, ...], found: dict[tuple[str, str], list[Report]]
) -> Chart:
    swept = [policy for policy in policies if policy.partition(":")[0] == "default"]
    others = [policy for policy in policies if policy not in swept]

    def points(name: str, chosen: list[str]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        slo_ns = family(name).slo_ns
        groups = [found[name, policy] for policy in chosen]
        return (
            tuple(100 * refusal_delay(group, "p99", slo_ns) for group in groups),
            tuple(100 * measure(group).share_of_bound for group in groups),
        )

    def panel(name: str) -> Panel:
        x, y = points(name, swept)
        labels = tuple(policy.rpartition("=")[2] for policy in swept)
        lines = [Series(label="default, by hold_ratio", x=x, y=y, labels=labels, colour=0)]
        for place, policy in enumerate(others, 1):
            x, y = points(name, [policy])
            lines.append(Series(label=policy, x=x, y=y, points_only=True, colour=place))
        return Panel(
            title=name,
            x_label="99th percentile of the time until a refusal (% of the SLO)",
            y_label="kept (% of the bound)",
            y_min=None,
            series=tuple(lines),
        )

    def arrivals() -> Panel:
        return Panel(
            title="Refusals at arrival",
            x_label="policy",
            y_label="of all refusals (%)",
            ticks=tuple(policy.rpartition("=")[2] for policy in policies),
            series=tuple(
                Series(
                    label=name,
                    x=tuple(float(place) for place in range(len(policies))),
                    y=tuple(100 * _at_arrival(found[name, policy]) for policy in policies),
                )
                for name in names
            ),
        )  # fmt: skip

    panels = [panel(name) for name in names]
    return Chart(
        name="frontier",
        title="Goodput against the delay of refusals",
        columns=2 if len(panels) > 1 else 1,
        panels=(*panels, arrivals()),
    )
