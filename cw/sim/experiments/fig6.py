"""Figure 6: thousands of models on one GPU; what happens when they no longer fit?

Set-up (Clockwork, OSDI 2020, section 6.2): one V100, 3,601 copies of ResNet-50, SLO 100 ms. One
*minor* model gets 200 requests/s throughout. A *major* load of 1,000 requests/s is spread evenly
over the active models: one at first, and after 15 minutes one more each second, up to 3,600; the
whole takes 75 minutes. The GPU's memory holds 196 models (1,376 pages, 7 each).

Published: goodput, latency, cold starts, and the use of PCIe and GPU over time, as plots without
numbers. What follows from the durations: 1,200 requests/s are more than the GPU's 806 to 923, so
that not all could ever be served; late in the run nearly every request is cold, and 120 LOADs/s
are all that the link can do.

Ours deviates: time is compressed. ``--minutes`` says how long the whole takes (10 by default, 1
with --quick); a fifth of it passes before models are added, as in the paper.
"""

from typing import Final

from cw.sim.experiments.drawing import Timeline
from cw.sim.experiments.experiment import Options, Result, Table, percent
from cw.sim.experiments.families import paper_scenario
from cw.sim.experiments.measures import COLUMNS, NOTE, measure
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart
from cw.sim.report import Report
from cw.sim.scenario import Scenario
from cw.units import MS, SECOND
from cw.workload.arrivals import Poisson
from cw.workload.streams import Awakening, OpenLoop
from cw.workload.workload import Workload

SLO_NS: Final = 100 * MS
_MAJOR_MODELS: Final = 3_600
_MAJOR_RPS: Final = 1_000.0
_MINOR_RPS: Final = 200.0
_STEADY_SHARE: Final = 0.2
"""Of the time passes before models are added: 15 of 75 minutes."""
_FITTING: Final = 1_376 // 7


def scenario(policy: str, *, models: int, seed: int, duration_ns: int) -> Scenario:
    """Make the run: model 0 is the minor one."""
    steady_ns = round(_STEADY_SHARE * duration_ns)
    major = Awakening(
        models=tuple(range(1, models)),
        rate_rps=_MAJOR_RPS,
        slo_ns=SLO_NS,
        from_ns=steady_ns,
        every_ns=max(1, (duration_ns - steady_ns) // models),
    )
    minor = OpenLoop(arrivals=Poisson(rate_rps=_MINOR_RPS), models=(0,), slo_ns=SLO_NS)
    return paper_scenario(
        policy,
        models=models,
        workload=Workload(streams=(major, minor)),
        slo_ns=SLO_NS,
        seed=seed,
        duration_ns=duration_ns,
    )


def run(options: Options, pool: Pool) -> Result:
    """Run the figure."""
    policies = options.policies_or("default", "clockwork")
    minutes = options.minutes or 0.0
    duration_ns = options.duration_ns(full_s=60 * (minutes or 10), quick_s=60 * (minutes or 1))
    models = 1 + (_MAJOR_MODELS // 4 if options.quick else _MAJOR_MODELS)
    reports = pool.run(
        [scenario(policy, models=models, seed=1, duration_ns=duration_ns) for policy in policies],
        what="figure 6",
    )
    table = Table(
        name="fig6",
        title=f"Figure 6: {models:,} models on one V100",
        columns=(
            "policy", *COLUMNS, "minor model, in time %", "LOADs/s, last tenth",
            "link busy %, last tenth", "paper",
        ),
        rows=tuple(
            (policy, *measure([report]).cells(), percent(_minor_share(report)),
             *_last_tenth(report), "not in numbers")
            for policy, report in zip(policies, reports, strict=True)
        ),
        notes=(NOTE, "The bound knows of no LOADs: where the link binds, nobody can reach it."),
    )  # fmt: skip
    of_policy = dict(zip(policies, reports, strict=True))
    return Result(
        set_up=f"{duration_ns / SECOND / 60:g} minutes in place of 75, {models:,} models, seed 1",
        tables=(table,),
        charts=(_chart(of_policy, models, duration_ns),),
    )


def _minor_share(report: Report) -> float | None:
    return next((model.share for model in report.models if model.name == "model-0"), None)


def _last_tenth(report: Report) -> tuple[float, float | None]:
    series = report.series
    last = max(1, len(series.offered) // 10)
    cold = series.cold_starts[-last:]
    return round(sum(cold) / last, 1), percent(sum(series.load_utilisation[-last:]) / last)


def _chart(of_policy: dict[str, Report], models: int, duration_ns: int) -> Chart:
    begin_s = duration_ns / SECOND * _STEADY_SHARE
    growing_s = duration_ns / SECOND * (1 - _STEADY_SHARE)
    full_s = begin_s + growing_s * _FITTING / models
    return Chart(
        name="fig6",
        title=f"{models:,} copies of ResNet-50 on one V100, SLO 100 ms",
        columns=2,
        panels=Timeline(reports=of_policy).panels(
            leave_out=("refused",),
            marks=((begin_s, "models are added"), (full_s, "memory is full")),
        ),
    )
