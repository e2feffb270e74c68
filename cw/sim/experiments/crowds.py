"""Goals, part three: one model alone, many models on one GPU, many GPUs, and an uneven platform.

- *alone*: one model at 1.3 to 10 times what a V100 can do, SLOs of 25 and 100 ms. A policy that
  chases a lost head of the queue falls to half of the bound here.
- *many*: 4,000 models on one V100, of which 214 fit its memory; 500 requests/s, SLO 100 ms, alike
  and by Zipf's law with exponent 0.9. The link binds, and the bound does not know of it.
- *fleet*: 64 V100s and 1,000 models at 1.1 and 1.3 times what full batches could do, SLO 100 ms.
- *azure*: six V100s and 4,000 models under the synthetic `AzureLike` trace, SLOs of 100, 50 and 25
  ms, at 0.5 to 1.1 times what full batches could do. It is not the recorded trace.
"""

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from cw.sim.experiments.experiment import Cell, Options, Table, percent
from cw.sim.experiments.families import NETWORK, Family, family, probe_v100, settings
from cw.sim.experiments.measures import COLUMNS, NOTE, grouped, measure
from cw.sim.experiments.overload import verdict
from cw.sim.experiments.pool import Pool
from cw.sim.report import Report
from cw.sim.scenario import Scenario, equal_models
from cw.units import MS
from cw.workload.arrivals import Zipf
from cw.workload.rates import AzureLike, Piecewise
from cw.workload.workload import Workload

_FULL_RPS: Final = 765.0
"""Of one V100 in batches of 16."""


@attrs.frozen(kw_only=True)
class Crowd:
    """One row: a scenario by policy and seed, and its goals."""

    name: str
    make: Callable[[str, int, int], Scenario]
    """Given a policy, a seed and a duration (ns)."""
    full_s: float
    quick_s: float
    what: str = "% of bound"
    """Which measure the goals are about: that, ``goodput /s`` or ``in time %``."""
    floor: float | None = None
    stretch: float | None = None
    probe: Cell = None
    """The probe's own policy, then its Clockwork."""


def run(options: Options, pool: Pool, sections: list[str]) -> list[Table]:
    """Run sections of this part; a table for each."""
    return [_section(name, options, pool) for name in sections]


def _section(name: str, options: Options, pool: Pool) -> Table:
    policies = options.policies_or("default", "clockwork")
    seeds = options.seed_range(full=3)
    cases = [(crowd, policy) for crowd in SECTIONS[name]() for policy in policies]
    reports = pool.run(
        [
            crowd.make(policy, seed, options.duration_ns(crowd.full_s, crowd.quick_s))
            for crowd, policy in cases
            for seed in seeds
        ],
        what=name,
    )
    return Table(
        name=f"goals-{name}",
        title=_TITLES[name],
        columns=(
            "case", "policy", *COLUMNS, "busy %", "loading %", "LOADs/s",
            "goal is", "probe, its clockwork", "floor", "stretch", "reached",
        ),
        rows=tuple(
            (crowd.name, policy, *_cells(crowd, policy, group))
            for (crowd, policy), group in zip(cases, grouped(reports, len(seeds)), strict=True)
        ),
        notes=(NOTE,),
    )  # fmt: skip


def _cells(crowd: Crowd, policy: str, reports: Sequence[Report]) -> list[Cell]:
    measures = measure(reports)
    value = {
        "% of bound": 100 * measures.share_of_bound,
        "goodput /s": measures.goodput_rps,
        "in time %": 100 * measures.kept_share,
    }[crowd.what]
    has_goal = policy == "default" and crowd.floor is not None and crowd.stretch is not None
    count = len(reports)
    return [
        *measures.cells(),
        percent(sum(report.utilisation for report in reports) / count),
        percent(sum(report.load_utilisation for report in reports) / count),
        round(sum(report.loads / report.sim_seconds for report in reports) / count, 1),
        crowd.what,
        crowd.probe,
        crowd.floor if has_goal else None,
        crowd.stretch if has_goal else None,
        verdict(value, crowd.floor or 0, crowd.stretch or 0) if has_goal else "",
    ]


def _alone() -> list[Crowd]:
    def crowd(slo_ms: int, load: float) -> Crowd:
        one = attrs.evolve(family(f"v{slo_ms}"), models=equal_models(1))
        return Crowd(
            name=f"SLO {slo_ms} ms, {load:g} x",
            make=_at_rate(one, load * one.full_rate_rps),
            full_s=10,
            quick_s=2,
            probe="94.9-99.8, 92.9-99.6",
        )

    return [crowd(slo_ms, load) for slo_ms in (25, 100) for load in (1.3, 2, 5, 10)]


def _many() -> list[Crowd]:
    def crowd(name: str, one: Family, probe: str, goals: tuple[float, float] | None) -> Crowd:
        return Crowd(
            name=name,
            make=_at_rate(one, 500.0),
            full_s=60,
            quick_s=4,
            what="goodput /s",
            probe=probe,
            floor=goals[0] if goals else None,
            stretch=goals[1] if goals else None,
        )

    uniform = attrs.evolve(family("v100"), models=equal_models(4_000))
    zipf = attrs.evolve(uniform, popularity=Zipf(0.9))
    return [
        crowd("4,000, Zipf 0.9", zipf, "388, 353", (370.0, 388.0)),
        crowd("4,000, uniform", uniform, "152, 150", None),
    ]


def _fleet() -> list[Crowd]:
    one = attrs.evolve(family("v100"), models=equal_models(1_000), executors=64)
    return [
        Crowd(
            name=f"64 GPUs, load {load:g}",
            make=_at_rate(one, load * one.full_rate_rps),
            full_s=4,
            quick_s=0.5,
            probe=probe,
            floor=92.0,
            stretch=94.0,
        )
        for load, probe in ((1.1, "94.8, 94.4"), (1.3, "94.7, 93.5"))
    ]


def _azure() -> list[Crowd]:
    def crowd(slo_ms: int, load: float, probe: str) -> Crowd:
        def make(policy: str, seed: int, duration_ns: int) -> Scenario:
            models = 4_000
            stream = Piecewise(
                source=AzureLike(models=models, rate_rps=load * 6 * _FULL_RPS),
                models=tuple(range(models)),
                slo_ns=slo_ms * MS,
            )
            return Scenario(
                profile=probe_v100(),
                models=equal_models(models),
                workload=Workload(streams=(stream,)),
                executors=6,
                slo_ns=slo_ms * MS,
                duration_ns=duration_ns,
                seed=seed,
                settings=settings(policy),
                network=NETWORK,
            )

        light = slo_ms == 100 and load <= 0.7
        return Crowd(
            name=f"SLO {slo_ms} ms, load {load:g}",
            make=make,
            full_s=60,
            quick_s=2,
            what="in time %" if light else "% of bound",
            probe=probe,
            floor=99.9 if light else 98.0 if slo_ms == 100 else None,
            stretch=99.99 if light else 98.8 if slo_ms == 100 else None,
        )

    return [
        crowd(100, 0.5, "100, 100 % in time"),
        crowd(100, 0.7, "100, 99.99 % in time"),
        crowd(100, 1.0, "99.37, 99.41 % in time"),
        crowd(50, 0.8, "99.62, 99.72 % in time"),
        crowd(25, 0.8, "98.03, 98.51 % in time"),
    ]


def _at_rate(one: Family, rate_rps: float) -> Callable[[str, int, int], Scenario]:
    def make(policy: str, seed: int, duration_ns: int) -> Scenario:
        return one.scenario(policy, seed=seed, duration_ns=duration_ns, rate_rps=rate_rps)

    return make


SECTIONS: Final = {"alone": _alone, "many": _many, "fleet": _fleet, "azure": _azure}
_TITLES: Final = {
    "alone": "One model, at a multiple of what the GPU can do",
    "many": "One V100, 4,000 models (214 fit), 500 requests/s, SLO 100 ms",
    "fleet": "64 V100s, 1,000 models, SLO 100 ms",
    "azure": "Six V100s, 4,000 models, an Azure-like synthetic trace",
}
