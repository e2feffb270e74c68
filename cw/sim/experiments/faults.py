"""Faults: which promises break when a GPU dies, and when durations are not what they were?

Set-up: two parts. Nothing is published on either: Clockwork has no failover.

*death*: six V100s, 60 models under bursts, SLO 100 ms, at 0.55 and 0.7 of what full batches could
do; halfway one executor dies for good. Its connection breaks at once (noticed after 2 ms), or it
falls silent (20 ms, as in the probe, where 2 to 33 promises broke). Only requests that were on it
may break.

*noise*: families under overload, with durations that scatter by 0.3, 3 or 10 % (normal), or take 5
ms longer once in 10,000, 1,000 or 100 actions; by the margin that the scheduler keeps before each
deadline. Of 10,000 requests so many had their promise broken, at that price in goodput.

``--only`` takes: death, noise.
"""

from typing import Final

import attrs

from cw.sim.experiments.experiment import Cell, Options, Result, Table, percent
from cw.sim.experiments.families import family
from cw.sim.experiments.measures import described, grouped, measure
from cw.sim.experiments.pool import Pool
from cw.sim.faults import Fault, FaultKind
from cw.sim.journal import RequestRecord
from cw.sim.plots import Chart, Panel, Series
from cw.sim.report import Report
from cw.sim.scenario import Scenario
from cw.sim.tally import End
from cw.sim.world import World
from cw.units import MS, SECOND

_LOADS: Final = (0.55, 0.7)
_DETECTIONS_NS: Final = (2 * MS, 20 * MS)
_DEAD: Final = "executor-0"
WINDOWS_MS: Final = ((-100, 0), (0, 100), (100, 300), (300, 1_000))
"""Around the death; from and to."""

FAMILIES: Final = ("v100", "v25", "h25", "h10")
_MARGINS_US: Final = (250, 500, 1_000, 2_000, 5_000)
_QUICK_MARGINS_US: Final = (500, 2_000)
DISTURBANCES: Final = (
    (0.003, 0.0),
    (0.003, 1e-4),
    (0.003, 1e-3),
    (0.003, 1e-2),
    (0.03, 1e-4),
    (0.1, 1e-4),
)
"""Noise (relative deviation), and how often an action takes 5 ms longer."""


@attrs.frozen(kw_only=True)
class Death:
    """What an executor's death did."""

    broken: int
    broken_elsewhere: int
    """Of these, those that had never been assigned to the dead executor."""
    in_time: tuple[float, ...]
    """Share in time of the requests that came in each of `WINDOWS_MS`."""
    before: float
    """Share in time of all that came earlier."""


def death_scenario(
    policy: str, *, load: float, detection_ns: int, seed: int, duration_ns: int
) -> Scenario:
    """Make a run in which executor 0 dies halfway."""
    one = family("six100")
    made = one.scenario(
        policy, seed=seed, duration_ns=duration_ns, rate_rps=load * one.full_rate_rps
    )
    fault = Fault(kind=FaultKind.DIE, at_ns=duration_ns // 2, on=0)
    return attrs.evolve(made, faults=(fault,), detection_ns=detection_ns)


def die(scenario: Scenario) -> Death:
    """Run a scenario with its one death, and look at each request."""
    world = World(scenario)
    journal = world.run()
    (fault,) = scenario.faults
    at_ns = world.begin_ns + fault.at_ns
    records = list(journal.requests.values())
    broken = [record for record in records if record.end is End.BROKEN]

    def share(from_ns: int, to_ns: int) -> float:
        came = [one for one in records if at_ns + from_ns <= one.arrival_ns < at_ns + to_ns]
        return sum(one.end is End.KEPT for one in came) / len(came) if came else 1.0

    return Death(
        broken=len(broken),
        broken_elsewhere=sum(not _was_on_it(record) for record in broken),
        in_time=tuple(share(first * MS, last * MS) for first, last in WINDOWS_MS),
        before=share(-fault.at_ns, 0),
    )


def _was_on_it(record: RequestRecord) -> bool:
    return _DEAD in record.executors


def run(options: Options, pool: Pool) -> Result:
    """Run both parts."""
    names = options.chosen(["death", "noise", *FAMILIES])
    tables: list[Table] = []
    charts: list[Chart] = []
    if "death" in names:
        tables.append(_deaths(options, pool))
    families = [name for name in names if name in FAMILIES]
    if "noise" in names or families:
        table, chart = _noise(options, pool, families or list(FAMILIES))
        tables.append(table)
        charts.append(chart)
    return Result(
        set_up=f"{described(options.seed_range(full=3))}; noise: overload of each family",
        tables=tuple(tables),
        charts=tuple(charts),
    )


def _deaths(options: Options, pool: Pool) -> Table:
    policies = options.policies_or("default", "clockwork")
    seeds = options.seed_range(full=3)
    duration_ns = options.duration_ns(full_s=6, quick_s=3)
    cases = [
        (load, detection_ns, policy, seed)
        for load in _LOADS
        for detection_ns in _DETECTIONS_NS
        for policy in policies
        for seed in seeds
    ]
    deaths = pool.map(
        die,
        [
            death_scenario(
                policy, load=load, detection_ns=detection_ns, seed=seed, duration_ns=duration_ns
            )
            for load, detection_ns, policy, seed in cases
        ],
        what="death",
    )
    windows = tuple(f"{first:+} to {last:+} ms" for first, last in WINDOWS_MS)
    return Table(
        name="faults-death",
        title="One of six executors dies: broken promises, and in time (%) around it",
        columns=(
            "load", "noticed after ms", "policy", "seed", "broken", "of these never on it",
            "before", *windows,
        ),
        rows=tuple(
            (load, detection_ns // MS, policy, seed, death.broken, death.broken_elsewhere,
             percent(death.before, 2), *(percent(share, 2) for share in death.in_time))
            for (load, detection_ns, policy, seed), death in zip(cases, deaths, strict=True)
        ),
        notes=(f"{duration_ns / SECOND:g} s; requests count in the instant of their arrival.",),
    )  # fmt: skip


@attrs.frozen
class _Case:
    family: str
    noise: float
    outliers: float
    margin_us: int
    policy: str

    def scenario(self, seed: int, duration_ns: int) -> Scenario:
        one = family(self.family)
        profile = attrs.evolve(
            one.profile, jitter_ratio=self.noise, outlier_probability=self.outliers
        )
        return attrs.evolve(one, profile=profile).scenario(
            self.policy, seed=seed, duration_ns=duration_ns, margin_ns=self.margin_us * 1_000
        )


def _noise(options: Options, pool: Pool, names: list[str]) -> tuple[Table, Chart]:
    policies = options.policies_or("default", "clockwork")
    seeds = options.seed_range(full=3)
    margins = _QUICK_MARGINS_US if options.quick else _MARGINS_US
    cases = [
        _Case(name, noise, outliers, margin_us, policy)
        for name in names
        for noise, outliers in DISTURBANCES
        for margin_us in margins
        # A margin of half the SLO leaves nothing to plan with.
        if 2 * margin_us * 1_000 < family(name).slo_ns
        for policy in policies
    ]
    reports = pool.run(
        [
            case.scenario(
                seed, options.duration_ns(full_s=5 if case.family[0] == "h" else 20, quick_s=1)
            )
            for case in cases
            for seed in seeds
        ],
        what="noise",
    )
    found = dict(zip(cases, grouped(reports, len(seeds)), strict=True))
    table = Table(
        name="faults-noise",
        title="Broken promises by noise, outliers (+5 ms) and margin, under overload",
        columns=(
            "family", "noise %", "outliers", "margin ms", "policy", "requests", "broken",
            "of 10,000", "goodput /s", "% of bound", "least model %", "p10 model %",
        ),
        rows=tuple(
            (case.family, percent(case.noise), case.outliers, case.margin_us / 1_000, case.policy,
             *_cells(list(found[case])))
            for case in cases
        ),
    )  # fmt: skip
    shown = [case for case in cases if case.policy == policies[0]]
    return table, _chart(names, shown, {case: list(found[case]) for case in shown})


def _cells(reports: list[Report]) -> tuple[Cell, ...]:
    one = measure(reports)
    return (
        one.requests,
        one.broken,
        round(1e4 * one.broken_share, 2),
        round(one.goodput_rps, 1),
        percent(one.share_of_bound),
        percent(one.least_model_share),
        percent(one.p10_model_share),
    )


def _chart(names: list[str], cases: list[_Case], found: dict[_Case, list[Report]]) -> Chart:
    def panel(name: str) -> Panel:
        lines = []
        for place, (noise, outliers) in enumerate(DISTURBANCES):
            own = [
                case
                for case in cases
                if (case.family, case.noise, case.outliers) == (name, noise, outliers)
            ]
            lines.append(
                Series(
                    label=f"noise {100 * noise:g} %, outliers {outliers:g}",
                    x=tuple(case.margin_us / 1_000 for case in own),
                    y=tuple(1e4 * measure(found[case]).broken_share for case in own),
                    colour=place,
                )
            )
        return Panel(
            title=name,
            x_label="margin before each deadline (ms)",
            y_label="broken promises of 10,000 requests",
            x_log=True,
            y_symlog=True,
            x_ticks=tuple(sorted({case.margin_us / 1_000 for case in cases})),
            series=tuple(lines),
        )

    return Chart(
        name="faults-noise",
        title=f"Broken promises under overload, policy {cases[0].policy}",
        columns=min(2, len(names)),
        panels=tuple(panel(name) for name in names),
    )
