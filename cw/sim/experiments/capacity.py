"""Goals, part two: SLO capacity, the highest rate with 99 % of all requests in time.

Found by bisection, to 1 %: the lowest rate tried that misses and the highest that holds are no
further apart. All seeds count together, without the first second: models are cold when the traffic
begins, and loading them would count against short runs. A single model may get less than 99 %; see
the least model.
"""

from typing import Final

import attrs

from cw.sim.experiments.drawing import policy_lines
from cw.sim.experiments.experiment import Cell, Options, Table, percent
from cw.sim.experiments.families import family
from cw.sim.experiments.measures import Measures, measure
from cw.sim.experiments.overload import traffic_ns
from cw.sim.experiments.pool import Pool
from cw.sim.experiments.reference import PROBE
from cw.sim.plots import Chart, Panel
from cw.sim.runner import simulate

IN_TIME: Final = 0.99
_PRECISION: Final = 1.01


@attrs.frozen(kw_only=True)
class Search:
    """What to find the capacity of."""

    family: str
    policy: str
    seeds: tuple[int, ...]
    duration_ns: int
    precision: float = _PRECISION


@attrs.frozen(kw_only=True)
class Capacity:
    """What was found."""

    rate_rps: float
    """0: not even a fiftieth of full load holds."""
    at_rate: Measures | None
    """What that rate came to."""


def find(search: Search) -> Capacity:
    """Find the highest rate that holds."""
    one = family(search.family)
    misses = 1.1 * one.full_rate_rps
    holds, found = 0.0, None
    rate = one.full_rate_rps / 50
    while True:
        at_rate = _at(search, rate)
        if at_rate.warm_share >= IN_TIME:
            holds, found = rate, at_rate
        else:
            misses = rate
        if not holds or misses / holds <= search.precision:
            return Capacity(rate_rps=holds, at_rate=found)
        rate = (holds * misses) ** 0.5 if misses / holds < 2 else (holds + misses) / 2


def _at(search: Search, rate_rps: float) -> Measures:
    one = family(search.family)
    return measure(
        [
            simulate(
                one.scenario(
                    search.policy, seed=seed, duration_ns=search.duration_ns, rate_rps=rate_rps
                )
            )
            for seed in search.seeds
        ]
    )


def run(options: Options, pool: Pool, names: list[str]) -> tuple[list[Table], list[Chart]]:
    """Find the capacity of families under each policy."""
    policies = options.policies_or("default", "clockwork", "fcfs")
    seeds = tuple(options.seed_range(full=1))
    cases = [(name, policy) for name in names for policy in policies]
    found = dict(
        zip(
            cases,
            pool.map(
                find,
                [
                    Search(
                        family=name,
                        policy=policy,
                        seeds=seeds,
                        duration_ns=traffic_ns(family(name), options),
                        precision=1.05 if options.quick else _PRECISION,
                    )
                    for name, policy in cases
                ],
                what="SLO capacity",
            ),
            strict=True,
        )
    )
    table = Table(
        name="goals-capacity",
        title="SLO capacity: the highest rate with 99 % in time",
        columns=(
            "family", "policy", "requests/s", "of clockwork's", "of fcfs's",
            "least model %", "p10 model %", "broken", "probe", "probe, of clockwork's",
        ),
        rows=tuple((name, policy, *_cells(name, policy, found)) for name, policy in cases),
        notes=("To 1 % (--quick: 5 %). Probe: see cw/sim/experiments/reference.py.",),
    )  # fmt: skip
    return [table], [_chart(policies, names, found)]


def _cells(name: str, policy: str, found: dict[tuple[str, str], Capacity]) -> tuple[Cell, ...]:
    here = found[name, policy]

    def ratio(other: str) -> float | None:
        beside = found.get((name, other))
        return round(here.rate_rps / beside.rate_rps, 2) if beside and beside.rate_rps else None

    at_rate = here.at_rate
    probe = PROBE[name]
    of_probe = {
        "default": probe.capacity,
        "clockwork": probe.capacity_clockwork,
        "fcfs": probe.capacity_fcfs,
    }.get(policy)
    return (
        round(here.rate_rps),
        ratio("clockwork"),
        ratio("fcfs"),
        percent(at_rate.least_model_share) if at_rate else None,
        percent(at_rate.p10_model_share) if at_rate else None,
        at_rate.broken if at_rate else None,
        of_probe,
        round(of_probe / probe.capacity_clockwork, 2) if of_probe else None,
    )


def _chart(
    policies: tuple[str, ...], names: list[str], found: dict[tuple[str, str], Capacity]
) -> Chart:
    return Chart(
        name="goals-capacity",
        title="SLO capacity: the highest rate with 99 % in time",
        panel_inches=10,
        panels=(
            Panel(
                title="In parts of what full batches could do",
                x_label="family",
                y_label="load",
                ticks=tuple(names),
                series=policy_lines(
                    policies,
                    range(len(names)),
                    lambda policy, at: (
                        found[names[at], policy].rate_rps / family(names[at]).full_rate_rps
                    ),
                ),
            ),
        ),
    )
