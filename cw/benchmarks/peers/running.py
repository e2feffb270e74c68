"""The order of things: start a server, measure its cells, stop it, start the next.

Servers that take the SLO with each request, or never, are started once for a case; those that must
know it at their start, once for each SLO.
"""

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from cw.benchmarks.peers.cases import SLOS_NS, Case, Cell, cells
from cw.benchmarks.peers.groundwork import Ground, lay_ground
from cw.benchmarks.peers.measuring import measure_added, measure_load
from cw.benchmarks.peers.peers import Peer, Swaps, Tells
from cw.benchmarks.peers.processes import ServerFailed
from cw.benchmarks.peers.results import Results
from cw.benchmarks.peers.subjects import Start, Subject, serving
from cw.cli.common import people
from cw.errors import ConfigError
from cw.units import MS

_ADDED_SECONDS: Final = 4.0
"""Of one request at a time."""
_START_GUESS_S: Final = 20.0
"""For the time left: what a server takes to start and to end, more or less."""
_OPEN_FILES: Final = 8192


@attrs.frozen(kw_only=True)
class Conditions:
    """How cells are measured.

    Attributes:
        seconds: Of arrivals, each.
        seed: Of the arrivals.
        stop_after_ns: Begin no cell after that; None: measure all.
    """

    seconds: float
    seed: int
    stop_after_ns: int | None = None


@attrs.frozen(kw_only=True)
class Group:
    """Cells that one start of a server serves.

    Attributes:
        peer: The server.
        case: Of all cells.
        slo_ns: What it is told at its start.
        cells: In the order in which they are measured.
    """

    peer: Peer
    case: Case
    slo_ns: int
    cells: tuple[Cell, ...]

    def only(self, is_wanted: Callable[[str], bool]) -> "Group":
        """Leave out cells by their keys."""
        return attrs.evolve(self, cells=tuple(cell for cell in self.cells if is_wanted(cell.key)))


def make_groups(
    peers: Sequence[Peer], cases: Sequence[Case], loads: Sequence[float], slos_ns: Sequence[int]
) -> list[Group]:
    """List what is to be measured: by case, then by server."""
    groups = []
    for case in cases:
        for peer in peers:
            starts: list[tuple[int, list[int | None]]] = [(max(SLOS_NS), list(slos_ns))]
            if peer.tells is Tells.NOWHERE:
                starts = [(max(SLOS_NS), [None])]
            elif peer.tells is Tells.START:
                starts = [(slo_ns, [slo_ns]) for slo_ns in slos_ns]
            for place, (start_slo_ns, told_ns) in enumerate(starts):
                own = list(cells(peer.name, case, loads, told_ns))
                if place == 0 and case.room is None:
                    own.insert(0, Cell(server=peer.name, case=case, load=0, slo_ns=None))
                groups.append(Group(peer=peer, case=case, slo_ns=start_slo_ns, cells=tuple(own)))
    return groups


async def run_groups(groups: Sequence[Group], results: Results, conditions: Conditions) -> None:
    """Measure all cells of all groups; what a server can't do is written down, and the next begun.

    Raises:
        ConfigError: There are not two cores to be had.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ConfigError(f"expected two cores, one of them for the servers; got {len(cores)}")
    os.sched_setaffinity(0, {cores[0]})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _OPEN_FILES), most))
    work = _Work(groups, results, conditions, core=cores[-1])
    try:
        for group in groups:
            if work.is_over:
                people.print("the time is up; the next call goes on here")
                return
            await work.measure(group)
    finally:
        os.sched_setaffinity(0, cores)


class _Work:
    """One call's work.

    Args:
        groups: All that is to be done, for the time left.
        results: Where it goes.
        conditions: How.
        core: The servers'.
    """

    def __init__(
        self, groups: Sequence[Group], results: Results, conditions: Conditions, *, core: int
    ) -> None:
        self._results: Final = results
        self._conditions: Final = conditions
        self._core: Final = core
        self._grounds: Final[dict[str, Ground]] = {}
        self._begin_ns: Final = time.monotonic_ns()
        self._cells_left = sum(len(group.cells) for group in groups)
        self._starts_left = len(groups)

    @property
    def is_over(self) -> bool:
        """Whether no more cells are to be begun."""
        stop_after_ns = self._conditions.stop_after_ns
        return stop_after_ns is not None and (time.monotonic_ns() - self._begin_ns > stop_after_ns)

    async def measure(self, group: Group) -> None:
        """Measure a group's cells."""
        self._starts_left -= 1
        cells_after = self._cells_left - len(group.cells)
        if group.case.room is not None and group.peer.swaps is Swaps.NOT:
            self._results.fail(group.peer.name, group.case, Swaps.NOT.value)
        else:
            folder = Path(tempfile.mkdtemp(prefix="cwp-"))  # short: Ray makes sockets below it
            try:
                await self._measure(group, folder)
            except ServerFailed as problem:
                people.print(f"  {group.peer.title}: {problem}")
                self._results.fail(group.peer.name, group.case, str(problem))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        self._cells_left = cells_after

    async def _measure(self, group: Group, folder: Path) -> None:
        ground = self._grounds.get(group.case.name)
        if ground is None:
            own = folder / "ground"  # the bare loop records its runs, too
            own.mkdir()
            ground = await lay_ground(
                group.case, self._results, core=self._core, folder=own, say=people.print
            )
            self._grounds[group.case.name] = ground
        people.print(f"{group.peer.title}, {group.case.title}: starting")
        start = Start(
            peer=group.peer,
            case=group.case,
            slo_ns=group.slo_ns,
            network=ground.network,
            folder=folder,
            core=self._core,
        )
        warm_ups = ground.samples.each_once()[: group.case.room]
        async with serving(start, warm_ups) as subject:
            for cell in group.cells:
                if self.is_over:
                    return
                found = await self._cell(subject, cell, ground, group.peer)
                self._cells_left -= 1
                self._results.add(cell, found)

    async def _cell(
        self, subject: Subject, cell: Cell, ground: Ground, peer: Peer
    ) -> dict[str, Any]:
        if not cell.load:
            models = len(ground.network.specs)
            people.print("  one request at a time")
            return await measure_added(
                subject, ground.samples, models=models, seconds=_ADDED_SECONDS
            )
        rate_rps = cell.load * ground.rate_rps
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=people, transient=True) as progress:
            told = f"SLO {cell.slo_ns // MS} ms" if cell.slo_ns else "no SLO"
            bar = progress.add_task(
                f"  {cell.load:g} x, {told}; {self._left()}",
                total=rate_rps * self._conditions.seconds,
            )
            found = await measure_load(
                subject,
                cell,
                ground.samples,
                rate_rps=rate_rps,
                seconds=self._conditions.seconds,
                seed=self._conditions.seed,
                durations=self._results.durations(cell.case, peer.kernels),
                progress=lambda done: progress.update(bar, completed=done),
            )
        shares = "/".join(f"{kept / found['requests']:.0%}" for kept in found["within"].values())
        people.print(f"  {cell.load:g} x, {told}: {shares} within 25/50/100 ms; {self._left()}")
        return found

    def _left(self) -> str:
        """Say how long the rest will take."""
        seconds = self._cells_left * self._conditions.seconds + self._starts_left * _START_GUESS_S
        return f"{self._cells_left} cells, about {max(1, round(seconds / 60))} min left"
