"""``tools/bench_executor``: how well executors keep time on this machine.

Each benchmark prints its figures beside their limit, measured in the same run, and says whether
what was aimed at is reached. They want a machine on which nothing else runs.
"""

import argparse
import importlib
import json
from collections.abc import Callable
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cw.benchmarks.report import Report
from cw.errors import ConfigError

BENCHMARKS: Final = {
    "emulated": "start errors of eight emulated lanes in one process",
    "wire": "prediction errors of a cluster with one emulated executor",
    "controller": "processor time of a controller over the wire, 1 to 1,000 executors",
    "cpu": "durations through a lane of the cpu device, beside the bare loop",
    "load": "LOADs of the cpu device, beside a plain copy",
    "swap": "64 models through room for 16, in a cluster of one cpu executor",
    "cuda": "replays, LOADs, predictions and models of the cuda device; not among `all`",
    "memory": "what an executor takes beyond weights, and whether it grows",
}
"""Name, and what it measures; each is a module beside this one, with a `run`."""

_WIDTH_MIN: Final = 110
"""Of the widest table: better wrapped by the terminal than its columns cut off."""

_STATUS_CANNOT_RUN: Final = 3
"""As of `tools/gpu_check` where there is no GPU."""


def main(words: list[str]) -> int:
    """Run what the command line asks for; return 0 if all ran, whatever they found."""
    parser = argparse.ArgumentParser(
        prog="tools/bench_executor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:10} {text}" for name, text in BENCHMARKS.items()),
    )
    parser.add_argument("benchmark", choices=[*BENCHMARKS, "all"], help="which one")
    parser.add_argument("--minutes", type=float, help="of `memory`: 10 for a soak (default: 1)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = parser.parse_args(words)
    everywhere = [name for name in BENCHMARKS if name != "cuda"]  # needs a GPU
    names = everywhere if args.benchmark == "all" else [args.benchmark]
    console = Console(stderr=args.json)
    console.width = max(console.width, _WIDTH_MIN)
    reports = {}
    for name in names:
        try:
            reports[name] = _run(name, args, console)
        except ConfigError as problem:  # e.g. no GPU
            parser.exit(_STATUS_CANNOT_RUN, f"{name} can't run here: {problem}\n")
        reports[name].show(console)
    if args.json:
        print(json.dumps({name: report.as_json() for name, report in reports.items()}))
    return 0


def _run(name: str, args: argparse.Namespace, console: Console) -> Report:
    run: Callable[[], Any] = importlib.import_module(f"cw.benchmarks.{name}").run
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(f"{name}: {BENCHMARKS[name]}", total=None)
        report: Report = run(**_options(name, args))
    return report


def _options(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return {"minutes": args.minutes} if name == "memory" and args.minutes else {}
