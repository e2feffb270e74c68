"""Cells: what it costs to part the executors among several controllers.

Set-up: eight V100s with 120 copies of ResNet-50, SLO 100 ms, as one pool and as 2, 4 and 8 cells,
behind one gateway that chooses the cell of each request. ``even``: all models are asked for alike,
at a Poisson process's instants; ``skewed``: Zipf 0.9 and bursts. Load 1: all run nothing but full
batches.

Rules (`cw/core/cells.py`): ``spill`` is production's, a model's home unless that is the busier
cell; ``home`` never leaves it; ``least`` takes the least busy cell, whatever the model.

Nothing of this is published.

``--only`` takes the names of rules, and even or skewed.
"""

from collections.abc import Sequence
from typing import Final

import attrs

from cw.sim.cells import RULES
from cw.sim.experiments.experiment import Options, Result, Table
from cw.sim.experiments.families import family
from cw.sim.experiments.measures import COLUMNS, NOTE, Measures, described, grouped, measure
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart, Panel, Series
from cw.sim.scenario import Scenario, equal_models
from cw.units import SECOND
from cw.workload.arrivals import Uniform, Zipf

_EXECUTORS: Final = 8
_MODELS: Final = 120
_CELLS: Final = (2, 4, 8)
_LOADS: Final = (0.7, 1.2)
_DEMANDS: Final = ("even", "skewed")
_SKEW: Final = 0.9


@attrs.frozen
class _Case:
    demand: str
    load: float
    rule: str
    """Of no meaning for one pool, which each rule is compared with."""
    cells: int


def scenario(case: _Case, *, seed: int, duration_ns: int) -> Scenario:
    """Make one run."""
    one = attrs.evolve(
        family("v100"),
        models=equal_models(_MODELS),
        executors=_EXECUTORS,
        bursts=case.demand == "skewed",
        popularity=Zipf(exponent=_SKEW) if case.demand == "skewed" else Uniform(),
    )
    rate = case.load * one.full_rate_rps
    made = one.scenario("default", seed=seed, duration_ns=duration_ns, rate_rps=rate)
    return attrs.evolve(made, cells=case.cells, cell_rule=case.rule)


def run(options: Options, pool: Pool) -> Result:
    """Run all cases."""
    chosen = options.chosen([*RULES, *_DEMANDS])
    rules = [rule for rule in RULES if rule in chosen] or list(RULES)
    demands = [demand for demand in _DEMANDS if demand in chosen] or list(_DEMANDS)
    duration_ns = options.duration_ns(full_s=2, quick_s=1)
    seeds = options.seed_range(full=3)
    cases = [
        case
        for demand in demands
        for load in _LOADS
        for case in (
            _Case(demand, load, "spill", 1),
            *(_Case(demand, load, rule, cells) for rule in rules for cells in _CELLS),
        )
    ]
    reports = pool.run(
        [scenario(case, seed=seed, duration_ns=duration_ns) for case in cases for seed in seeds],
        what="cells",
    )
    groups = grouped(reports, len(seeds))
    found = {case: measure(group) for case, group in zip(cases, groups, strict=True)}
    return Result(
        set_up=f"{described(seeds)}; {duration_ns / SECOND:g} s of traffic",
        tables=(_table(found),),
        charts=(_chart(found, rules, demands),),
    )


def _table(found: dict[_Case, Measures]) -> Table:
    return Table(
        name="cells",
        title=f"{_EXECUTORS} V100s as one pool, and as cells",
        columns=("demand", "load", "cells", "rule", *COLUMNS),
        rows=tuple(
            (
                case.demand,
                case.load,
                case.cells,
                case.rule if case.cells > 1 else "one pool",
                *one.cells(),
            )
            for case, one in found.items()
        ),
        notes=(NOTE, "The bound is that of one pool, whatever the cells."),
    )


def _chart(found: dict[_Case, Measures], rules: Sequence[str], demands: Sequence[str]) -> Chart:
    def line(demand: str, load: float, rule: str) -> Series:
        cases = [_Case(demand, load, "spill", 1)]
        cases += [_Case(demand, load, rule, cells) for cells in _CELLS]
        return Series(
            label=rule,
            x=tuple(float(place) for place in range(len(cases))),
            y=tuple(100 * found[case].share_of_bound for case in cases),
        )

    return Chart(
        name="cells",
        title=f"{_EXECUTORS} V100s as one pool, and as cells",
        panels=tuple(
            Panel(
                title=f"{demand} demand, load {load:g}",
                x_label="cells",
                y_label="kept (% of the bound)",
                ticks=tuple(map(str, (1, *_CELLS))),
                series=tuple(line(demand, load, rule) for rule in rules),
            )
            for demand in demands
            for load in _LOADS
        ),
    )
