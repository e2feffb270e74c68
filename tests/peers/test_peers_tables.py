"""The tables, of recorded results: every figure in its column, nothing left out."""

import pytest

from cw.benchmarks.peers.cases import Case, Cell
from cw.benchmarks.peers.plots import make_chart
from cw.benchmarks.peers.results import Results
from cw.benchmarks.peers.tables import make_tables, tables_as_markdown
from cw.errors import ConfigError
from cw.units import MS

EIGHT = Case(8)


def _found(kept: dict[str, int], *, late: bool = False) -> dict:
    return {
        "requests": 200,
        "offered_rps": 100.0,
        "within": kept,
        "bound": {"25": 150.0, "50": 200.0, "100": 200.0},
        "wrong": 0,
        "latency_ms": {"p50": 9.94, "p99": 20.0, "p999": 123.4},
        "sent_late_ms_p99": 7.5 if late else 0.2,
        "generator_late": late,
        "memory_mib": 1234,
        "seconds": 2.0,
        "seed": 1,
    }


@pytest.fixture
def results(tmp_path):
    recorded = Results.read(tmp_path / "results.json")
    recorded.set_bare(
        EIGHT, {kernels: {1: 5 * MS} for kernels in ("torch", "exported", "rewritten")}
    )

    def add(server, slo_ms, kept, load=1.2, **more):
        slo_ns = slo_ms * MS if slo_ms else None
        cell = Cell(server=server, case=EIGHT, load=load, slo_ns=slo_ns)
        recorded.add(cell, _found(kept, **more))

    add("cw", 25, {"25": 140, "50": 141, "100": 142})
    add("cw", 50, {"25": 20, "50": 199, "100": 199})
    add("cw", 100, {"25": 2, "50": 30, "100": 200}, late=True)
    add("mlserver", None, {"25": 2, "50": 4, "100": 6})
    recorded.fail("triton", EIGHT, "it ended with status 1: no such stub")
    return recorded


def _row(results, table, title):
    (row,) = [row for row in make_tables(results)[table].rows if row[0] == title]
    return row[1:]


def test_each_slo_has_its_own_run_where_the_server_can_be_told(results):
    """25 ms are judged by the run that was asked for 25 ms, not by a run that aimed at 100."""
    assert _row(results, 0, "cw, Cap'n Proto") == ("70 / 99.5 / 100 *",)
    assert _row(results, 0, "MLServer") == ("1 / 2 / 3",)


def test_of_a_peers_runs_the_best_counts(results):
    """LitServe told of 25 ms answers more within 50 than when it is told of 50: let it."""
    for slo_ms, within in ((25, 120), (50, 60), (100, 10)):
        cell = Cell(server="litserve", case=EIGHT, load=1.2, slo_ns=slo_ms * MS)
        results.add(cell, _found({"25": 0, "50": within, "100": 130}))

    assert _row(results, 0, "LitServe") == ("0 / 60 / 65",)


def test_the_limit_stands_above(results):
    """A figure says nothing beside no limit: an easy load looks like a good server."""
    assert _row(results, 0, "limit") == ("75 / 100 / 100",)
    assert _row(results, 1, "limit") == ("75 / 100 / 100",)


def test_goodput_is_in_requests_a_second(results):
    """Two seconds of 200 requests, of which 140 in time, are 70/s."""
    assert _row(results, 1, "cw, Cap'n Proto")[0].startswith("70 / 100 / 100")


def test_latencies_and_memory_are_those_of_the_50_ms_run(results):
    """The other runs aim elsewhere; to mix them would make a server that there is not."""
    assert _row(results, 2, "cw, Cap'n Proto") == ("9.9 / 20.0 / 123", "1,234")


def test_what_failed_is_in_the_table(results):
    """A peer that can't be started is reported with its error, never left out in silence."""
    failures = make_tables(results)[-1]

    assert failures.rows == (("Triton", "8", "it ended with status 1: no such stub"),)


def test_a_late_generator_is_told_beside_its_cells(results):
    """Its load was not what it should have been, for or against the server."""
    (note,) = make_tables(results)[2].notes

    assert "the load generator was late" in note
    assert "7.5 ms late" in note


def test_markdown_has_all_tables(results):
    """What the docs show is what was recorded, not what somebody typed."""
    text = tables_as_markdown(results)

    assert "| cw, Cap'n Proto | 70 / 99.5 / 100 * |" in text
    assert text.count("\n|---|") == len(make_tables(results))


def test_results_outlive_the_call(results):
    """A run that was cut short goes on where it was."""
    again = Results.read(results.path)

    assert again.cells == results.cells
    assert again.failures == results.failures
    assert again.durations(EIGHT, "torch") == {1: 5 * MS}


def test_success_ends_a_failure(results):
    """A table that says both would be wrong in one of them."""
    cell = Cell(server="triton", case=EIGHT, load=1.2, slo_ns=50 * MS)
    results.add(cell, _found({"25": 1, "50": 1, "100": 1}))

    assert results.failures == {}


def test_other_files_are_refused(tmp_path):
    """Not overwritten: it may be somebody's."""
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ConfigError, match="results of tools/bench_peers"):
        Results.read(tmp_path / "other.json")


def test_the_plot_shows_each_server_and_the_limit(results):
    """One panel an SLO; a server with a single load is no line."""
    assert make_chart(results, EIGHT) is None
    for slo_ms in (25, 50, 100):
        cell = Cell(server="cw", case=EIGHT, load=0.3, slo_ns=slo_ms * MS)
        results.add(cell, _found({"25": 200, "50": 200, "100": 200}))
    chart = make_chart(results, EIGHT)

    assert [panel.title for panel in chart.panels] == [f"within {n} ms" for n in (25, 50, 100)]
    assert [line.label for line in chart.panels[1].series] == ["cw, Cap'n Proto", "limit"]
    assert chart.panels[1].series[0].y == (100.0, 99.5)
