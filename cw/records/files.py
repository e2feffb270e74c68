"""Files of action records: where a cluster keeps them, and how they are read.

A file is read while an executor appends to it, and after a crash in the midst of a line: a last
line without its end is none yet, and a line that makes no sense is counted and passed over. Lines
are read one by one, so that a full file (256 MiB) needs no more memory than a short one.

Within a file the epochs ascend, and ends of actions nearly do: by that the last seconds of a
large file are found without reading all of it (`Span`).
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs

from cw.actors.telemetry import ActionRecord
from cw.units import SECOND, MiB

KINDS: Final = ("INFER", "LOAD", "UNLOAD", "PREPARE")
SUFFIX: Final = ".actions.jsonl"
_OLDER: Final = ".1"
"""What `actors/telemetry.py` adds to the name of a full file."""

_DISORDER_NS: Final = 2 * SECOND
"""Records are written in the order of their telling: a batch's comes a turn of the event loop after
its end, so even a stalled executor's are in order to within this."""
_TAIL_BYTES: Final = MiB
"""Holds the last whole line of any file: lines have some 700 bytes."""
_STEP_BYTES: Final = 4 * MiB
"""Where so little is left, reading is as quick as searching; also between two signs of progress."""


@attrs.define
class Tally:
    """What was read, besides the records themselves."""

    records: int = 0
    damaged: int = 0
    """Lines that are no record: cut off by a crash, or by a disk that was full."""
    foreign: int = 0
    """Lines that another version of cw wrote, with other columns."""
    models: set[str] = attrs.field(factory=set)
    """The names of the models that were read of, wanted or not."""


@attrs.frozen
class Span:
    """Which records are wanted: those of an epoch that ended at an instant or later."""

    epoch: int
    since_ns: int = 0

    def holds(self, record: ActionRecord) -> bool:
        """Say whether a record is wanted."""
        return record.epoch == self.epoch and record.end_ns >= self.since_ns

    def is_after(self, record: ActionRecord) -> bool:
        """Say whether all that is wanted surely stands behind a record."""
        if record.epoch != self.epoch:
            return record.epoch < self.epoch
        return record.end_ns < self.since_ns - _DISORDER_NS


def find(folder: Path) -> list[Path]:
    """List the files in a cluster's folder, by executor, older before newer; none is no error."""
    logs = folder / "logs"
    return in_order([*logs.glob(f"*{SUFFIX}"), *logs.glob(f"*{SUFFIX}{_OLDER}")])


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Sort files by executor, older before newer."""

    def key(path: Path) -> tuple[str, bool]:
        return str(path).removesuffix(_OLDER), path.suffix != _OLDER

    return sorted(paths, key=key)


def read(
    paths: Iterable[Path],
    *,
    tally: Tally,
    span: Span | None = None,
    advance: Callable[[int], None] = lambda size_bytes: None,
) -> Iterator[ActionRecord]:
    """Read records, file after file.

    Args:
        paths: The files; one that is gone (full, and replaced meanwhile) is skipped.
        tally: Counts what comes, and what does not.
        span: What is wanted; None means everything.
        advance: Told of bytes that are done, for a progress bar: some MiB at a time.
    """
    for path in paths:
        try:
            file = path.open("rb")
        except FileNotFoundError:
            continue
        with file:
            yield from _read_file(file, tally, span, advance)


def last(path: Path) -> ActionRecord | None:
    """Read the last record of a file; None if it has none."""
    with path.open("rb") as file:
        size_bytes = file.seek(0, 2)
        file.seek(max(0, size_bytes - _TAIL_BYTES))
        lines = file.read().split(b"\n")
    ignored = Tally()
    # What stands behind the last newline is a line that is being written.
    found = (parse(line, ignored) for line in reversed(lines[:-1]))
    return next((record for record in found if record is not None), None)


def parse(line: bytes, tally: Tally) -> ActionRecord | None:
    """Read a line; None, and counted, if it is no record."""
    try:
        columns = json.loads(line)
    except ValueError:
        tally.damaged += 1
        return None
    if not isinstance(columns, dict):
        tally.damaged += 1
        return None
    return _record(columns, tally)


def _record(columns: dict[str, Any], tally: Tally) -> ActionRecord | None:
    try:
        record = ActionRecord(**columns)
    except TypeError:
        tally.foreign += 1
        return None
    if record.kind not in KINDS:
        tally.foreign += 1
        return None
    tally.records += 1
    tally.models.add(record.model)
    return record


def _read_file(
    file: BinaryIO, tally: Tally, span: Span | None, advance: Callable[[int], None]
) -> Iterator[ActionRecord]:
    begin = told = _begin_of(file, span) if span is not None else 0
    advance(begin)
    file.seek(begin)
    at = begin
    for line in file:
        at += len(line)
        if not line.endswith(b"\n"):
            break  # it is being written
        record = parse(line, tally)
        if record is not None and (span is None or span.holds(record)):
            yield record
        if at - told > _STEP_BYTES:
            advance(at - told)
            told = at
    advance(at - told)


def _begin_of(file: BinaryIO, span: Span) -> int:
    """Find an offset before which nothing is wanted, at the beginning of a line."""
    low, high = 0, file.seek(0, 2)
    while high - low > _STEP_BYTES:
        middle = (low + high) // 2
        file.seek(middle)
        begin = middle + len(file.readline())
        record = _next_record(file)
        if record is not None and span.is_after(record):
            low = begin
        else:
            high = middle
    return low


def _next_record(file: BinaryIO) -> ActionRecord | None:
    """Read on to the next line that is a record, for some lines."""
    ignored = Tally()
    for _ in range(8):
        record = parse(file.readline(), ignored)
        if record is not None:
            return record
    return None
