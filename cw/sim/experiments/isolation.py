"""Isolation: one tenant floods; what is left of the others?

Set-up: one V100, 15 copies of ResNet-50, each of a tenant of its own. Fourteen ask for 30
requests/s each (together about half of what the GPU can do, each within a fifteenth of it); the
fifteenth asks for 500 to 8,000 requests/s, up to ten times what the whole GPU could do. SLOs of 100
and 25 ms.

Nothing is published on this: Clockwork has no tenants. The probe (`reference.py`) kept 51 % of the
quiet tenants' requests in time at a flood of 500 and 3 % at 8,000 under Clockwork's policy; its own
policy with weighted shares kept 95-96 % at SLO 100 ms (100 % without a flood) and 77-81 % at 25 ms
(91 % without), at the price of a fifth of all goodput.

*Of without* is the quiet tenants' share in time by what they get when nobody floods.
"""

from typing import Final

import attrs

from cw.sim.experiments.drawing import policy_lines
from cw.sim.experiments.experiment import Cell, Options, Result, Table, percent
from cw.sim.experiments.families import NETWORK, probe_v100, settings
from cw.sim.experiments.measures import described, grouped
from cw.sim.experiments.pool import Pool
from cw.sim.plots import Chart, Panel
from cw.sim.report import Report
from cw.sim.scenario import Scenario, SimModel
from cw.units import MS, SECOND
from cw.workload.arrivals import Poisson
from cw.workload.streams import Flood, OpenLoop
from cw.workload.workload import Stream, Workload

SLOS_MS: Final = (100, 25)
FLOODS: Final = (0, 500, 1_000, 2_000, 4_000, 8_000)
_QUICK_FLOODS: Final = (0, 1_000, 8_000)
_QUIET: Final = 14
_QUIET_RPS: Final = 30.0


@attrs.frozen(kw_only=True)
class Isolated:
    """What a flood left of the others, over all seeds."""

    quiet_share: float
    least_quiet_share: float
    """Of any quiet tenant in any seed."""
    quiet_rps: float
    flooder_rps: float
    broken: int
    share_of_bound: float


def scenario(policy: str, *, slo_ms: int, flood_rps: int, seed: int, duration_ns: int) -> Scenario:
    """Make one point: tenants 1 to 14 are quiet, tenant 15 floods."""
    slo_ns = slo_ms * MS
    quiet = OpenLoop(
        arrivals=Poisson(rate_rps=_QUIET * _QUIET_RPS), models=tuple(range(_QUIET)), slo_ns=slo_ns
    )
    streams: list[Stream] = [quiet]
    if flood_rps:
        streams.append(Flood(models=(_QUIET,), rate_rps=flood_rps, slo_ns=slo_ns))
    return Scenario(
        profile=probe_v100(),
        models=tuple(SimModel(name=f"model-{at}", tenant=at + 1) for at in range(_QUIET + 1)),
        workload=Workload(streams=tuple(streams)),
        slo_ns=slo_ns,
        duration_ns=duration_ns,
        seed=seed,
        settings=settings(policy),
        network=NETWORK,
    )


def isolated(reports: list[Report]) -> Isolated:
    """Part the quiet tenants from the one that floods."""
    models = [model for report in reports for model in report.models]
    quiet = [model for model in models if model.tenant <= _QUIET]
    seconds = sum(report.sim_seconds for report in reports)
    kept = sum(model.kept for model in quiet)
    return Isolated(
        quiet_share=kept / max(1, sum(model.offered for model in quiet)),
        least_quiet_share=min((model.share for model in quiet), default=1.0),
        quiet_rps=kept / seconds,
        flooder_rps=sum(model.kept for model in models if model.tenant > _QUIET) / seconds,
        broken=sum(report.broken for report in reports),
        share_of_bound=sum(report.share_of_bound for report in reports) / len(reports),
    )


def run(options: Options, pool: Pool) -> Result:
    """Run all floods."""
    policies = options.policies_or("default", "clockwork")
    slos_ms = [int(name) for name in options.chosen([str(slo_ms) for slo_ms in SLOS_MS])]
    floods = _QUICK_FLOODS if options.quick else FLOODS
    seeds = options.seed_range(full=3)
    duration_ns = options.duration_ns(full_s=20, quick_s=2)
    cases = [
        (slo_ms, policy, flood) for slo_ms in slos_ms for policy in policies for flood in floods
    ]
    reports = pool.run(
        [
            scenario(policy, slo_ms=slo_ms, flood_rps=flood, seed=seed, duration_ns=duration_ns)
            for slo_ms, policy, flood in cases
            for seed in seeds
        ],
        what="isolation",
    )
    groups = grouped(reports, len(seeds))
    found = {case: isolated(list(group)) for case, group in zip(cases, groups, strict=True)}
    table = Table(
        name="isolation",
        title="One tenant floods, fourteen ask for 30 requests/s each; one V100",
        columns=(
            "SLO ms", "policy", "flood /s", "quiet, in time %", "of without %",
            "least quiet tenant %", "quiet goodput /s", "flooder's goodput /s", "goodput /s",
            "% of bound", "broken",
        ),
        rows=tuple(
            (*case, *_cells(found[case], found[case[0], case[1], 0])) for case in cases
        ),
    )  # fmt: skip
    return Result(
        set_up=f"{duration_ns / SECOND:g} s, {described(seeds)}",
        tables=(table,),
        charts=(_chart(policies, slos_ms, list(floods), found),),
    )


def _cells(one: Isolated, without: Isolated) -> tuple[Cell, ...]:
    return (
        percent(one.quiet_share, 2),
        percent(one.quiet_share / without.quiet_share if without.quiet_share else 1.0, 2),
        percent(one.least_quiet_share),
        round(one.quiet_rps, 1),
        round(one.flooder_rps, 1),
        round(one.quiet_rps + one.flooder_rps, 1),
        percent(one.share_of_bound),
        one.broken,
    )


def _chart(
    policies: tuple[str, ...],
    slos_ms: list[int],
    floods: list[int],
    found: dict[tuple[int, str, int], Isolated],
) -> Chart:
    def panel(slo_ms: int, title: str, y_label: str, attribute: str, factor: float) -> Panel:
        return Panel(
            title=f"{title}, SLO {slo_ms} ms",
            x_label="the flooder asks for (requests/s)",
            y_label=y_label,
            ticks=tuple(f"{flood:,}" for flood in floods),
            series=policy_lines(
                policies,
                range(len(floods)),
                lambda policy, at: factor * getattr(found[slo_ms, policy, floods[at]], attribute),
            ),
        )

    panels = []
    for slo_ms in slos_ms:
        panels += [
            panel(slo_ms, "Quiet tenants", "in time (%)", "quiet_share", 100),
            panel(slo_ms, "The flooder", "answers in time per second", "flooder_rps", 1),
        ]
    return Chart(
        name="isolation",
        title="One tenant floods, fourteen are quiet; one V100",
        columns=2,
        panels=tuple(panels),
    )
