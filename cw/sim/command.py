"""The command ``cw simulate``, which ``python -m cw.sim`` is, too: one run, several, or a figure.

Neighbours: `runner.py` (arguments of one scenario), `comparison.py` (several of them side by side),
`experiments/` (by name), `show.py` (what is printed and kept).
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cw.errors import ConfigError
from cw.sim import comparison, experiments, plots, runner, show
from cw.sim.experiments.experiment import Options, summary_of
from cw.sim.experiments.pool import Pool
from cw.sim.report import format_report

_people: Final = Console(stderr=True, highlight=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    runner.add_arguments(parser)
    several = parser.add_argument_group("several runs, and what is kept of them")
    arg = several.add_argument
    arg(
        "--compare",
        metavar="POLICY,POLICY",
        help="run each policy, and show them side by side; NAME or NAME:KEY=VALUE:KEY=VALUE",
    )
    arg(
        "--sweep",
        metavar="KEY=A,B,C",
        help="run each value of an argument (rate, slo, executors, models ...) or a setting",
    )
    arg("--out", type=Path, metavar="DIR", help="write tables (CSV) and plots (PNG, SVG) there")
    arg("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (%(default)s)")
    figure = parser.add_argument_group(
        "experiments",
        "The paper's figures and our goals; these take none of the scenario's options.",
    )
    arg = figure.add_argument
    arg("--experiment", choices=experiments.NAMES, help="run one of these")
    arg("--describe", action="store_true", help="tell its set-up and what is published, no more")
    arg("--quick", action="store_true", help="shorter traffic: for a look, not for a claim")
    arg("--seeds", type=int, help="how many, from 1 on")
    arg("--policies", default="", metavar="POLICY,POLICY", help="in place of the experiment's own")
    arg("--minutes", type=float, help="of traffic, for fig6 and fig9")
    arg("--only", default="", metavar="CASE,CASE", help="of its cases; a wrong one lists them all")
    arg("--time-scale", type=float, default=1.0, help="multiplies all traffic's length")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return the exit status.

    Raises:
        ConfigError: The arguments are not what was expected, or plots can't be drawn.
        InvariantBroken: Something happened in a run that must never happen.
    """
    if arguments.out is not None:
        plots.require()
    if arguments.jobs < 1:
        raise ConfigError(f"expected --jobs of at least 1, got {arguments.jobs}")
    if arguments.experiment:
        return _run_experiment(arguments)
    return _run_scenarios(arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``python -m cw.sim``."""
    parser = argparse.ArgumentParser(
        prog="python -m cw.sim",
        description="Run the scheduler against a seeded world in virtual time.",
    )
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except ConfigError as exc:
        print(f"cw: {exc}", file=sys.stderr)
        return 2


# --- scenarios ------------------------------------------------------------------------------------


def _run_scenarios(arguments: argparse.Namespace) -> int:
    cases = comparison.cases_of(arguments)
    began_s = time.perf_counter()
    with shown_progress() as progress, Pool(jobs=arguments.jobs, progress=progress) as pool:
        reports = pool.run(
            [runner.scenario_from(case.arguments) for case in cases],
            what="simulating",
            validate_every=arguments.validate_every,
        )
    wall_s = None if arguments.repeatable else time.perf_counter() - began_s
    several = len(cases) > 1
    if arguments.json and several:
        _print_json(comparison.as_json(cases, reports), wall_s)
    elif arguments.json:
        print(reports[0].as_json(wall_seconds=wall_s))
    elif several:
        show.print_table(comparison.table_of(cases, reports))
    else:
        print(format_report(reports[0]))
    if wall_s is not None and not arguments.json:
        print(f"simulated in {wall_s:.1f} s")
    if arguments.out is not None:
        _say_written(comparison.write(cases, reports, arguments.out))
    return 0


# --- experiments ----------------------------------------------------------------------------------


def _run_experiment(arguments: argparse.Namespace) -> int:
    name: str = arguments.experiment
    experiment = experiments.find(name)
    if arguments.describe:
        print((experiment.__doc__ or "").strip())
        return 0
    options = _options(arguments)
    began_s = time.perf_counter()
    with shown_progress() as progress, Pool(jobs=arguments.jobs, progress=progress) as pool:
        result = experiment.run(options, pool)
    wall_s = None if arguments.repeatable else time.perf_counter() - began_s
    if arguments.json:
        _print_json(show.result_as_json(name, result), wall_s)
    else:
        print(f"{name}: {summary_of(experiment)}\n{result.set_up}\n")
        for table in result.tables:
            show.print_table(table)
    if wall_s is not None and not arguments.json:
        _people.print(f"simulated in {wall_s:.1f} s")
    if arguments.out is not None:
        _say_written(show.write_result(name, result, arguments.out))
    return 0


def _options(arguments: argparse.Namespace) -> Options:
    try:
        return Options(
            quick=arguments.quick,
            time_scale=arguments.time_scale,
            seeds=arguments.seeds,
            policies=tuple(filter(None, arguments.policies.split(","))),
            minutes=arguments.minutes,
            only=tuple(filter(None, arguments.only.split(","))),
        )
    except ValueError as exc:
        named = {field.name for field in attrs.fields(Options)}
        text = str(exc)
        option = next((name for name in sorted(named) if name in text), "options")
        raise ConfigError(f"--{option.replace('_', '-')}: {text}") from exc


# --- what is said ---------------------------------------------------------------------------------


def _print_json(value: dict[str, Any], wall_s: float | None) -> None:
    timed = {} if wall_s is None else {"wall_seconds": round(wall_s, 3)}
    print(json.dumps(value | timed))


def _say_written(paths: Sequence[Path]) -> None:
    _people.print("wrote " + " ".join(str(path) for path in paths), soft_wrap=True)


@contextmanager
def shown_progress() -> Iterator[Callable[[str, float], None]]:
    """Show on stderr how far a long run is, where somebody can see it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    hidden = not _people.is_terminal
    with Progress(*columns, console=_people, transient=True, disable=hidden) as bar:
        tasks: dict[str, Any] = {}

        def tell(what: str, share: float) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=1.0)
            bar.update(tasks[what], completed=share)

        yield tell
