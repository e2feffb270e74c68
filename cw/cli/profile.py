"""Show how long a model's batches took on each kind of device, and how good the estimates were.

It reads what the executors wrote down of every run, so the cluster may be down. Probes, which are
run to be measured, count as any other run; the estimates are judged by runs with requests only.

Examples:
  cw profile resnet18
  cw profile resnet18 --plot resnet18.svg
  cw profile resnet18 --last 24h --json
"""

import argparse
import difflib
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import attrs
from rich.table import Table

from cw.actors.telemetry import ActionRecord
from cw.cli.common import duration_ns, print_json, results, say
from cw.cli.record_files import (
    add_folder,
    cluster_folder,
    reading,
    record_files,
    say_what_was_skipped,
    some_of,
)
from cw.errors import ConfigError, CwError
from cw.messages import ModelId
from cw.models.store import ModelStore
from cw.records import files
from cw.records.charts import chart_of, histogram
from cw.records.files import Tally
from cw.records.profiles import P999_RUNS_MIN, BatchProfile, profiles_of
from cw.sim.plots import draw
from cw.units import MS, SECOND

_PLOTS: Final = (".png", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("name", metavar="NAME", help="of the model")
    add_folder(parser)
    parser.add_argument(
        "--last",
        type=duration_ns,
        default="1h",
        metavar="1h",
        help="judge the estimates of so long; default 1h (durations are of all records)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the distributions into a .png or .svg file"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.plot is not None and args.plot.suffix not in _PLOTS:
        raise ConfigError(f"expected --plot FILE.png or FILE.svg, got {args.plot}")
    folder = cluster_folder(args.folder)
    paths = record_files(folder)
    choice = _Choice(args.name, ModelStore(folder / "store"))
    tally = Tally()
    with reading(paths, f"reading runs of {args.name}") as advance:
        records = choice.picked(files.read(paths, tally=tally, advance=advance))
        profiles = profiles_of(records, since_ns=time.time_ns() - args.last)
    say_what_was_skipped(tally)
    if not profiles:
        raise ConfigError(choice.why_nothing(tally))
    if args.json:
        print_json({"model": args.name, "last_s": args.last / SECOND, **_json(choice, profiles)})
    else:
        _show(args, choice, profiles)
    if args.plot is not None:
        _plot(args.name, profiles, args.plot)
        say(f"wrote {args.plot}")
    return 0


@attrs.define(eq=False)
class _Choice:
    """Which records are the model's: those of the version that is served, or all of its name."""

    name: str
    store: ModelStore
    other_versions: int = 0
    """Runs of other weights or another program under that name."""
    first_date_ns: int = 0
    _model_id: ModelId | None = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        try:
            self._model_id = self.store.get(self.name).manifest.to_spec().model_id
        except (CwError, OSError):
            self._model_id = None  # removed since, perhaps: its records still have its name

    def picked(self, records: Iterator[ActionRecord]) -> Iterator[ActionRecord]:
        """Pass on the model's records."""
        for record in records:
            if record.model != self.name or record.kind != "INFER":
                continue
            if self._model_id is not None and record.model_id != self._model_id:
                self.other_versions += 1
                continue
            self.first_date_ns = min(self.first_date_ns or record.date_ns, record.date_ns)
            yield record

    def why_nothing(self, tally: Tally) -> str:
        """Say what is known instead of the model's runs."""
        if self._model_id is not None:
            return (
                f"{self.name} is in the store, but no run of it has ended yet: 'cw model show "
                f"{self.name}' says how far its registration has come"
            )
        try:
            stored = {model.manifest.name for model in self.store.models()}
        except (CwError, OSError):
            stored = set()
        known = sorted((stored | tally.models) - {""})
        if not known:
            return f"no model {self.name!r}, nor any other: add one with 'cw model add'"
        close = difflib.get_close_matches(self.name, known)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        return f"no model {self.name!r}; {hint}there are: {some_of(known)}"


def _json(choice: _Choice, profiles: Sequence[BatchProfile]) -> dict[str, Any]:
    return {
        "since": _date(choice.first_date_ns),
        "batches": [profile.to_json() for profile in profiles],
    }


def _show(args: argparse.Namespace, choice: _Choice, profiles: Sequence[BatchProfile]) -> None:
    span = _span(args.last)
    for device, group in groupby(profiles, lambda profile: profile.device):
        batches = list(group)
        results.print(_table(f"{args.name} on {device}, ms on the device", batches, span))
        for profile in batches:
            results.print(f"batch {profile.batch_size:>3} {histogram(profile)}", soft_wrap=True)
        results.print()
    for remark in _remarks(choice, profiles, span):
        results.print(remark, soft_wrap=True)


def _table(title: str, batches: Sequence[BatchProfile], span: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("batch", justify="right")
    for heading in ("runs", "p50", "p99", "p99.9", "max", "p99/p50", "estimate"):
        table.add_column(heading, justify="right")
    for heading in ("covered", "estimate/actual\nmean", "\np99"):
        table.add_column(f"{span}: {heading}" if heading == "covered" else heading, justify="right")
    for profile in batches:
        hindsight = profile.hindsight
        table.add_row(
            str(profile.batch_size),
            f"{profile.runs:,}",
            _ms(profile.p50_ns),
            _ms(profile.p99_ns),
            "-" if profile.p999_ns is None else _ms(profile.p999_ns),
            _ms(profile.max_ns),
            f"{profile.spread:.3f}",
            _ms(profile.estimate_ns),
            "-" if hindsight is None else f"{hindsight.covered_share:.2%} of {hindsight.runs:,}",
            "-" if hindsight is None else f"{hindsight.ratio_mean:.3f}",
            "-" if hindsight is None else f"{hindsight.ratio_p99:.3f}",
        )
    return table


def _remarks(choice: _Choice, profiles: Sequence[BatchProfile], span: str) -> Iterator[str]:
    probes = sum(profile.probes for profile in profiles)
    yield (
        f"all runs since {_date(choice.first_date_ns)}; {probes:,} of them were probes, run to be "
        "measured, by which estimates are not judged"
    )
    yield (
        "estimate (│ in the histograms, which leave out the slowest 1 %): what the latest run was "
        "planned with"
    )
    few = [profile for profile in profiles if profile.runs < P999_RUNS_MIN]
    if few:
        counts = ", ".join(f"batch {profile.batch_size}: {profile.runs:,}" for profile in few)
        yield f"p99.9 needs {P999_RUNS_MIN:,} runs; there are fewer of {counts}"
    if all(profile.hindsight is None for profile in profiles):
        latest = _date(max(profile.last_date_ns for profile in profiles))
        yield f"no run with requests in the {span}; the latest run ended {latest}: see --last"
    if choice.other_versions:
        yield (
            f"{choice.other_versions:,} runs of other weights or programs that had this name are "
            "left out"
        )


def _plot(model: str, profiles: Sequence[BatchProfile], out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="cw-profile-") as folder:
        drawn = draw(chart_of(model, profiles), Path(folder))
        shutil.copyfile(next(path for path in drawn if path.suffix == out.suffix), out)


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / MS:.3f}"


def _span(last_ns: int) -> str:
    hours = last_ns / (3600 * SECOND)
    return "last hour" if hours == 1 else f"last {hours:g} h"


def _date(date_ns: int) -> str:
    return datetime.fromtimestamp(date_ns / SECOND, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
