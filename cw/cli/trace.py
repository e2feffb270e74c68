"""Export what executors did as a trace, planned beside actual.

The trace opens in https://ui.perfetto.dev and chrome://tracing: a process per executor, and for
each of its lanes a row of plans above a row of what came true. It is of one reign of a controller,
the latest, since instants of two can't be compared.

Examples:
  cw trace export --last 10s
  cw trace export --model 'resnet18-*' --out resnets.json.gz
  cw trace export executor-0.actions.jsonl --json
  cw trace draw --last 100ms --out lanes.png
"""

import argparse
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.table import Table

from cw.actors.telemetry import ActionRecord
from cw.cli.common import duration_ns, people, print_json, say
from cw.cli.record_files import (
    add_folder,
    cluster_folder,
    reading,
    record_files,
    say_what_was_skipped,
    some_of,
)
from cw.errors import ConfigError
from cw.records.export import Choice, choose, read, write_trace
from cw.records.files import Tally, in_order
from cw.records.picture import draw_lanes
from cw.records.timing import Errors, Timing, Timings
from cw.units import US, format_bytes

_DRAWN = "100ms"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    export = verbs.add_parser("export", help="write a trace for ui.perfetto.dev, and a summary")
    export.add_argument(
        "--out", type=Path, default=Path("trace.json"), help="default trace.json; or NAME.json.gz"
    )
    export.add_argument("--last", type=duration_ns, metavar="10s", help="only the end")
    export.add_argument("--json", action="store_true", help="print the summary on stdout")
    draw = verbs.add_parser("draw", help="draw the lanes of one executor (needs matplotlib)")
    draw.add_argument(
        "--out", type=Path, default=Path("lanes.png"), help="default lanes.png; or NAME.svg"
    )
    draw.add_argument("--last", type=duration_ns, default=_DRAWN, help="default 100ms")
    draw.add_argument("--executor", metavar="NAME", help="by default the busiest")
    for verb in (export, draw):
        add_folder(verb)
        verb.add_argument("--model", default="*", help="only this one's; * and ? match")
        verb.add_argument("--epoch", type=int, help="of an earlier controller: see the records")
        verb.add_argument("files", type=Path, nargs="*", metavar="FILE", help="instead of --folder")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    paths = _files(args)
    choice = choose(paths, last_ns=args.last, epoch=args.epoch, model=args.model)
    return _export(args, choice) if args.verb == "export" else _draw(args, choice)


def _files(args: argparse.Namespace) -> list[Path]:
    if not args.files:
        return record_files(cluster_folder(args.folder))
    if args.folder is not None:
        raise ConfigError("expected files or --folder, got both")
    for path in args.files:
        if not path.is_file():
            raise ConfigError(f"expected a file of action records, found none at {path}")
    return in_order(args.files)


def _export(args: argparse.Namespace, choice: Choice) -> int:
    tally = Tally()
    with reading(choice.paths, "exporting") as advance:
        records = _some(read(choice, tally=tally, advance=advance), choice, tally)
        timings = write_trace(records, args.out)
    say_what_was_skipped(tally)
    people.print(_table(timings))
    people.print(_windows(timings.total), soft_wrap=True)
    say(
        f"wrote {args.out} ({format_bytes(args.out.stat().st_size)}): open it in "
        "https://ui.perfetto.dev or chrome://tracing"
    )
    if args.json:
        print_json({"out": str(args.out), "epoch": choice.span.epoch, **timings.to_json()})
    return 0


def _draw(args: argparse.Namespace, choice: Choice) -> int:
    tally = Tally()
    with reading(choice.paths, "reading") as advance:
        records = list(_some(read(choice, tally=tally, advance=advance), choice, tally))
    say_what_was_skipped(tally)
    draw_lanes(records, args.out, executor=args.executor)
    say(f"wrote {args.out}")
    return 0


def _some(records: Iterator[ActionRecord], choice: Choice, tally: Tally) -> Iterator[ActionRecord]:
    """Pass records on, if there are any.

    Raises:
        ConfigError: There are none; says which models there would have been.
    """
    first = next(records, None)
    if first is not None:
        return chain((first,), records)
    models = sorted(tally.models - {""})
    if choice.model != "*" and models:
        raise ConfigError(
            f"expected actions of a model {choice.model!r}, got only some of {some_of(models)}; "
            "a longer --last may have more"
        )
    raise ConfigError(f"expected actions of epoch {choice.span.epoch}, got none")


def _table(timings: Timings) -> Table:
    """Show how well plans came true, per kind of action."""
    table = Table(title="plans and what came true", title_justify="left")
    for heading in ("", "actions", "ran", "in window"):
        table.add_column(heading, justify="right" if heading else "left")
    for error in ("start error", "duration error"):
        table.add_column(f"{error}, us\np1, p50, p99, max", justify="right")
    kinds = {kind: timing for kind, timing in timings.by_kind.items() if timing.actions}
    for kind, timing in {**kinds, "all": timings.total}.items():
        table.add_row(
            kind,
            f"{timing.actions:,}",
            f"{timing.ran:,}",
            f"{timing.in_window / timing.windowed:.2%}" if timing.windowed else "-",
            _shown(timing.start_errors),
            _shown(timing.duration_errors),
        )
    table.caption = "errors are actual less planned, in us: below 0 means early, or quicker"
    table.caption_justify = "left"
    return table


def _shown(errors: Errors | None) -> str:
    if errors is None:
        return "-"
    values_ns = (errors.p1, errors.p50, errors.p99, errors.max)
    return ", ".join(f"{value_ns / US:,.0f}" for value_ns in values_ns)


def _windows(total: Timing) -> str:
    """Say whether windows were honoured, and what the clocks can tell of it."""
    outside = total.windowed - total.in_window
    if not outside:
        return f"all {total.windowed:,} starts lay in their windows"
    surely = total.windowed - total.in_window_by_clock
    return (
        f"{outside:,} of {total.windowed:,} starts lay outside of their windows, "
        f"{surely:,} of them by more than the executor's clock may be wrong"
    )
