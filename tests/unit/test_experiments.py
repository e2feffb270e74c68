"""Experiments, from end to end in seconds: tables that fit, plots that are there, same bytes."""

import argparse
import contextlib
import io
import json

import attrs
import pytest

from cw.config import SchedulerSettings
from cw.errors import ConfigError
from cw.sim import command, experiments, plots, show
from cw.sim.experiments import capacity, families, fig6, fig7, mixed, overload
from cw.sim.experiments.experiment import Options, Table, settings_for
from cw.sim.experiments.pool import Pool
from cw.units import MS, SECOND
from cw.workload.workload import Call

TINY = {
    "fig5": ["--time-scale", "0.1", "--only", "100"],
    "fig6": ["--time-scale", "0.03"],
    "fig7": ["--time-scale", "0.1", "--only", "12x600"],
    "fig8": ["--time-scale", "0.1", "--only", "0x0,12x16"],
    "fig9": ["--minutes", "0.01"],
    "scale": ["--time-scale", "0.2"],
    "cells": ["--time-scale", "0.1", "--only", "home,even"],
    "frontier": ["--time-scale", "0.1", "--only", "v25"],
    "goals": ["--time-scale", "0.1", "--only", "overload,capacity,alone,v25,mix100"],
    "mixed": ["--time-scale", "0.1", "--only", "1"],
    "isolation": ["--time-scale", "0.1", "--only", "100"],
    "faults": ["--time-scale", "0.1", "--only", "death,v25"],
}


def run(*words):
    """Run the command as typed; give its status and what it printed."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = command.run(parser.parse_args([*words, "--jobs", "1"]))
    return status, out.getvalue()


@pytest.mark.parametrize("name", experiments.NAMES)
def test_an_experiment_runs_from_end_to_end(name, tmp_path):
    """Whoever waits an hour for a figure must not find at its end that it can't be printed."""
    words = ["--experiment", name, "--quick", "--policies", "clockwork", *TINY[name]]
    status, printed = run(*words, "--json", "--out", str(tmp_path))

    assert status == 0
    result = json.loads(printed)
    assert result["experiment"] == name
    assert result["wall_seconds"] > 0
    for table, rows in result["tables"].items():
        assert rows
        lines = (tmp_path / f"{table}.csv").read_text().splitlines()
        assert len(lines) == 1 + len(rows)
    drawn = [*tmp_path.glob("*.png"), *tmp_path.glob("*.svg")]
    assert drawn
    assert all(path.stat().st_size > 5_000 for path in drawn)
    assert f"# {name}" in (tmp_path / f"{name}.md").read_text()


def test_every_experiment_tells_what_is_published():
    """A figure beside the paper's says nothing to those who don't know where it deviates."""
    for name in experiments.NAMES:
        text = (experiments.find(name).__doc__ or "").lower()
        assert "published" in text, f"{name} does not say what is published"
        assert "set-up" in text, f"{name} does not tell its set-up"
    with pytest.raises(ConfigError, match="fig5"):
        experiments.find("fig4")


def test_processes_don_t_change_the_result():
    """Runs end in another order in each process pool; the table must not show it."""
    words = ["--experiment", "isolation", "--quick", "--policies", "clockwork", "--repeatable"]
    words += ["--time-scale", "0.1", "--only", "25", "--seeds", "2"]
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    printed = []
    for jobs in ("1", "2"):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            command.run(parser.parse_args([*words, "--jobs", jobs]))
        printed.append(out.getvalue())

    assert printed[0] == printed[1]


def test_cases_that_don_t_exist_are_named():
    """A typing error must not become an empty table."""
    with pytest.raises(ConfigError, match="overload"):
        run("--experiment", "goals", "--only", "overlod")
    with pytest.raises(ConfigError, match="--seeds"):
        run("--experiment", "goals", "--seeds", "0")


# --- several runs side by side ----------------------------------------------------------------


def test_policies_are_compared_side_by_side(tmp_path):
    """The same requests under two policies: each column is what its own run would print."""
    words = ["--rate", "300", "--seconds", "1", "--profile", "v100", "--repeatable"]
    _, alone = run(*words, "--policy", "clockwork", "--json")
    _, both = run(*words, "--compare", "default,clockwork", "--json", "--out", str(tmp_path))
    runs = json.loads(both)["runs"]

    assert [one["run"] for one in runs] == ["default", "clockwork"]
    assert runs[1]["kept"] == json.loads(alone)["kept"]
    assert (tmp_path / "comparison.csv").read_text().startswith(",default,clockwork\n")
    seconds = (tmp_path / "timeline.csv").read_text().splitlines()
    assert seconds[0].startswith("policy,second,offered,kept,")
    assert [line.split(",")[0] for line in seconds[1:]] == ["default", "clockwork"]
    assert (tmp_path / "timeline.png").stat().st_size > 5_000


@pytest.mark.parametrize("key", ["rate", "margin"])
def test_an_argument_or_a_setting_is_swept(key, tmp_path):
    """Both are what people want to vary; a setting is whatever is no argument."""
    values = {"rate": "100,400", "margin": "1ms,20ms"}[key]
    words = ["--rate", "400", "--seconds", "1", "--slo", "30ms", "--json", "--policy", "clockwork"]
    _, printed = run(*words, "--sweep", f"{key}={values}", "--out", str(tmp_path))
    runs = json.loads(printed)["runs"]

    assert [one[key] for one in runs] == values.split(",")
    if key == "rate":
        assert runs[0]["requests"] < runs[1]["requests"]
    assert (tmp_path / "sweep.png").stat().st_size > 5_000


def test_a_sweep_without_values_is_refused():
    """Else it would silently be a single run."""
    for text in ("rate", "rate=", "=1,2"):
        with pytest.raises(ConfigError, match="--sweep"):
            run("--sweep", text)
    with pytest.raises(ConfigError, match="rate"):
        run("--sweep", "rate=ten")


# --- parts ------------------------------------------------------------------------------------


def test_a_policy_is_typed_with_its_settings():
    """What is typed wins over an experiment's own settings, also where it is the default value."""
    base = SchedulerSettings(margin_ns=MS // 2, hold_ratio=0.5)
    typed = settings_for("clockwork:margin=1ms", base)

    assert (typed.policy, typed.margin_ns, typed.hold_ratio) == ("clockwork", MS, 0.5)
    with pytest.raises(ConfigError, match="no_such"):
        settings_for("default:no_such=1", base)


def test_full_load_of_the_families_is_what_their_batches_say():
    """All rates are multiples of it: 16 in 20.9 ms on the V100, 32 in 4.9 ms on the H100."""
    assert families.family("v100").full_rate_rps == pytest.approx(16 / 20.9e-3)
    assert families.family("h25").full_rate_rps == pytest.approx(32 / 4.9e-3)
    assert families.family("six25").full_rate_rps == pytest.approx(6 * 16 / 20.9e-3)
    for name in ("v", "x25", "25"):
        with pytest.raises(ConfigError, match="expected a family"):
            families.family(name)


def test_mixed_models_ask_for_equal_gpu_time():
    """Only then does a share in time below the others' mean that a policy passes it over."""
    mix = families.family("mix100")
    weights = mix.popularity.weights(len(mix.models))
    asked = [
        weight * families.cost_ns(model.durations, mix.slo_ns)
        for weight, model in zip(weights, mix.models, strict=True)
    ]

    assert max(asked) == pytest.approx(min(asked))
    assert mix.models[0].durations.durations_ns[0] == pytest.approx(0.5 * MS)
    assert mix.models[-1].durations.durations_ns[0] == pytest.approx(30 * MS)
    assert len({model.image_bytes for model in mix.models}) == families.SHAPES


def test_a_model_alone_gets_the_requests_that_it_had_among_others():
    """Else "of what it would get alone" would compare two different loads."""
    scenario = families.family("mix100").scenario("clockwork", seed=3, duration_ns=SECOND)
    lonely = mixed.alone(scenario, 4)
    (stream,) = scenario.workload.streams
    had = [call for call in stream.calls(seed=3, duration_ns=SECOND) if call.model == 4]

    assert len(lonely.models) == 1
    assert had
    assert list(lonely.workload.calls(seed=3, duration_ns=SECOND)) == [
        Call(call.instant_ns, 0, call.slo_ns) for call in had
    ]


def test_a_load_spreads_over_more_and_more_models():
    """Figure 6 is about what happens when the models no longer fit, not about the first of them."""
    made = fig6.scenario("default", models=31, seed=1, duration_ns=10 * SECOND)
    major = made.workload.streams[0]
    calls = list(major.calls(seed=1, duration_ns=10 * SECOND))
    early = {call.model for call in calls if call.instant_ns < 2 * SECOND}
    late = {call.model for call in calls if call.instant_ns > 9 * SECOND}

    assert early == {1}
    assert len(late) > 20


def test_the_slo_grows_by_half_from_step_to_step():
    """Figure 7's steps are published: 2.9 ms to 251 ms."""
    steps_ms = [slo_ns / MS for slo_ns in fig7.slo_steps_ns()]

    assert steps_ms[0] == 2.9
    assert steps_ms[-1] == pytest.approx(251, abs=1)


def test_capacity_lies_between_a_rate_that_holds_and_one_that_misses():
    """The one number that people buy GPUs by."""
    search = capacity.Search(
        family="v100", policy="clockwork", seeds=(1,), duration_ns=2 * SECOND, precision=1.1
    )
    found = capacity.find(search)

    assert found.at_rate is not None
    assert found.at_rate.warm_share >= capacity.IN_TIME
    assert 150 < found.rate_rps < 800
    assert capacity._at(search, found.rate_rps * 1.3).warm_share < capacity.IN_TIME


def test_goals_are_reached_or_not_to_the_tenth():
    """A verdict must follow from the figure that is printed beside it."""
    assert overload.verdict(92.96, 90, 93) == "stretch"
    assert overload.verdict(92.94, 90, 93) == "floor"
    assert overload.verdict(89.9, 90, 93) == "below"


def test_options_scale_traffic_and_choose_seeds():
    """--quick and --time-scale change how long, never what is run."""
    assert Options().duration_ns(30, 3) == 30 * SECOND
    assert Options(quick=True, time_scale=0.5).duration_ns(30, 3) == 1.5 * SECOND
    assert Options(quick=True, time_scale=1e-9).duration_ns(30, 3) == SECOND // 10
    assert list(Options(quick=True).seed_range(full=3)) == [1]
    assert list(Options(quick=True, seeds=2).seed_range(full=3)) == [1, 2]


def test_a_pool_gives_answers_in_order_and_tells_of_its_progress():
    """Long experiments are watched; results must not depend on who finishes first."""
    told = []
    with Pool(jobs=1, progress=lambda what, share: told.append((what, share))) as pool:
        assert pool.map(abs, [-3, 2, -1], what="numbers") == [3, 2, 1]

    assert told[-1] == ("numbers", 1.0)
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_plots_say_how_to_get_what_they_need(monkeypatch, tmp_path):
    """Matplotlib is not installed with the server; whoever asks for a plot is told what to do."""

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(plots.importlib, "import_module", missing)
    with pytest.raises(ConfigError, match=r"cw\[plots\]"):
        run("--experiment", "fig5", "--out", str(tmp_path))


def test_a_chart_is_the_same_bytes_each_time(tmp_path):
    """A plot in the docs that changes without a reason hides the change that has one."""
    line = plots.Series(label="a", x=(1.0, 2.0), y=(1.0, 4.0))
    lines = plots.Panel(title="lines", x_label="x", y_label="y", series=(line,), x_log=True)
    bars = attrs.evolve(lines, ticks=("one", "two"), marks=((0.5, "here"),), x_log=False)
    chart = plots.Chart(name="chart", title="A chart", panels=(lines, bars))
    first = [path.read_bytes() for path in plots.draw(chart, tmp_path)]

    assert first == [path.read_bytes() for path in plots.draw(chart, tmp_path)]


def test_tables_are_written_for_people_and_for_programs(tmp_path):
    """What is not known is a dash to read, and an empty cell to compute with."""
    table = Table(
        name="t", title="T", columns=("who", "n"), rows=(("a", 1234.5), ("b", None), ("c", 7))
    )
    path = show.write_csv(table, tmp_path)

    assert path.read_text() == "who,n\na,1234.5\nb,\nc,7\n"
    assert [show.format_cell(row[1]) for row in table.rows] == ["1,234", "-", "7"]
    with pytest.raises(AssertionError, match="does not fit"):
        attrs.evolve(table, rows=(("a",),))
