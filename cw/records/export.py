"""A trace file of many record files: chosen, streamed, and written whole or not at all."""

import fnmatch
import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Final, TextIO

import attrs

from cw.actors.telemetry import ActionRecord
from cw.errors import ConfigError
from cw.records import files
from cw.records.files import Span, Tally
from cw.records.timing import Timings
from cw.records.trace import FOOT, HEAD, ExecutorTrace

_SEPARATOR: Final = ",\n"


@attrs.frozen(kw_only=True)
class Choice:
    """Which records are wanted."""

    paths: tuple[Path, ...]
    span: Span
    model: str = "*"
    """A model's name; ``*`` and ``?`` match."""


def choose(
    paths: Sequence[Path], *, last_ns: int | None = None, epoch: int | None = None, model: str = "*"
) -> Choice:
    """Choose the records of one epoch, up to its end.

    Args:
        paths: Files of records.
        last_ns: So much of the end; None means all.
        epoch: The reign of a controller; None means the latest that left any record. Instants of
            different reigns can't be compared, so a trace is of one.
        model: As in `Choice`.

    Raises:
        ConfigError: There are no records.
    """
    ends = [record for path in paths if (record := files.last(path)) is not None]
    if not ends:
        raise ConfigError(
            f"expected action records in {', '.join(map(str, paths))}, found not one whole line of "
            "this version's: send some load ('cw bench') and try again"
        )
    chosen = max(record.epoch for record in ends) if epoch is None else epoch
    end_ns = max((record.end_ns for record in ends if record.epoch == chosen), default=None)
    since_ns = -(1 << 62)
    if last_ns is not None:
        if end_ns is None:
            raise ConfigError(
                f"epoch {chosen} is not the latest of any executor, so its last seconds are not "
                "known: leave --last out"
            )
        since_ns = end_ns - last_ns
    return Choice(paths=tuple(paths), span=Span(chosen, since_ns), model=model)


def read(
    choice: Choice, *, tally: Tally, advance: Callable[[int], None] = lambda size_bytes: None
) -> Iterator[ActionRecord]:
    """Read what was chosen, file after file; a record without a model's name matches ``*`` only."""
    records = files.read(choice.paths, tally=tally, span=choice.span, advance=advance)
    if choice.model == "*":
        return records
    return (record for record in records if fnmatch.fnmatchcase(record.model, choice.model))


def write_trace(records: Iterator[ActionRecord], out: Path) -> Timings:
    """Write a trace and measure what is in it.

    Args:
        records: Those of an executor together, in the order of their lines.
        out: The file, gzipped if its name ends in ``.gz``; it appears when it is whole.
    """
    timings = Timings()
    with _draft(out) as file:
        file.write(HEAD)
        separator = ""
        for pid, (executor, own) in enumerate(groupby(records, lambda it: it.executor), start=1):
            for events in _events(pid, executor, own, timings):
                if events:
                    file.write(separator + _SEPARATOR.join(events))
                    separator = _SEPARATOR
        file.write(FOOT)
    return timings


def _events(
    pid: int, executor: str, records: Iterator[ActionRecord], timings: Timings
) -> Iterator[list[str]]:
    trace = None
    for record in records:
        if trace is None:
            trace = ExecutorTrace(pid, f"{executor} ({record.device})")
            yield trace.begin()
        timings.add(record)
        yield trace.events(record)
    if trace is not None:
        yield trace.end()


@contextmanager
def _draft(out: Path) -> Iterator[TextIO]:
    """Open a file that takes its name only when all went well."""
    draft = out.with_name(out.name + ".new")
    try:
        opened = gzip.open if out.suffix == ".gz" else open
        with opened(draft, "wt", encoding="utf-8") as file:
            yield file
        os.replace(draft, out)
    finally:
        draft.unlink(missing_ok=True)
