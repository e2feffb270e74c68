"""Cases: one cluster under one load, and what the simulations of it come to.

It must not know: in which order they are tried. Neighbours: `sizing.py` asks for them.
"""

import enum
from collections import Counter
from collections.abc import Sequence
from types import MappingProxyType
from typing import Final

import attrs

from cw.devices.profile_file import BatchDurations, EmulationProfile
from cw.sim.report import Report
from cw.sim.scenario import SimModel

_NAMED_MAX: Final = 5


class Resource(enum.Enum):
    """What a GPU may be short of."""

    COMPUTE = "compute"
    PCIE = "PCIe"
    MEMORY = "memory"


@attrs.frozen(kw_only=True)
class Case:
    """One cluster under one load."""

    gpus: int
    growth: float = 1.0
    slo_factor: float = 1.0
    relieved: Resource | None = None
    """Of which each GPU has twice as much."""

    def __str__(self) -> str:
        """Say what is simulated."""
        parts = [f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}"]
        if self.growth != 1:
            parts.append(f"load x {self.growth:.3g}")
        if self.slo_factor != 1:
            parts.append(f"SLO x {self.slo_factor:g}")
        if self.relieved is not None:
            parts.append(f"twice the {self.relieved.value}")
        return ", ".join(parts)


@attrs.frozen(kw_only=True)
class Measured:
    """What a case came to, all seeds together, without the lead-in where nothing else is said."""

    case: Case
    requests: int
    kept: int
    broken: int
    cold: int
    """Refused since the weights were not on a GPU and could not be brought there in time."""
    refused: int
    utilisation: float
    """Share of the GPUs' time in which they ran INFERs."""
    load_utilisation: float
    """Share of the links' time in which they brought weights."""
    busiest_second: float
    """INFER utilisation of the busiest second."""
    busiest_load_second: float
    loads: int
    """LOADs that ended."""
    offered_rps: tuple[float, ...]
    """Of each second."""
    kept_rps: tuple[float, ...]
    least_model_share: float
    """Lead-in included, as the next two."""
    p10_model_share: float
    worst_models: tuple[str, ...]

    @property
    def attainment(self) -> float:
        """Kept of all requests."""
        return self.kept / self.requests if self.requests else 1.0


def relieve(
    profile: EmulationProfile, models: tuple[SimModel, ...], resource: Resource
) -> tuple[EmulationProfile, tuple[SimModel, ...]]:
    """Give each GPU twice as much of a resource."""
    match resource:
        case Resource.MEMORY:
            return attrs.evolve(profile, pages_total=2 * profile.pages_total), models
        case Resource.PCIE:
            return attrs.evolve(
                profile,
                load_bytes_per_second=2 * profile.load_bytes_per_second,
                load_overhead_ns=profile.load_overhead_ns // 2,
            ), models
        case Resource.COMPUTE:
            programs = {sha: _halved(table) for sha, table in profile.programs.items()}
            return attrs.evolve(
                profile, infer=_halved(profile.infer), programs=MappingProxyType(programs)
            ), tuple(
                attrs.evolve(model, durations=_halved(model.durations))
                if model.durations is not None
                else model
                for model in models
            )


def _halved(table: BatchDurations) -> BatchDurations:
    return attrs.evolve(table, durations_ns=tuple(max(1, ns // 2) for ns in table.durations_ns))


def sum_up(case: Case, reports: Sequence[Report], *, lead_s: int) -> Measured:
    """Add the runs of a case up, without their lead-in."""
    offered, kept = Counter[str](), Counter[str]()
    for report in reports:
        for model in report.models:
            offered[model.name] += model.offered
            kept[model.name] += model.kept
    shares = {name: kept[name] / offered[name] for name in offered}
    worst = sorted(shares, key=lambda name: (shares[name], -offered[name], name))
    counted = [
        {name: values[lead_s:] for name, values in attrs.asdict(report.series).items()}
        for report in reports
    ]

    def total(name: str) -> int:
        return sum(sum(series[name]) for series in counted)

    def steps(name: str) -> list[float]:
        rows = zip(*(series[name] for series in counted), strict=True)
        return [sum(values) / len(reports) for values in rows]

    def mean(name: str) -> float:
        values = steps(name)
        return sum(values) / len(values)

    return Measured(
        case=case,
        requests=total("offered"),
        kept=total("kept"),
        broken=total("broken"),
        cold=total("cold"),
        refused=total("refused"),
        utilisation=mean("utilisation"),
        load_utilisation=mean("load_utilisation"),
        busiest_second=min(1.0, max(steps("utilisation"))),
        busiest_load_second=min(1.0, max(steps("load_utilisation"))),
        loads=total("cold_starts"),
        offered_rps=tuple(steps("offered")),
        kept_rps=tuple(steps("kept")),
        least_model_share=shares[worst[0]] if worst else 1.0,
        p10_model_share=shares[worst[len(worst) // 10]] if worst else 1.0,
        worst_models=tuple(
            f"{name} ({100 * shares[name]:.1f} % of {offered[name]})" for name in worst[:_NAMED_MAX]
        ),
    )
