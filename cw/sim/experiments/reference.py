"""Published and earlier figures that experiments stand beside. Nothing here is measured by cw.

*The paper* is Clockwork (OSDI 2020). Most of its curves are not published in numbers; what is
missing here is missing there.

*The probe* is an earlier simulation, separate from this one: another world (the SLO counted at the
controller, simplified links, no registration), baselines without tuning, means of three seeds. Its
own policy chooses among all that waits until the last moment, and promises nothing before. Its
figures say what is possible, not what must come out here to the tenth.
"""

from types import MappingProxyType
from typing import Final

import attrs

PAPER_SCALE_RPS: Final = 103_387
"""Goodput of the paper's controller at 110 emulated workers, where the controller limits."""
PAPER_SCALE_WORKERS: Final = 110
PAPER_AZURE_RPS: Final = 9_638
"""Mean rate of the paper's Azure trace (figure 9), all of it answered within 100 ms."""
PAPER_AZURE_MODELS: Final = 4_026


@attrs.frozen(kw_only=True)
class Probe:
    """What the probe says of one family under overload."""

    default: float
    """Its own policy, in per cent of the bound."""
    clockwork: float
    bound_rps: int
    symphony: float
    shepherd: float
    nexus: float
    capacity: int
    """Most requests/s with 99 % in time, of its own policy."""
    capacity_clockwork: int
    capacity_fcfs: int


def _probe(
    percents: tuple[float, float, float, float, float],
    bound_rps: int,
    capacities: tuple[int, int, int],
) -> Probe:
    nexus, symphony, shepherd, clockwork, own = percents
    capacity_fcfs, capacity_clockwork, capacity = capacities
    return Probe(
        default=own,
        clockwork=clockwork,
        bound_rps=bound_rps,
        symphony=symphony,
        shepherd=shepherd,
        nexus=nexus,
        capacity=capacity,
        capacity_clockwork=capacity_clockwork,
        capacity_fcfs=capacity_fcfs,
    )


PROBE: Final = MappingProxyType(
    {
        # nexus, symphony (with its drop rule), shepherd, clockwork, own; bound; capacities of
        # fcfs, clockwork and own.
        "v10": _probe((86.8, 81.6, 91.1, 87.0, 91.4), 434, (134, 134, 145)),
        "v25": _probe((69.3, 83.1, 88.2, 82.6, 93.3), 555, (313, 348, 358)),
        "v50": _probe((75.9, 83.7, 84.9, 86.1, 96.0), 630, (414, 436, 447)),
        "v100": _probe((80.9, 83.5, 82.3, 89.4, 95.7), 732, (469, 543, 554)),
        "v250": _probe((88.3, 98.7, 97.1, 97.8, 98.9), 772, (532, 722, 722)),
        "v500": _probe((99.1, 99.1, 99.1, 99.1, 99.1), 773, (761, 786, 786)),
        "h10": _probe((46.6, 72.8, 81.4, 44.9, 86.0), 3_986, (911, 911, 1_210)),
        "h25": _probe((81.5, 78.0, 80.3, 78.6, 89.6), 5_498, (2_603, 2_445, 3_293)),
        "h50": _probe((95.5, 75.8, 74.6, 95.1, 97.2), 6_123, (4_051, 5_096, 5_398)),
        "h100": _probe((98.6, 99.2, 98.7, 99.1, 99.1), 6_584, (6_290, 6_438, 6_513)),
        "six25": _probe((65.7, 89.8, 84.9, 85.2, 95.4), 4_197, (1_978, 2_119, 2_119)),
        "six100": _probe((71.2, 95.5, 84.5, 94.2, 97.4), 4_609, (2_437, 2_463, 2_463)),
        "mix100": _probe((46.4, 57.1, 89.3, 73.0, 98.2), 1_367, (636, 649, 796)),
    }
)


@attrs.frozen(kw_only=True)
class Goal:
    """What the default policy is to reach, in per cent of the bound."""

    floor: float
    stretch: float


GOALS: Final = MappingProxyType(
    {
        "v25": Goal(floor=90, stretch=93),
        "v50": Goal(floor=93, stretch=96),
        "v100": Goal(floor=93, stretch=96),
        "v250": Goal(floor=97, stretch=99),
        "h10": Goal(floor=80, stretch=86),
        "h25": Goal(floor=87, stretch=90),
        "h50": Goal(floor=95, stretch=97),
        "h100": Goal(floor=98, stretch=99),
        "six25": Goal(floor=93, stretch=95),
        "six100": Goal(floor=95, stretch=97),
    }
)
