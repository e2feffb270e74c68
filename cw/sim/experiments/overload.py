"""Goals, part one: each family under overload, in per cent of the bound.

The families are those of `families.py`; rates are the probe's: 1,100 requests/s for each V100 (770
at an SLO of 10 ms), 7,500 for the H100, 1.3 times what full batches could do for mixed shapes.
"""

from typing import Final

from cw.sim.experiments.drawing import policy_lines
from cw.sim.experiments.experiment import Cell, Options, Table
from cw.sim.experiments.families import Family, family
from cw.sim.experiments.measures import COLUMNS, NOTE, Measures, grouped, measure
from cw.sim.experiments.pool import Pool
from cw.sim.experiments.reference import GOALS, PROBE
from cw.sim.plots import Chart, Panel, Series
from cw.units import SECOND

FAMILIES: Final = (
    "v10", "v25", "v50", "v100", "v250", "v500", "h10", "h25", "h50", "h100",
    "six25", "six100", "mix100",
)  # fmt: skip


def traffic_ns(one: Family, options: Options) -> int:
    """Say how long a family's traffic lasts.

    A bound is too loose by about SLO/length, so that long SLOs need long runs: 120 SLOs at least.
    """
    slo_s = one.slo_ns / SECOND
    full_s = 10.0 if one.rate_rps > 5_000 else 30.0
    return options.duration_ns(full_s=max(full_s, 120 * slo_s), quick_s=max(2.0, 20 * slo_s))


def run(options: Options, pool: Pool, names: list[str]) -> tuple[list[Table], list[Chart]]:
    """Run families under overload."""
    policies = options.policies_or("default", "clockwork")
    seeds = options.seed_range(full=3)
    cases = [(name, policy) for name in names for policy in policies]
    reports = pool.run(
        [
            one.scenario(policy, seed=seed, duration_ns=traffic_ns(one, options))
            for name, policy in cases
            for one in (family(name),)
            for seed in seeds
        ],
        what="overload",
    )
    groups = grouped(reports, len(seeds))
    measured = {case: measure(group) for case, group in zip(cases, groups, strict=True)}
    table = Table(
        name="goals-overload",
        title="Overload: per cent of the bound",
        columns=("family", "policy", *COLUMNS, "probe %", "floor", "stretch", "reached"),
        rows=tuple(
            (name, policy, *measured[name, policy].cells(), *_beside(name, policy, measured))
            for name, policy in cases
        ),
        notes=(NOTE, "Probe: see cw/sim/experiments/reference.py; floor, stretch: our goals."),
    )
    return [table], [_chart(policies, names, measured)]


def _beside(
    name: str, policy: str, measured: dict[tuple[str, str], Measures]
) -> tuple[Cell, Cell, Cell, Cell]:
    probe = getattr(PROBE[name], policy, None)
    goal = GOALS.get(name)
    if policy != "default" or goal is None:
        return probe, None, None, ""
    reached = verdict(100 * measured[name, policy].share_of_bound, goal.floor, goal.stretch)
    return probe, goal.floor, goal.stretch, reached


def verdict(value: float, floor: float, stretch: float) -> str:
    """Say which of two goals a value reaches; a tenth below it is not it."""
    if round(value, 1) >= stretch:
        return "stretch"
    return "floor" if round(value, 1) >= floor else "below"


def _chart(
    policies: tuple[str, ...], names: list[str], measured: dict[tuple[str, str], Measures]
) -> Chart:
    places = tuple(float(place) for place in range(len(names)))
    goal = Series(
        label="stretch goal",
        x=places,
        y=tuple(GOALS[name].stretch if name in GOALS else float("nan") for name in names),
        dashed=True,
    )

    def panel(title: str, y_label: str, attribute: str, extra: tuple[Series, ...]) -> Panel:
        lines = policy_lines(
            policies,
            places,
            lambda policy, at: 100 * getattr(measured[names[at], policy], attribute),
        )
        return Panel(
            title=title,
            x_label="family",
            y_label=y_label,
            ticks=tuple(names),
            series=(*lines, *extra),
        )

    return Chart(
        name="goals-overload",
        title="Overload, by family",
        panel_inches=10,
        panels=(
            panel("Kept, of what is possible", "% of the bound", "share_of_bound", (goal,)),
            panel("The worst-served model", "in time (%)", "least_model_share", ()),
        ),
    )
