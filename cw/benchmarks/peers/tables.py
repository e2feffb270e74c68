"""The tables: what was measured, each figure beside the limit; for the terminal and the docs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from rich.console import Console

from cw.benchmarks.peers.cases import CASES, SLOS_NS, Case, Cell
from cw.benchmarks.peers.peers import PEERS, Peer, Tells
from cw.benchmarks.peers.results import Results
from cw.benchmarks.report import Report
from cw.units import MS

_NOTHING: Final = "-"
_LATE_MARK: Final = "*"
_SHOWN_SLOS_NS: Final = (50 * MS, 100 * MS, 25 * MS)
"""Of which run latencies are shown where there is one for each SLO: of the first that there is."""

Found = Mapping[str, Any]


def make_tables(results: Results) -> list[Report]:
    """Make all tables that there are cells for; cw's own kernels stand apart."""
    tables: list[Report] = []
    for case in CASES:
        for own in (False, True):
            peers = [
                peer
                for peer in PEERS.values()
                if (peer.kernels == "rewritten") == own and loads_of(results, [peer], case)
            ]
            if peers:
                tables += _CaseTables(results, case, peers, own).make()
    tables += [table for table in (_added(results), _failures(results)) if table.rows]
    return tables


def show_tables(results: Results, console: Console) -> None:
    """Print them for people."""
    for table in make_tables(results):
        table.show(console)


def tables_as_markdown(results: Results) -> str:
    """Write them for ``docs/benchmarks.md``."""
    parts = []
    for table in make_tables(results):
        parts.append(f"**{table.title}**\n")
        parts.append("| " + " | ".join(table.columns) + " |")
        parts.append("|" + "---|" * len(table.columns))
        parts += ["| " + " | ".join(row) + " |" for row in table.rows]
        parts += ["", *table.notes, ""]
    return "\n".join(parts)


def found_at(results: Results, peer: Peer, case: Case, load: float, slo_ns: int) -> Found | None:
    """Find the cell that a column of an SLO shows.

    Of cw it is the run with that SLO. Of a peer it is the best for that column of all its runs:
    some do better when they are told less than what is wanted.
    """
    if peer.is_cw:
        return told_at(results, peer, case, load, slo_ns)
    runs = (told_at(results, peer, case, load, told_ns) for told_ns in SLOS_NS)
    return max(filter(None, runs), key=lambda found: share(found, slo_ns), default=None)


def told_at(results: Results, peer: Peer, case: Case, load: float, slo_ns: int) -> Found | None:
    """Find the run in which a server was told of an SLO; its only one if it can't be told."""
    told_ns = None if peer.tells is Tells.NOWHERE else slo_ns
    cell = Cell(server=peer.name, case=case, load=load, slo_ns=told_ns)
    return results.cells.get(cell.key)


def share(found: Found, slo_ns: int, of: str = "within") -> float:
    """Say which part of a cell's requests was answered rightly in time; or the bound of that."""
    part: float = found[of][f"{slo_ns // MS}"] / found["requests"]
    return part


@attrs.frozen
class _CaseTables:
    """A case's tables, of the peers that it was measured for.

    Attributes:
        own: Whether they are of cw's own kernels.
    """

    results: Results
    case: Case
    peers: Sequence[Peer]
    own: bool

    @property
    def loads(self) -> list[float]:
        """The columns."""
        return loads_of(self.results, self.peers, self.case)

    @property
    def slos_ns(self) -> list[int]:
        """In each column: the SLOs that cw was told, or all where it was not measured."""
        told = [
            slo_ns
            for slo_ns in SLOS_NS
            if any(
                told_at(self.results, peer, self.case, load, slo_ns)
                for peer in self.peers
                for load in self.loads
                if peer.is_cw
            )
        ]
        return told or list(SLOS_NS)

    def make(self) -> Iterator[Report]:
        """Make them: shares, rates, latencies."""
        title = self.case.title + (", cw's own kernels" if self.own else "")
        within = f"within {' / '.join(f'{slo_ns // MS}' for slo_ns in self.slos_ns)} ms"
        single_ns = self.results.durations(self.case, "torch")[1]
        columns = ("", *(f"x {load:g}" for load in self.loads))
        yield Report(
            title=f"{title}: % answered rightly {within} (load 1 is {1e9 / single_ns:.0f}/s)",
            columns=columns,
            rows=self._rows(_in_time_share, _bound_share),
        )
        yield Report(
            title=f"{title}: goodput, requests/s {within}",
            columns=columns,
            rows=self._rows(_goodput, _bound_rate),
        )
        yield Report(
            title=f"{title}: p50 / p99 / p99.9 ms of right answers, however late",
            columns=(*columns, "memory MiB"),
            rows=tuple(
                _latency_row(self.results, peer, self.case, self.loads) for peer in self.peers
            ),
            notes=(_conditions(self.results, self.peers, self.case),),
        )

    def _rows(self, of_cell: "_OfCell", of_limit: "_OfCell") -> tuple[tuple[str, ...], ...]:
        limit = ("limit", *(self._words(self.peers, load, of_limit) for load in self.loads))
        return (
            limit,
            *(
                (
                    peer.title,
                    *(
                        self._words([peer], load, of_cell) + self._mark(peer, load)
                        for load in self.loads
                    ),
                )
                for peer in self.peers
            ),
        )

    def _words(self, peers: Sequence[Peer], load: float, of_cell: "_OfCell") -> str:
        """Write a figure for each SLO, of the first peer that has a cell."""
        words = []
        for slo_ns in self.slos_ns:
            runs = (found_at(self.results, peer, self.case, load, slo_ns) for peer in peers)
            found = next(filter(None, runs), None)
            words.append(of_cell(found, slo_ns) if found else _NOTHING)
        return " / ".join(words)

    def _mark(self, peer: Peer, load: float) -> str:
        runs = (found_at(self.results, peer, self.case, load, slo_ns) for slo_ns in self.slos_ns)
        is_late = any(found["generator_late"] for found in runs if found)
        return f" {_LATE_MARK}" if is_late else ""


_OfCell = Callable[[Found, int], str]
"""Writes a cell's figure for an SLO (ns)."""


def _in_time_share(found: Found, slo_ns: int) -> str:
    return _percent(share(found, slo_ns))


def _bound_share(found: Found, slo_ns: int) -> str:
    return _percent(share(found, slo_ns, "bound"))


def _percent(part: float) -> str:
    """Write a share so that 99.96 % does not look like all."""
    return f"{int(1000 * part) / 10}" if 0.99 <= part < 1 else f"{100 * part:.0f}"


def _goodput(found: Found, slo_ns: int) -> str:
    return f"{share(found, slo_ns) * found['offered_rps']:.0f}"


def _bound_rate(found: Found, slo_ns: int) -> str:
    return f"{share(found, slo_ns, 'bound') * found['offered_rps']:.0f}"


def _latency_row(
    results: Results, peer: Peer, case: Case, loads: Sequence[float]
) -> tuple[str, ...]:
    found = [
        next(
            filter(None, (told_at(results, peer, case, load, slo) for slo in _SHOWN_SLOS_NS)), None
        )
        for load in loads
    ]
    times = [
        " / ".join(_ms(value) for value in each["latency_ms"].values()) if each else _NOTHING
        for each in found
    ]
    memory = max((each["memory_mib"] for each in found if each), default=None)
    return (peer.title, *times, _NOTHING if memory is None else f"{memory:,}")


def _ms(value: float | None) -> str:
    if value is None:
        return _NOTHING
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _conditions(results: Results, peers: Sequence[Peer], case: Case) -> str:
    own = [
        found
        for peer in peers
        for load in loads_of(results, [peer], case)
        for slo_ns in SLOS_NS
        if (found := found_at(results, peer, case, load, slo_ns))
    ]
    seconds = sorted({found["seconds"] for found in own})
    seeds = sorted({found["seed"] for found in own})
    late = sum(found["generator_late"] for found in own)
    wrong = sum(found["wrong"] for found in own)
    latest = max(found["sent_late_ms_p99"] for found in own)
    text = (
        f"Cells of {' or '.join(f'{each:g}' for each in seconds)} s, seed "
        f"{', '.join(map(str, seeds))}; wrong answers: {wrong}; requests left at most "
        f"{latest:g} ms late (p99 of the worst cell)."
    )
    return text + (f" {_LATE_MARK}: the load generator was late." if late else "")


def loads_of(results: Results, peers: Sequence[Peer], case: Case) -> list[float]:
    """List the loads that any of the servers has a cell for."""
    names = {peer.name for peer in peers}
    keys = [key.split("/") for key in results.cells]
    return sorted(
        {
            float(load)
            for server, own, load, _ in keys
            if server in names and own == case.name and float(load)
        }
    )


def _added(results: Results) -> Report:
    rows = []
    for case in CASES:
        for peer in PEERS.values():
            cell = Cell(server=peer.name, case=case, load=0, slo_ns=None)
            found = results.cells.get(cell.key)
            if found is None:
                continue
            if "problem" in found:
                rows.append((peer.title, case.title, found["problem"], "", "", ""))
                continue
            added, device = found["added_ms"], found["device_ms"]
            rows.append(
                (
                    peer.title,
                    case.title,
                    f"{added['p50']:.2f}",
                    f"{added['p99']:.2f}",
                    f"{device['p50']:.2f}",
                    str(found["requests"]),
                )
            )
    return Report(
        title="One request at a time: the client's call less the device's time, ms",
        columns=("", "models", "added p50", "added p99", "device p50", "requests"),
        rows=tuple(rows),
    )


def _failures(results: Results) -> Report:
    rows = tuple(
        (PEERS[name.split("/")[0]].title, name.split("/")[1], why[:300].replace("|", "/"))
        for name, why in sorted(results.failures.items())
    )
    return Report(title="Not measured, and why", columns=("", "models", "why"), rows=rows)
