"""Sizing: how many GPUs does this traffic need, how far may it grow, and what gives way first?

Bounds come first (`sizing_bounds.py`), since no simulation is needed below them; then simulations
of the scheduler of production (`runner.simulate`) search upwards. What gives way is found by
experiment: just past the head-room one resource at a time is made twice as good, and the one that
brings most requests back in time is the one that was short. Utilisations and refusals are told
beside it.

It must not know: files, options, or how it is shown. Neighbours: `sizing_models.py` and
`sizing_traffic.py` (what is asked), `sizing_search.py` (in which order), `sizing_show.py`.
"""

from collections.abc import Callable, Sequence
from typing import Final

import attrs

from cw.config import SchedulerSettings
from cw.errors import ConfigError
from cw.sim.experiments.pool import Pool
from cw.sim.network import NetworkModel
from cw.sim.scenario import Scenario
from cw.sim.sizing_bounds import Bounds, bounds_of, check_reachable
from cw.sim.sizing_cases import Case, Measured, Resource, relieve, sum_up
from cw.sim.sizing_models import Fleet
from cw.sim.sizing_search import largest_factor, smallest
from cw.sim.sizing_traffic import Stretch
from cw.units import format_ms
from cw.workload.workload import Workload

SLO_FACTORS: Final = (0.5, 1.0, 2.0)
"""How tight it could be, for the table."""
_PLATEAU_RATIO: Final = 0.05
"""More GPUs that win back less than this part of what is missed will not reach the target."""
_ALIKE: Final = 0.0005
"""Reliefs that differ by less of all requests are as good as each other."""


@attrs.frozen(kw_only=True)
class Question:
    """What is to be planned."""

    fleet: Fleet
    stretch: Stretch
    slo_ns: int
    target: float
    seeds: tuple[int, ...]
    settings: SchedulerSettings = attrs.field(factory=SchedulerSettings)
    network: NetworkModel = attrs.field(factory=NetworkModel)
    gpus_max: int = 1024
    precision: float = 1.02
    """Of the head-room."""
    tighter: bool = True
    """Whether to simulate other SLOs, too."""


@attrs.frozen(kw_only=True)
class Bottleneck:
    """What gives way first when the traffic grows."""

    resource: Resource
    under: Measured
    """The load at which it does."""
    relieved: tuple[Measured, ...]
    """The same with twice of each resource."""
    evidence: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Plan:
    """The answer."""

    gpus: int
    at: Measured
    """With so many."""
    headroom: float
    """The factor by which the traffic may grow before the target is missed."""
    bottleneck: Bottleneck
    bounds: Bounds
    by_gpus: tuple[Measured, ...]
    """All numbers of GPUs that were tried, ascending; likewise the next."""
    by_growth: tuple[Measured, ...]
    by_slo: tuple[Measured, ...]
    """One GPU fewer, so many, one more; by SLO. Empty where it was not asked for."""
    notes: tuple[str, ...]


def make_plan(
    question: Question, pool: Pool, told: Callable[[Measured, bool], None] | None = None
) -> Plan:
    """Find the smallest number of GPUs, the head-room, and what gives way first.

    Args:
        question: What is asked.
        pool: Runs the simulations.
        told: Of each result as it comes, and whether it reaches the target.

    Raises:
        ConfigError: No number of GPUs reaches the target; says why.
        InvariantBroken: Something happened in a run that must never happen.
    """
    return _Planner(question, pool, told).plan()


@attrs.define(eq=False)
class _Planner:
    question: Question
    pool: Pool
    told: Callable[[Measured, bool], None] | None
    _known: dict[Case, Measured] = attrs.field(factory=dict)

    def plan(self) -> Plan:
        question = self.question
        traffic, lead_s = question.stretch.traffics[0], question.stretch.lead_s
        notes = check_reachable(
            question.fleet,
            traffic,
            target=question.target,
            network=question.network,
            settings=question.settings,
        )
        self.pool.progress("bounds", 0.0)
        bounds = bounds_of(
            question.fleet,
            traffic,
            lead_s=lead_s,
            target=question.target,
            network=question.network,
        )
        self.pool.progress("bounds", 1.0)
        gpus = self._fewest(bounds.least)
        beside = [Case(gpus=gpus + 1), *([Case(gpus=gpus - 1)] if gpus > 1 else [])]
        more, *_ = self._measure(beside, what="one GPU more, one fewer")
        if not self._reaches(more):
            notes.append(
                f"{gpus + 1} GPUs do worse than {gpus} ({_percent(more)}): the target is within "
                "the noise; take more seeds (--seeds) or a longer stretch (--window)"
            )
        at = self._known[Case(gpus=gpus)]
        spare = (1 - question.target) * at.requests
        if 0 < question.target < 1 and spare < 10:
            notes.append(
                f"the target leaves {spare:.1f} of {at.requests} requests to be missed: too few to "
                "tell it from chance; take more seeds (--seeds) or a longer stretch (--window)"
            )
        headroom, past = largest_factor(
            lambda factors: self._hold(
                [Case(gpus=gpus, growth=factor) for factor in factors], what="head-room"
            ),
            precision=question.precision,
        )
        bottleneck = self._bottleneck(gpus, past or headroom, bounds)
        by_slo = self._by_slo(gpus) if question.tighter else ()
        return Plan(
            gpus=gpus,
            at=at,
            headroom=headroom,
            bottleneck=bottleneck,
            bounds=bounds,
            by_gpus=self._tried(lambda case: case == Case(gpus=case.gpus)),
            by_growth=self._tried(lambda case: case == Case(gpus=gpus, growth=case.growth)),
            by_slo=by_slo,
            notes=tuple(notes),
        )

    # --- the number -------------------------------------------------------------------------------

    def _fewest(self, first: int) -> int:
        question = self.question
        most = question.gpus_max
        gpus = smallest(self._hold_on, first=min(first, most), last=most)
        if gpus is None:
            raise ConfigError(
                f"expected {100 * question.target:g} % in time with at most {most} GPUs "
                f"(--gpus-max); arithmetic says at least {first}, and {self._best_so_far()} "
                "Give requests more time (--slo), lower the target, or allow more GPUs"
            )
        # No schedule could do with fewer than the bound: looked at all the same, as a check.
        while gpus > 1 and self._hold([Case(gpus=gpus - 1)], what="one GPU fewer")[0]:
            gpus -= 1
        return gpus

    def _hold_on(self, numbers: Sequence[int]) -> list[bool]:
        """Say which numbers of GPUs hold; raise where more of them would not help."""
        question = self.question
        before = self._tried(lambda case: case.relieved is None)
        held = self._hold([Case(gpus=number) for number in numbers], what="number of GPUs")
        last = self._known[Case(gpus=numbers[-1])]
        if any(held) or len(before) < 4:
            return held
        missing = 1 - before[-1].attainment
        if before[-1].attainment + _PLATEAU_RATIO * missing > last.attainment:
            raise ConfigError(
                f"no number of GPUs reaches {100 * question.target:g} %: {_percent(before[-1])} "
                f"are in time with {before[-1].case.gpus} GPUs and {_percent(last)} with "
                f"{last.case.gpus}. {self._best_so_far()} Give requests more time (--slo), lower "
                "the target, or take a faster device (--profile)"
            )
        return held

    def _best_so_far(self) -> str:
        best = self._tried(lambda case: case.relieved is None)[-1]
        missed = best.requests - best.kept
        load_ns = self.question.fleet.slowest_load_ns()
        return (
            f"with {best.case.gpus} GPUs {missed} of {best.requests} requests were missed: "
            f"{best.cold} refused as cold (a LOAD takes up to {format_ms(load_ns)}), "
            f"{best.refused - best.cold} refused for other reasons, {best.broken} promises broken; "
            f"worst off: {', '.join(best.worst_models)}."
        )

    # --- what gives way ---------------------------------------------------------------------------

    def _bottleneck(self, gpus: int, growth: float, bounds: Bounds) -> Bottleneck:
        under = self._measure([Case(gpus=gpus, growth=growth)], what="head-room")[0]
        relieved = self._measure(
            [Case(gpus=gpus, growth=growth, relieved=resource) for resource in Resource],
            what="what gives way",
        )
        best = max(measured.attainment for measured in relieved)
        helping = [each for each in relieved if best - each.attainment <= _ALIKE]
        busy = {
            Resource.COMPUTE: under.busiest_second,
            Resource.PCIE: under.busiest_load_second,
            # Cold refusals are what a lack of pages looks like; it is no lane that is busy.
            Resource.MEMORY: under.cold / max(1, under.refused),
        }
        first = max(helping, key=lambda each: busy[_relieved(each)])
        held = gpus * self.question.fleet.profile.pages_total
        evidence = (
            f"at {growth:.2f} times the load {_percent(under)} are in time; with "
            + ", ".join(f"twice the {_relieved(each).value} {_percent(each)}" for each in relieved),
            f"INFER lanes are busy {100 * under.utilisation:.0f} % of the time "
            f"({100 * under.busiest_second:.0f} % in the busiest second), links "
            f"{100 * under.load_utilisation:.0f} % "
            f"({100 * under.busiest_load_second:.0f} %), with {under.loads} LOADs",
            f"of {under.requests - under.kept} requests missed, {under.cold} were refused as cold, "
            f"{under.refused - under.cold} for overload or another reason, {under.broken} were "
            "promised and broken",
            f"models asked for hold {bounds.pages_asked} pages, the GPUs {held}: "
            + ("all can be resident" if bounds.pages_asked <= held else "they have to be swapped"),
        )
        return Bottleneck(
            resource=_relieved(first), under=under, relieved=tuple(relieved), evidence=evidence
        )

    def _by_slo(self, gpus: int) -> tuple[Measured, ...]:
        cases = [
            Case(gpus=number, slo_factor=factor)
            for factor in SLO_FACTORS
            for number in (gpus - 1, gpus, gpus + 1)
            if number
        ]
        return tuple(self._measure(cases, what="other SLOs"))

    # --- simulating -------------------------------------------------------------------------------

    def _hold(self, cases: Sequence[Case], *, what: str) -> list[bool]:
        return [self._reaches(measured) for measured in self._measure(cases, what=what)]

    def _reaches(self, measured: Measured) -> bool:
        return measured.kept >= self.question.target * measured.requests

    def _tried(self, wanted: Callable[[Case], bool]) -> tuple[Measured, ...]:
        found = [measured for case, measured in self._known.items() if wanted(case)]
        return tuple(sorted(found, key=lambda each: (each.case.gpus, each.case.growth)))

    def _measure(self, cases: Sequence[Case], *, what: str) -> list[Measured]:
        """Simulate the cases that are not known, with all seeds, side by side."""
        question = self.question
        new = [case for case in cases if case not in self._known]
        seeds = list(enumerate(question.seeds))
        reports = self.pool.run(
            [self._scenario(case, seed, place) for case in new for place, seed in seeds],
            what=f"{what}: {'; '.join(map(str, new))}",
        )
        for number, case in enumerate(new):
            of_case = reports[number * len(seeds) : (number + 1) * len(seeds)]
            self._known[case] = measured = sum_up(case, of_case, lead_s=question.stretch.lead_s)
            if self.told is not None:
                self.told(measured, self._reaches(measured))
        return [self._known[case] for case in cases]

    def _scenario(self, case: Case, seed: int, place: int) -> Scenario:
        question, fleet = self.question, self.question.fleet
        traffics = question.stretch.traffics
        traffic = traffics[min(place, len(traffics) - 1)]
        slos_ns = tuple(round(slo_ns * case.slo_factor) for slo_ns in traffic.slos_ns)
        profile, models = fleet.profile, fleet.models
        if case.relieved is not None:
            profile, models = relieve(profile, models, case.relieved)
        return Scenario(
            profile=profile,
            models=models,
            workload=Workload(
                streams=(attrs.evolve(traffic, slos_ns=slos_ns, growth=case.growth),)
            ),
            executors=case.gpus,
            slo_ns=round(question.slo_ns * case.slo_factor),
            duration_ns=traffic.duration_ns,
            seed=seed,
            settings=question.settings,
            network=question.network,
        )


def _relieved(measured: Measured) -> Resource:
    assert measured.case.relieved is not None
    return measured.case.relieved


def _percent(measured: Measured) -> str:
    return f"{100 * measured.attainment:.3f} %"
