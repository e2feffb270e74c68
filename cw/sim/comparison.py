"""Comparison: one command line, several runs (policies, values of one argument) side by side."""

import argparse
import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from cw.errors import ConfigError
from cw.sim import plots, runner, show
from cw.sim.experiments.drawing import Timeline, policy_lines
from cw.sim.experiments.experiment import Cell, Table
from cw.sim.plots import Chart, Panel
from cw.sim.report import Report, Series

_UNSWEPT: Final = {"help", "settings", "policy", "json", "repeatable", "validate_every"}


@attrs.frozen(kw_only=True)
class Case:
    """One run of several."""

    policy: str
    """As typed."""
    value: str
    """Of what is swept; empty where nothing is."""
    arguments: argparse.Namespace


def cases_of(arguments: argparse.Namespace) -> list[Case]:
    """List the runs that ``--compare`` and ``--sweep`` ask for; one where neither is given.

    Raises:
        ConfigError: ``--sweep`` can't be read.
    """
    policies = list(filter(None, (arguments.compare or arguments.policy).split(",")))
    key, values = _sweep(arguments.sweep)
    return [
        Case(policy=policy, value=value, arguments=_changed(arguments, policy, key, value))
        for value in values
        for policy in policies
    ]


def _sweep(text: str | None) -> tuple[str, list[str]]:
    if text is None:
        return "", [""]
    key, _, listed = text.partition("=")
    values = list(filter(None, listed.split(",")))
    if not key or not values:
        raise ConfigError(f"--sweep: expected KEY=A,B,C such as rate=100,200,400, got {text!r}")
    return key, values


def _changed(
    arguments: argparse.Namespace, policy: str, key: str, value: str
) -> argparse.Namespace:
    changed = copy.copy(arguments)
    changed.policy, *settings = policy.split(":")
    changed.settings = [*arguments.settings, *settings]
    if key:
        option = _options().get(key.replace("-", "_"))
        if option is None:  # then it is the scheduler's, who knows its own
            changed.settings.append(f"{key}={value}")
        else:
            try:
                setattr(changed, option.dest, (option.type or str)(value))
            except ValueError as exc:
                raise ConfigError(f"--sweep: {key}={value}: {exc}") from exc
    return changed


def _options() -> dict[str, Any]:
    """List what describes a scenario, by name."""
    parser = argparse.ArgumentParser()
    runner.add_arguments(parser)
    return {action.dest: action for action in parser._actions if action.dest not in _UNSWEPT}


def table_of(cases: Sequence[Case], reports: Sequence[Report]) -> Table:
    """Put the reports side by side: a column for each run."""
    columns = [" ".join(filter(None, (case.value, case.policy))) for case in cases]
    rows = [(name, *(_cell(report, name) for report in reports)) for name in _ROWS]
    swept = cases[0].arguments.sweep
    return Table(
        name="comparison",
        title="Side by side" + (f": {swept.partition('=')[0]}" if swept else ""),
        columns=("", *columns),
        rows=tuple(rows),
    )


_ROWS: Final = (
    "requests",
    "kept",
    "refused",
    "refused_at_arrival",
    "broken",
    "failed",
    "offered_rps",
    "goodput_rps",
    "bound_rps",
    "share_of_bound",
    "least_model_share",
    "p10_model_share",
    "median_model_share",
    "utilisation",
    "load_utilisation",
    "latency_ms p50",
    "latency_ms p99",
    "refusal_ms p50",
    "refusal_ms p99",
    "batch_mean",
    "loads",
)


def _cell(report: Report, row: str) -> Cell:
    name, _, key = row.partition(" ")
    value: Any = getattr(report, name)
    if key:
        found: float | None = value.get(key)
        return found
    return sum(value.values()) if isinstance(value, dict) else value


def as_json(cases: Sequence[Case], reports: Sequence[Report]) -> dict[str, Any]:
    """Give all runs, each with what it was."""
    key = (cases[0].arguments.sweep or "").partition("=")[0]
    return {
        "runs": [
            {"run": case.policy, **({key: case.value} if key else {}), **attrs.asdict(report)}
            for case, report in zip(cases, reports, strict=True)
        ]
    }


def write(cases: Sequence[Case], reports: Sequence[Report], folder: Path) -> list[Path]:
    """Write the table and each run's seconds as CSV, and draw them; of a sweep, draw its values.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = [show.write_csv(table_of(cases, reports), folder)]
    values = list(dict.fromkeys(case.value for case in cases))
    if len(values) > 1:
        return written + plots.draw(_sweep_chart(cases, reports, values), folder)
    of_policy = {case.policy: report for case, report in zip(cases, reports, strict=True)}
    written.append(show.write_csv(_seconds_table(of_policy), folder))
    chart = Chart(
        name="timeline",
        title=f"{', '.join(of_policy)}: {reports[0].offered_rps:,.0f} requests/s",
        columns=2,
        panels=Timeline(reports=of_policy).panels(leave_out=("cold_starts",)),
    )
    return written + plots.draw(chart, folder)


def _seconds_table(of_policy: Mapping[str, Report]) -> Table:
    names = [field.name for field in attrs.fields(Series)]
    return Table(
        name="timeline",
        title="Second by second",
        columns=("policy", "second", *names),
        rows=tuple(
            (policy, second, *(getattr(report.series, name)[second] for name in names))
            for policy, report in of_policy.items()
            for second in range(len(report.series.offered))
        ),
    )


def _sweep_chart(cases: Sequence[Case], reports: Sequence[Report], values: list[str]) -> Chart:
    policies = list(dict.fromkeys(case.policy for case in cases))
    key = cases[0].arguments.sweep.partition("=")[0]
    of_case = {
        (case.policy, case.value): report for case, report in zip(cases, reports, strict=True)
    }

    def panel(title: str, y_label: str, attribute: str, factor: float) -> Panel:
        return Panel(
            title=title,
            x_label=key,
            y_label=y_label,
            ticks=tuple(values),
            series=policy_lines(
                policies,
                range(len(values)),
                lambda policy, at: factor * getattr(of_case[policy, values[at]], attribute),
            ),
        )

    return Chart(
        name="sweep",
        title=f"{key} of {values[0]} to {values[-1]}",
        columns=2,
        panels=(
            panel("Goodput", "answers in time per second", "goodput_rps", 1),
            panel("Kept, of what is possible", "% of the bound", "share_of_bound", 100),
            panel("The worst-served model", "in time (%)", "least_model_share", 100),
            panel("Executors", "busy (%)", "utilisation", 100),
        ),
    )
