"""Figure 5: fifteen models share a GPU, at SLOs from 10 to 500 ms; who keeps to them?

Set-up (Clockwork, OSDI 2020, section 6.1): one V100, 15 copies of ResNet-50, 16 closed-loop clients
for each (240 requests open at any time), SLOs of 10, 25, 50, 100, 250 and 500 ms, 30 minutes each.
The paper compares with Clipper and INFaaS.

Published: Clockwork's latency stays under every SLO, with far more goodput than the others at tight
SLOs, which come close at loose ones only. The curves are not published in numbers. What the GPU
could do at most follows from its durations: 806 requests/s in batches of 8, 923 in batches of 16.

Ours deviates: seconds in place of minutes. `fcfs` stands for the baselines: it serves in the order
of arrival, in batches, and refuses nothing. A client that is refused waits for one SLO before it
asks again (an answer that comes after its deadline would have held it for as long): a server that
refuses at once would otherwise be asked without end. The bound is of what each policy was asked,
which in a closed loop depends on its answers.
"""

from collections.abc import Callable
from typing import Final

from cw.sim.experiments.drawing import policy_lines
from cw.sim.experiments.experiment import POLICIES, Cell, Options, Result, Table
from cw.sim.experiments.families import paper_scenario
from cw.sim.experiments.measures import COLUMNS, NOTE, Measures, described, grouped, measure
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart, Panel
from cw.sim.report import Report
from cw.sim.scenario import Scenario
from cw.units import MS, SECOND
from cw.workload.workload import ClosedLoop, Workload

SLOS_MS: Final = (10, 25, 50, 100, 250, 500)
_MODELS: Final = 15
_CLIENTS: Final = 16


def scenario(policy: str, slo_ms: int, *, seed: int, duration_ns: int) -> Scenario:
    """Make one point of the figure."""
    slo_ns = slo_ms * MS
    clients = ClosedLoop(
        models=tuple(range(_MODELS)), clients_per_model=_CLIENTS, slo_ns=slo_ns, retry_ns=slo_ns
    )
    return paper_scenario(
        policy,
        models=_MODELS,
        workload=Workload(closed=(clients,)),
        slo_ns=slo_ns,
        seed=seed,
        duration_ns=duration_ns,
    )


def run(options: Options, pool: Pool) -> Result:
    """Run the figure."""
    policies = options.policies_or(*POLICIES)
    slos_ms = [int(name) for name in options.chosen([str(slo_ms) for slo_ms in SLOS_MS])]
    seeds = options.seed_range(full=1)
    duration_ns = options.duration_ns(full_s=30, quick_s=3)
    reports = pool.run(
        [
            scenario(policy, slo_ms, seed=seed, duration_ns=duration_ns)
            for policy in policies
            for slo_ms in slos_ms
            for seed in seeds
        ],
        what="figure 5",
    )
    groups = grouped(reports, len(seeds))
    cases = [(policy, slo_ms) for policy in policies for slo_ms in slos_ms]
    measured = {case: (measure(group), group[0]) for case, group in zip(cases, groups, strict=True)}
    table = Table(
        name="fig5",
        title="Figure 5: 15 models, 16 closed-loop clients each, one V100",
        columns=("SLO ms", "policy", *COLUMNS, "p50 ms", "p99 ms", "max ms", "paper"),
        rows=tuple(
            (slo_ms, policy, *_cells(*measured[policy, slo_ms]))
            for slo_ms in slos_ms
            for policy in policies
        ),
        notes=(NOTE, "Latencies are those of kept answers (first seed)."),
    )
    return Result(
        set_up=f"{duration_ns / SECOND:g} s at each SLO, {described(seeds)} (paper: 30 min each)",
        tables=(table,),
        charts=(_chart(policies, slos_ms, measured),),
    )


def _cells(measures: Measures, report: Report) -> tuple[Cell, ...]:
    latency = report.latency_ms
    return (
        *measures.cells(),
        *(round(latency[key], 1) if latency else None for key in ("p50", "p99", "max")),
        "not in numbers",
    )


def _chart(
    policies: tuple[str, ...],
    slos_ms: list[int],
    measured: dict[tuple[str, int], tuple[Measures, Report]],
) -> Chart:
    x = tuple(float(slo_ms) for slo_ms in slos_ms)

    def panel(title: str, y_label: str, value: Callable[[Measures], float]) -> Panel:
        return Panel(
            title=title,
            x_label="SLO (ms)",
            y_label=y_label,
            x_log=True,
            x_ticks=x,
            series=policy_lines(
                policies, x, lambda policy, at: value(measured[policy, slos_ms[at]][0])
            ),
        )

    return Chart(
        name="fig5",
        title="15 copies of ResNet-50 on one V100, 240 closed-loop clients",
        columns=2,
        panels=(
            panel("Goodput", "answers in time per second", lambda one: one.goodput_rps),
            panel("In time, of what was asked", "in time (%)", lambda one: 100 * one.kept_share),
        ),
    )
