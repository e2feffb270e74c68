"""Plots: goodput against load, a panel for each SLO, a picture for each case."""

from pathlib import Path

from cw.benchmarks.peers.cases import CASES, SLOS_NS, Case
from cw.benchmarks.peers.peers import PEERS, Peer
from cw.benchmarks.peers.results import Results
from cw.benchmarks.peers.tables import found_at, loads_of, share
from cw.sim.plots import COLOURS, Chart, Panel, Series, draw
from cw.units import MS


def draw_plots(results: Results, folder: Path) -> list[Path]:
    """Draw all cases that there are cells for, as PNG and SVG.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    charts = [chart for case in CASES if (chart := make_chart(results, case))]
    return [path for chart in charts for path in draw(chart, folder)]


def make_chart(results: Results, case: Case) -> Chart | None:
    """Describe a case's picture; None if there is nothing to see."""
    peers = [
        peer
        for peer in PEERS.values()
        if peer.kernels == "exported" and peer.is_solo and len(loads_of(results, [peer], case)) > 1
    ]
    if not peers:
        return None
    return Chart(
        name=f"peers-{case.name}",
        title=f"{case.title}: answered rightly in time, one core, kernels alike",
        panels=tuple(_panel(results, case, peers, slo_ns) for slo_ns in SLOS_NS),
        columns=len(SLOS_NS),
        panel_inches=4.6,
    )


def _panel(results: Results, case: Case, peers: list[Peer], slo_ns: int) -> Panel:
    lines, limit = [], {}
    for place, peer in enumerate(peers):
        points = []
        for load in loads_of(results, [peer], case):
            found = found_at(results, peer, case, load, slo_ns)
            if found is not None:
                points.append((load, share(found, slo_ns) * found["offered_rps"]))
                limit[load] = share(found, slo_ns, "bound") * found["offered_rps"]
        if points:
            x, y = zip(*sorted(points), strict=True)
            colour = place % len(COLOURS)
            lines.append(Series(label=peer.title, x=x, y=y, colour=colour))
    loads = tuple(sorted(limit))
    bound = Series(label="limit", x=loads, y=tuple(limit[load] for load in loads), dashed=True)
    return Panel(
        title=f"within {slo_ns // MS} ms",
        x_label="load, by the bare loop's one at a time",
        y_label="requests/s",
        series=(*lines, bound),
    )
