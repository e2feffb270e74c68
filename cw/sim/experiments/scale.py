"""Scale: goodput by the number of GPUs, and how fast the scheduler itself decides.

Set-up (Clockwork, OSDI 2020, section 6.6): emulated workers, more and more of them, until the
controller limits.

Published: goodput grows almost in proportion up to 110 workers, where it is 103,387 requests/s (940
a worker), and the controller, through which all inputs and outputs pass, limits.

Ours: V100s with fifteen copies of ResNet-50 for each, offered 1,100 requests/s for each, SLO 100
ms; goodput in virtual time says how well the plan holds together as the cluster grows. The
scheduler's speed is measured apart (`cw.sim.speed`): it is real time on the machine at hand, on one
core, without I/O, and differs from run to run; --repeatable results should leave it out with
``--only gpus``.

``--only`` takes: gpus, speed.
"""

from typing import Final

import attrs

from cw.sim import speed
from cw.sim.experiments.drawing import policy_lines
from cw.sim.experiments.experiment import Options, Result, Table, percent
from cw.sim.experiments.families import family
from cw.sim.experiments.measures import COLUMNS, NOTE, Measures, measure
from cw.sim.experiments.pool import Pool
from cw.sim.experiments.reference import PAPER_SCALE_RPS, PAPER_SCALE_WORKERS
from cw.sim.plots import Chart, Panel, Series
from cw.sim.scenario import Scenario, equal_models
from cw.units import SECOND

_GPUS: Final = (1, 2, 4, 8, 16, 32, 64, 110)
_QUICK_GPUS: Final = (1, 4, 16)
_MODELS_EACH: Final = 15
_RPS_EACH: Final = 1_100.0
_QUICK_REQUESTS: Final = 4_000


def scenario(policy: str, gpus: int, *, duration_ns: int) -> Scenario:
    """Make one point."""
    one = attrs.evolve(family("v100"), models=equal_models(_MODELS_EACH * gpus), executors=gpus)
    rate = _RPS_EACH * gpus
    made = one.scenario(policy, seed=1, duration_ns=duration_ns, rate_rps=rate)
    return attrs.evolve(made, gateways=max(1, gpus // 16))


def run(options: Options, pool: Pool) -> Result:
    """Run both parts."""
    wanted = options.chosen(["gpus", "speed"])
    policies = options.policies_or("default", "clockwork")
    tables: list[Table] = []
    charts: list[Chart] = []
    duration_ns = options.duration_ns(full_s=3, quick_s=1)
    if "gpus" in wanted:
        counts = list(_QUICK_GPUS if options.quick else _GPUS)
        cases = [(policy, gpus) for gpus in counts for policy in policies]
        reports = pool.run(
            [scenario(policy, gpus, duration_ns=duration_ns) for policy, gpus in cases],
            what="scale",
        )
        found = {
            case: (measure([report]), report.utilisation)
            for case, report in zip(cases, reports, strict=True)
        }
        tables.append(_table(cases, found))
        charts.append(_chart(policies, counts, {case: one for case, (one, _) in found.items()}))
    if "speed" in wanted:
        tables.append(_speeds(options, pool))
    return Result(
        set_up=f"{duration_ns / SECOND:g} s of traffic, seed 1; speed in real time",
        tables=tuple(tables),
        charts=tuple(charts),
    )


def _table(
    cases: list[tuple[str, int]], found: dict[tuple[str, int], tuple[Measures, float]]
) -> Table:
    def paper(gpus: int) -> int | None:
        return PAPER_SCALE_RPS if gpus == PAPER_SCALE_WORKERS else None

    return Table(
        name="scale",
        title="Goodput by the number of V100s",
        columns=("GPUs", "policy", *COLUMNS, "goodput /s each", "busy %", "paper /s"),
        rows=tuple(
            (gpus, policy, *one.cells(), round(one.goodput_rps / gpus, 1), percent(busy),
             paper(gpus))
            for policy, gpus in cases
            for one, busy in (found[policy, gpus],)
        ),
        notes=(NOTE, "Paper: emulated workers, faster models, and the controller's I/O as limit."),
    )  # fmt: skip


def _speeds(options: Options, pool: Pool) -> Table:
    cases = list(speed.CASES)
    if options.quick:
        cases = [attrs.evolve(case, requests=_QUICK_REQUESTS) for case in cases[:2]]
    # One after the other: a neighbour on the machine's other core would be measured, too.
    measured = []
    for place, case in enumerate(cases):
        pool.progress("the scheduler's speed", place / len(cases))
        measured.append(speed.measure(case))
    pool.progress("the scheduler's speed", 1.0)
    return Table(
        name="scale-speed",
        title="The scheduler's speed: real time on this machine, one core, no I/O",
        columns=(
            "GPUs", "models", "profile", "requests/s offered", "batch", "us a request",
            "requests/s it decides", "us a decision",
        ),
        rows=tuple(
            (
                one.case.executors,
                one.case.models,
                one.case.profile,
                round(one.case.rate_rps * one.case.executors),
                round(one.counts.slots / max(1, one.counts.infers), 1),
                round(one.us_per_request, 1),
                round(1e6 / one.us_per_request),
                round(one.counts.inside_ns / 1e3 / max(1, one.counts.infers), 1),
            )
            for one in measured
        ),
        notes=(f"Paper: {PAPER_SCALE_RPS:,} requests/s at {PAPER_SCALE_WORKERS} workers, I/O and "
               "payloads included, on about 18 cores.",),
    )  # fmt: skip


def _chart(
    policies: tuple[str, ...], counts: list[int], found: dict[tuple[str, int], Measures]
) -> Chart:
    x = tuple(float(gpus) for gpus in counts)
    paper = Series(
        label=f"paper, {PAPER_SCALE_WORKERS} workers",
        x=(float(PAPER_SCALE_WORKERS),),
        y=(float(PAPER_SCALE_RPS),),
        points_only=True,
        colour=6,
    )
    limit = Series(
        label="bound",
        x=x,
        y=tuple(found[policies[0], gpus].bound_rps for gpus in counts),
        dashed=True,
    )
    return Chart(
        name="scale",
        title="Goodput by the number of GPUs, offered 1,100 requests/s each",
        columns=2,
        panels=(
            Panel(
                title="Goodput",
                x_label="V100s",
                y_label="answers in time per second",
                x_log=True,
                y_log=True,
                y_min=None,
                x_ticks=x,
                series=(
                    *policy_lines(
                        policies, x, lambda policy, at: found[policy, counts[at]].goodput_rps
                    ),
                    limit,
                    *([paper] if PAPER_SCALE_WORKERS in counts else []),
                ),
            ),
            Panel(
                title="Kept, of what is possible",
                x_label="V100s",
                y_label="% of the bound",
                x_log=True,
                x_ticks=x,
                y_max=104,
                series=policy_lines(
                    policies,
                    x,
                    lambda policy, at: 100 * found[policy, counts[at]].share_of_bound,
                ),
            ),
        ),
    )
