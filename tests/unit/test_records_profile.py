"""Profiles: quantiles that are there, estimates judged in hindsight, and words for what is not."""

import json
import time

import numpy as np
import pytest

from cw.cli import main
from cw.models.examples.tiny import MLP
from cw.models.store import ModelStore
from cw.records.charts import chart_of, histogram
from cw.records.profiles import HOUR_NS, profiles_of
from cw.units import MS, SECOND, US
from tests.unit.record_lines import record, write

NOW_NS = 10**18


def run(number=0, *, took_ns=2 * MS, estimate_ns=3 * MS, ago_ns=0, **changes):
    return record(
        number, took_ns=took_ns, expected_ns=estimate_ns, **{"date_ns": NOW_NS - ago_ns, **changes}
    )


def test_quantiles_are_those_of_the_runs():
    """p99/p50 is what a device is judged by: off by one rank, it says another thing."""
    runs = [run(took_ns=(number + 1) * US) for number in range(1000)]
    (profile,) = profiles_of(runs, since_ns=0)

    assert (profile.runs, profile.max_ns) == (1000, 1000 * US)
    assert (profile.p50_ns, profile.p99_ns, profile.p999_ns) == (501 * US, 991 * US, 1000 * US)
    assert profile.spread == 991 / 501


def test_a_quantile_needs_as_many_runs():
    """Of 999 runs the 99.9 % quantile would be the maximum by another name."""
    (profile,) = profiles_of([run() for _ in range(999)], since_ns=0)

    assert profile.p999_ns is None


def test_devices_and_batch_sizes_are_kept_apart():
    """The mean of a fast card and a slow one is nobody's."""
    runs = [
        run(batch_size=2),
        run(batch_size=1, took_ns=MS),
        run(batch_size=2, device="cuda H100", took_ns=5 * MS),
        run(batch_size=2, executor="executor-1"),
    ]
    found = [(it.device, it.batch_size, it.runs, it.p50_ns) for it in profiles_of(runs, since_ns=0)]

    assert found == [
        ("cpu test", 1, 1, MS),
        ("cpu test", 2, 2, 2 * MS),
        ("cuda H100", 2, 1, 5 * MS),
    ]


def test_only_what_ran_counts():
    """A batch that was too late took no time, and no time is not quick."""
    runs = [run(outcome="tooLate", took_ns=0), run(kind="LOAD"), run(took_ns=0)]

    assert profiles_of(runs, since_ns=0) == []


def test_estimates_are_judged_by_requests_of_the_span():
    """A guess planned a probe before anything was known; what was long ago is no news."""
    runs = [
        run(slots=0, estimate_ns=20 * MS),
        run(ago_ns=2 * HOUR_NS, estimate_ns=MS),
        run(estimate_ns=2 * MS),
        run(estimate_ns=4 * MS),
        run(estimate_ns=MS),
    ]
    (profile,) = profiles_of(runs, since_ns=NOW_NS - HOUR_NS)
    hindsight = profile.hindsight

    assert (profile.runs, profile.probes) == (5, 1)
    assert hindsight.runs == 3
    assert hindsight.covered_share == 2 / 3
    assert (hindsight.ratio_mean, hindsight.ratio_p99) == ((1 + 2 + 0.5) / 3, 2)


def test_the_estimate_is_the_latest_one():
    """Files are read executor by executor: the last line read need not be the last one written."""
    runs = [run(estimate_ns=5 * MS), run(ago_ns=SECOND, estimate_ns=9 * MS)]
    (profile,) = profiles_of(runs, since_ns=NOW_NS + 1)

    assert profile.estimate_ns == 5 * MS
    assert profile.hindsight is None


def test_a_histogram_marks_the_estimate_and_hides_no_bin():
    """One run in a thousand is what breaks a promise: it must not round to nothing."""
    runs = [run(took_ns=2 * MS + number) for number in range(990)] + [run(took_ns=4 * MS)] * 11
    (profile,) = profiles_of(runs, since_ns=0)
    line = histogram(profile)

    assert (line.split()[0], line.split()[-1]) == ("2.000", "4.000")
    assert line.count("│") == 1
    assert line.index("█") < line.index("│") < line.rindex("▁")


def test_a_chart_has_a_panel_for_each_batch_size():
    """What is plotted is every run's share, down to the slowest."""
    profiles = profiles_of(
        [run(took_ns=n * US, batch_size=1 + n % 2) for n in range(1, 2001)], since_ns=0
    )
    chart = chart_of("net", profiles)
    series = chart.panels[0].series[0]

    assert [panel.marks for panel in chart.panels] == [((3.0, "estimate"),)] * 2
    assert (series.x[0], series.y[0]) == (0.002, 1.0)
    assert (series.x[-1], series.y[-1]) == (2.0, 0.001)
    assert np.all(np.diff(series.y) < 0)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make the folder of a cluster that ran 'net' a moment ago, and 'old' a day ago."""
    now_ns = time.time_ns()
    runs = [run(number, date_ns=now_ns) for number in range(20)]
    runs.append(run(99, date_ns=now_ns, slots=0, batch_size=8))
    runs.append(run(100, model="old", date_ns=now_ns - 24 * HOUR_NS))
    write(tmp_path / "logs" / "executor-0.actions.jsonl", *runs, end='{"date_ns":')
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def profile(folder, *words):
    return main.main(["profile", "--folder", str(folder), *words])


def test_the_command_shows_runs_and_says_what_is_missing(folder, capsys):
    """A dash without a reason looks like a defect."""
    assert profile(folder, "net") == 0

    shown = capsys.readouterr().out
    assert "net on cpu test" in shown
    assert "100.00% of 20" in shown
    assert "p99.9 needs 1,000 runs; there are fewer of batch 1: 20, batch 8: 1" in shown
    assert "1 of them were probes" in shown


def test_the_command_gives_json(folder, capsys):
    """Others judge a device by these figures."""
    assert profile(folder, "net", "--json") == 0

    one, eight = json.loads(capsys.readouterr().out)["batches"]
    assert (one["runs"], one["p50_ms"], one["p999_ms"], one["estimate_ms"]) == (20, 2.0, None, 3.0)
    assert one["hindsight"]["ratio_mean"] == 1.5
    assert (eight["probes"], eight["hindsight"]) == (1, None)


def test_an_idle_hour_is_said_with_the_way_further_back(folder, capsys):
    """A model that nobody asks for has a profile all the same."""
    assert profile(folder, "old") == 0
    assert "no run with requests in the last hour" in capsys.readouterr().out

    assert profile(folder, "old", "--last", "48h", "--json") == 0
    (batch,) = json.loads(capsys.readouterr().out)["batches"]
    assert batch["hindsight"]["runs"] == 1


def test_an_unknown_model_is_answered_with_those_there_are(folder, capsys):
    """Names are misspelt more often than models are missing."""
    assert profile(folder, "nett") == 1

    said = capsys.readouterr().err
    assert "did you mean net?" in said
    assert "there are: net, old" in said


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return MLP.pack(tmp_path_factory.mktemp("packed") / "archive")


def add(folder, archive):
    """Put a model into a cluster's store; return its id."""
    store = ModelStore(folder / "store")
    store.prepare()
    store.allow_program(archive.manifest.program_sha256, "test")
    return store.add(archive.folder).manifest.to_spec().model_id


def test_a_model_of_the_store_is_told_from_an_unknown_one(folder, archive, capsys):
    """Registered a second ago and never run: it is not unknown, only new."""
    add(folder, archive)

    assert profile(folder, "tiny-mlp") == 1
    assert "cw model show tiny-mlp" in capsys.readouterr().err
    assert profile(folder, "tiny") == 1
    assert "tiny-mlp" in capsys.readouterr().err


def test_runs_of_other_weights_are_left_out_and_counted(folder, archive, capsys):
    """A name may have meant another program yesterday."""
    model_id = add(folder, archive)
    runs = [run(n, model="tiny-mlp", model_id=n) for n in (model_id, 1, 2)]
    write(folder / "logs" / "executor-0.actions.jsonl", *runs)

    assert profile(folder, "tiny-mlp") == 0
    assert "2 runs of other weights" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_plot_is_the_file_that_was_named(folder, tmp_path, suffix):
    """Reports take one picture, in the format that was asked for."""
    pytest.importorskip("matplotlib", reason="plots need matplotlib")
    out = tmp_path / f"plot.{suffix}"

    assert profile(folder, "net", "--plot", str(out)) == 0
    assert out.read_bytes()[:5] in {b"\x89PNG\r", b"<?xml"}


def test_a_plot_of_another_format_is_refused_before_reading(folder, capsys):
    """After a minute of reading it would be too late to say."""
    assert profile(folder, "net", "--plot", "plot.pdf") == 1
    assert "FILE.svg" in capsys.readouterr().err
