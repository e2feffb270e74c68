"""What is measured: cases, loads, and the cells of the tables that they make."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from cw.units import MS

LOADS: Final = (0.3, 0.6, 0.9, 1.2, 2.0)
"""Offered requests a second, by what the bare loop does one at a time."""
SLOS_NS: Final = (25 * MS, 50 * MS, 100 * MS)
POPULARITY_EXPONENT: Final = 0.9
"""Zipf's, of requests over models."""
BATCH_MAX: Final = 8
BATCH_SIZES: Final = (1, 2, 4, 8)
BATCH_WAIT_MS: Final = 1.0
"""How long a batch may wait to fill, for servers that ask for a time."""


@attrs.frozen
class Case:
    """How many models there are, and how many of them fit.

    Attributes:
        models: All of them are asked for.
        room: So many may be resident at once; None: all.
    """

    models: int
    room: int | None = None

    @property
    def name(self) -> str:
        """As on the command line: ``8``, or ``64-in-16``."""
        return f"{self.models}" if self.room is None else f"{self.models}-in-{self.room}"

    @property
    def title(self) -> str:
        """For people."""
        if self.room is not None:
            return f"{self.models} models in room for {self.room}"
        return "1 model" if self.models == 1 else f"{self.models} models resident"


CASES: Final = (Case(8), Case(64), Case(64, 16), Case(1))


@attrs.frozen(kw_only=True)
class Cell:
    """One run of a load generator against a server.

    Attributes:
        server: Its name.
        case: See `Case`.
        load: See `LOADS`; 0 for one request at a time, which measures added latency.
        slo_ns: Which the server is told, and of the columns for those that can't be told.
    """

    server: str
    case: Case
    load: float
    slo_ns: int | None

    @property
    def key(self) -> str:
        """Names its result."""
        slo = "any" if self.slo_ns is None else f"{self.slo_ns // MS}ms"
        return f"{self.server}/{self.case.name}/{self.load:g}/{slo}"


def cells(
    server: str, case: Case, loads: Sequence[float], slos_ns: Sequence[int | None]
) -> Iterator[Cell]:
    """List a server's cells of a case: all loads of one SLO, then the next."""
    for slo_ns in slos_ns:
        for load in loads:
            yield Cell(server=server, case=case, load=load, slo_ns=slo_ns)
