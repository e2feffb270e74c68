"""Figure 8: do batch clients hurt latency-sensitive ones?

Set-up (Clockwork, OSDI 2020, section 6.4): as figure 7, six V100s. Six latency-sensitive models
with 200 requests/s each (Poisson) and an SLO that grows in steps; beside them M batch models with C
closed-loop clients each and an SLO of 24 hours: none, 12 with 16 clients, 48 with 4.

Published: satisfaction of the latency-sensitive models is kept while batch work fills the idle
time; the curves are not published in numbers. (The artifact's text and its workload disagree on
whether the 200 requests/s are of each model or of all.)

Ours deviates: each step is a run of its own; a client that is refused waits for 1 ms.
"""

from typing import Final

from cw.sim.experiments.drawing import policy_lines
from cw.sim.experiments.experiment import Cell, Options, Result, Table, percent
from cw.sim.experiments.families import paper_scenario
from cw.sim.experiments.fig7 import EXECUTORS, MARGIN_NS, NETWORK, slo_steps_ns
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart, Panel
from cw.sim.report import Report
from cw.sim.scenario import Scenario
from cw.units import MS, SECOND
from cw.workload.arrivals import Poisson
from cw.workload.streams import OpenLoop
from cw.workload.workload import ClosedLoop, Workload

_SENSITIVE: Final = 6
_RATE_RPS: Final = 200.0
_BATCH_SLO_NS: Final = 24 * 3600 * SECOND
MIXES: Final = {"0x0": (0, 0), "12x16": (12, 16), "48x4": (48, 4)}
"""Batch models and clients of each."""


def scenario(policy: str, mix: str, *, slo_ns: int, seed: int, duration_ns: int) -> Scenario:
    """Make one step: the first six models are the latency-sensitive ones."""
    models, clients = MIXES[mix]
    stream = OpenLoop(
        arrivals=Poisson(rate_rps=_RATE_RPS * _SENSITIVE),
        models=tuple(range(_SENSITIVE)),
        slo_ns=slo_ns,
    )
    batch = ClosedLoop(
        models=tuple(range(_SENSITIVE, _SENSITIVE + models)),
        clients_per_model=clients,
        slo_ns=_BATCH_SLO_NS,
    ) if models else None  # fmt: skip
    return paper_scenario(
        policy,
        models=_SENSITIVE + models,
        workload=Workload(streams=(stream,), closed=(batch,) if batch else ()),
        slo_ns=slo_ns,
        seed=seed,
        duration_ns=duration_ns,
        executors=EXECUTORS,
        network=NETWORK,
        margin_ns=MARGIN_NS,
    )


def run(options: Options, pool: Pool) -> Result:
    """Run the figure."""
    policies = options.policies_or("default", "clockwork")
    slos_ns = slo_steps_ns()[2 :: 3 if options.quick else 1]
    mixes = options.chosen(list(MIXES))
    duration_ns = options.duration_ns(full_s=10, quick_s=1)
    cases = [(policy, mix, slo_ns) for mix in mixes for policy in policies for slo_ns in slos_ns]
    reports = pool.run(
        [
            scenario(policy, mix, slo_ns=slo_ns, seed=1, duration_ns=duration_ns)
            for policy, mix, slo_ns in cases
        ],
        what="figure 8",
    )
    found = dict(zip(cases, reports, strict=True))
    table = Table(
        name="fig8",
        title="Figure 8: latency-sensitive models beside batch clients, six V100s",
        columns=(
            "batch models x clients", "policy", "SLO ms", "sensitive, in time %",
            "least sensitive model %", "batch answers/s", "broken", "GPUs busy %", "paper",
        ),
        rows=tuple(
            (mix, policy, round(slo_ns / MS, 1), *_cells(found[policy, mix, slo_ns]))
            for policy, mix, slo_ns in cases
        ),
    )  # fmt: skip
    return Result(
        set_up=f"{duration_ns / SECOND:g} s a step, seed 1 (paper: 30 s a step)",
        tables=(table,),
        charts=(_chart(policies, mixes, slos_ns, found),),
    )


def sensitive_share(report: Report) -> float:
    """Give the latency-sensitive models' share in time."""
    models = report.models[:_SENSITIVE]
    offered = sum(model.offered for model in models)
    return sum(model.kept for model in models) / offered if offered else 1.0


def _batch_rps(report: Report) -> float:
    return sum(model.kept for model in report.models[_SENSITIVE:]) / report.sim_seconds


def _cells(report: Report) -> tuple[Cell, ...]:
    return (
        percent(sensitive_share(report), 2),
        percent(min(model.share for model in report.models[:_SENSITIVE])),
        round(_batch_rps(report), 1),
        report.broken,
        percent(report.utilisation),
        "not in numbers",
    )


def _chart(
    policies: tuple[str, ...],
    mixes: list[str],
    slos_ns: list[int],
    found: dict[tuple[str, str, int], Report],
) -> Chart:
    x = tuple(slo_ns / MS for slo_ns in slos_ns)

    def sensitive(mix: str) -> Panel:
        return Panel(
            title="No batch clients" if mix == "0x0" else f"Beside {mix} batch clients",
            x_label="SLO of the latency-sensitive models (ms)",
            y_label="latency-sensitive, in time (%)",
            x_log=True,
            x_ticks=(10, 30, 100, 250),
            y_max=104,
            series=policy_lines(
                policies,
                x,
                lambda policy, at: 100 * sensitive_share(found[policy, mix, slos_ns[at]]),
            ),
        )

    def batch(mix: str) -> Panel:
        return Panel(
            title=f"What {mix} batch clients get",
            x_label="SLO of the latency-sensitive models (ms)",
            y_label="batch answers per second",
            x_log=True,
            x_ticks=(10, 30, 100, 250),
            series=policy_lines(
                policies, x, lambda policy, at: _batch_rps(found[policy, mix, slos_ns[at]])
            ),
        )

    panels = [sensitive(mix) for mix in mixes] + [batch(mix) for mix in mixes if mix != "0x0"]
    return Chart(
        name="fig8",
        title="Latency-sensitive models beside batch clients, six V100s",
        columns=min(3, len(mixes)),
        panels=tuple(panels),
    )
