"""Mixed: cheap and costly models together; who is served, and what is it worth?

Counting requests favours cheap models: a policy that only counts serves 98 % of what is possible
and the costliest models nothing. Here 20 shapes of models, three of each, share one GPU with a
V100's batching curve: a batch of one takes 0.5 to 30 ms, weights are 5 to 500 MB, SLO 100 ms. Each
model asks for the same GPU time (at its cheapest batch size that meets the SLO); load 1 is what
full batches of all could just do.

Nothing is published on this set-up. The probe (`reference.py`) had, in per cent of the bound and
least, p10 and median model: at load 1 Clockwork 71 | 0, 37, 51, its own policy 98 | 0, 0, 64, with
strict shares 69 | 25, 33, 58; at load 0.7 Clockwork 85 | 40, 50, 76, its own 99 | 0, 8, 97, with
shares 88 | 25, 52, 83.

*Alone* is the same model with the same requests and the GPU to itself. ``--policies`` takes
settings, such as ``default:objective=gpu_time``.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from cw.config import SchedulerSettings
from cw.sim.experiments.experiment import Cell, Options, Result, Table, percent
from cw.sim.experiments.families import (
    MIX_COPIES,
    SHAPES,
    Family,
    family,
    shape_of,
)
from cw.sim.experiments.measures import COLUMNS, NOTE, described, grouped, measure
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart, Panel, Series
from cw.sim.report import Report
from cw.sim.scenario import Scenario
from cw.units import MS
from cw.workload.workload import Call, Stream, Workload

LOADS: Final = (0.7, 1.0)
_OBJECTIVES: Final = ("requests", "gpu_time")


@attrs.frozen(kw_only=True)
class OnlyOf:
    """The requests that a stream has for one model, at the instants at which they come."""

    stream: Stream
    model: int

    def calls(self, *, seed: int, duration_ns: int) -> Iterator[Call]:
        """See `cw.workload.workload.Stream`; the model is then the only one, and has index 0."""
        return (
            Call(call.instant_ns, 0, call.slo_ns)
            for call in self.stream.calls(seed=seed, duration_ns=duration_ns)
            if call.model == self.model
        )


def default_policies() -> tuple[str, ...]:
    """Give the policies to compare: the default one under each of its objectives."""
    has_objective = any(field.name == "objective" for field in attrs.fields(SchedulerSettings))
    own = [f"default:objective={name}" for name in _OBJECTIVES] if has_objective else ["default"]
    return (*own, "clockwork")


def alone(scenario: Scenario, model: int) -> Scenario:
    """Give a model of a scenario the same requests, and the device to itself."""
    (stream,) = scenario.workload.streams
    return attrs.evolve(
        scenario,
        models=(scenario.models[model],),
        workload=Workload(streams=(OnlyOf(stream=stream, model=model),)),
    )


def run(options: Options, pool: Pool) -> Result:
    """Run all loads under all policies, and one model of each shape alone."""
    policies = options.policies or default_policies()
    one = family("mix100")
    loads = [float(name) for name in options.chosen([f"{load:g}" for load in LOADS])]
    seeds = options.seed_range(full=3)
    duration_ns = options.duration_ns(full_s=60, quick_s=4)
    cases = [(load, policy) for load in loads for policy in policies]

    def scenario(load: float, policy: str, seed: int) -> Scenario:
        rate = load * one.full_rate_rps
        return one.scenario(policy, seed=seed, duration_ns=duration_ns, rate_rps=rate)

    together = [scenario(load, policy, seed) for load, policy in cases for seed in seeds]
    shapes = range(0, len(one.models), MIX_COPIES)
    apart = [alone(scenario(load, policies[0], 1), model) for load in loads for model in shapes]
    reports = pool.run([*together, *apart], what="mixed shapes")
    found = dict(zip(cases, grouped(reports[: len(together)], len(seeds)), strict=True))
    by_load = grouped(reports[len(together) :], len(shapes))
    lonely = {
        load: [report.kept / report.requests if report.requests else math.nan for report in group]
        for load, group in zip(loads, by_load, strict=True)
    }
    table = Table(
        name="mixed",
        title="Mixed shapes: 60 models of 20 shapes on one GPU, SLO 100 ms",
        columns=(
            "load", "policy", *COLUMNS, "worst, of alone %", "shapes under 80 % of alone",
            "GPU busy %",
        ),
        rows=tuple(
            (load, policy, *measure(found[load, policy]).cells(),
             *_beside_alone(found[load, policy], lonely[load]))
            for load, policy in cases
        ),
        notes=(NOTE, "Of alone: a shape's share in time by what it gets with the GPU to itself."),
    )  # fmt: skip
    return Result(
        set_up=f"{described(seeds)}, each model asks for equal GPU time; load 1 is "
        f"{one.full_rate_rps:.0f} requests/s",
        tables=(table, _shapes_table(one, cases, found, lonely)),
        charts=(_chart(one, policies, loads, found, lonely),),
    )


def shape_shares(reports: Sequence[Report]) -> list[float]:
    """Give each shape's share in time over its copies and all seeds, the cheapest first.

    NaN where nothing was asked of a shape.
    """
    offered, kept = [0] * SHAPES, [0] * SHAPES
    for report in reports:
        for model in report.models:
            shape = shape_of(model.name)
            offered[shape] += model.offered
            kept[shape] += model.kept
    return [got / asked if asked else math.nan for asked, got in zip(offered, kept, strict=True)]


def _beside_alone(reports: Sequence[Report], lonely: list[float]) -> tuple[Cell, Cell, Cell]:
    pairs = zip(shape_shares(reports), lonely, strict=True)
    ratios = [share / lone for share, lone in pairs if lone > 0 and not math.isnan(share)]
    busy = sum(report.utilisation for report in reports) / len(reports)
    worst = min(ratios, default=1.0)
    return percent(worst), sum(ratio < 0.8 for ratio in ratios), percent(busy)


def _shapes_table(
    one: Family,
    cases: list[tuple[float, str]],
    found: dict[tuple[float, str], Sequence[Report]],
    lonely: dict[float, list[float]],
) -> Table:
    shares = {case: shape_shares(found[case]) for case in cases}
    loads = list(lonely)
    rows: list[tuple[Cell, ...]] = []
    for shape in range(len(one.models) // MIX_COPIES):
        model = one.models[shape * MIX_COPIES]
        assert model.durations is not None
        rows.append(
            (
                shape,
                round(model.durations.durations_ns[0] / MS, 2),
                round(model.image_bytes / 1e6),
                *(percent(lonely[load][shape]) for load in loads),
                *(percent(shares[case][shape]) for case in cases),
            )
        )
    return Table(
        name="mixed-shapes",
        title="Share in time by shape (%)",
        columns=(
            "shape", "batch of 1, ms", "MB", *(f"alone at {load:g}" for load in loads),
            *(f"{load:g} {policy}" for load, policy in cases),
        ),
        rows=tuple(rows),
    )  # fmt: skip


def _chart(
    one: Family,
    policies: tuple[str, ...],
    loads: list[float],
    found: dict[tuple[float, str], Sequence[Report]],
    lonely: dict[float, list[float]],
) -> Chart:
    costs_ms = [
        model.durations.durations_ns[0] / MS
        for model in one.models[::MIX_COPIES]
        if model.durations is not None
    ]

    def line(label: str, shares: list[float], *, dashed: bool = False) -> Series:
        y = tuple(100 * share for share in shares)
        return Series(label=label, x=tuple(costs_ms[: len(y)]), y=y, dashed=dashed)

    return Chart(
        name="mixed",
        title="Who is served when cheap and costly models share a GPU?",
        columns=len(loads),
        panels=tuple(
            Panel(
                title=f"Load {load:g}",
                x_label="a batch of one takes (ms)",
                y_label="in time (%)",
                x_log=True,
                x_ticks=(0.5, 1, 2, 5, 10, 20, 30),
                y_max=104,
                series=(
                    *(line(policy, shape_shares(found[load, policy])) for policy in policies),
                    line("alone", lonely[load], dashed=True),
                ),
            )
            for load in loads
        ),
    )
