"""Journals: numbered usage records in a file, from their writing until the catalog has them.

The concept: a record is handed to the system (`os.write`) before what it is about is told to
anybody. The system's cache outlives the process, so that no kind of SIGKILL loses a record; a power
cut loses the seconds that the system had not written yet (no fsync: it would take milliseconds of
every action). What began is written too, before it begins: what the file shows as begun and not
ended, when the next life opens it, is *unknown*.

One file for each life, ``usage-INCARNATION.journal``; a line each, with its checksum::

    1c291ca3 ["b",17,["resnet",471234,[[1,3],[2,1]]]]      began: a name, and for whom
    8f3a0d11 ["e",17,42,[[471234,1,"resnet",1875000,0,0,0,0,0,0,0]]]   ended: record 42

A torn last line is a write that did not end: what it would have told was told to nobody. Once the
catalog has most of a file, the little that it has still to tell is written into a new one, which
takes its place whole or not at all; when its life is over, it is deleted. Its size is bounded:
records that do not fit are counted (`lost`), logged, and lost, since an executor that stops because
the catalog does would break promises for the sake of their bills.

Neighbours: `meters.py` writes, `sender.py` sends.
"""

import json
import logging
import os
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from cw.messages import Incarnation, TenantId, UsageBatch, UsageEntry, UsageRecord
from cw.units import MiB

logger = logging.getLogger(__name__)

JOURNAL_BYTES_MAX: Final = 64 * MiB
"""Some 500,000 records: what a busy executor writes in a quarter of an hour."""
CUT_BYTES: Final = 1 * MiB
"""A file of this size is written anew, without what the catalog has."""
CUT_LINES_MAX: Final = 64
"""More than so many lines are not written anew at once, since that would hold up whoever meters;
the next acknowledgement finds fewer."""
_CUT_SUFFIX: Final = ".cut"
_SUFFIX: Final = ".journal"
_PREFIX: Final = "usage-"
_FIELDS: Final = tuple(field.name for field in attrs.fields(UsageEntry))


class Journal:
    """The journal of this life of one process.

    Args:
        folder: Where this and earlier lives' journals are.
        source: Kind and name of the process.
        incarnation: This life.
        bytes_max: Bound on the file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        source: str,
        incarnation: Incarnation,
        bytes_max: int = JOURNAL_BYTES_MAX,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f"{_PREFIX}*{_CUT_SUFFIX}"):
            unfinished.unlink()  # an earlier life was killed over it; its journal is whole
        self.source: Final = source
        self.incarnation: Final = incarnation
        self.path: Final = folder / f"{_PREFIX}{incarnation}{_SUFFIX}"
        self._bytes_max = bytes_max
        self._file = _open(self.path)
        self._size = os.fstat(self._file).st_size
        self._number = 0
        self._unsent: deque[UsageRecord] = deque()
        self._begun: dict[int, tuple[UsageEntry, ...]] = {}
        self.lost = 0
        """Records that found no room."""

    def begin(self, name: int, entries: tuple[UsageEntry, ...]) -> None:
        """Write down that something begins, and what is unknown if its end is never written.

        Args:
            name: Of what begins; not used again in this life.
            entries: Each with its `unknown`.
        """
        if self._write(["b", name, _rows(entries)]):
            self._begun[name] = entries

    def end(self, name: int, entries: tuple[UsageEntry, ...]) -> None:
        """Write down what was used by what began; nothing if nothing was."""
        self._begun.pop(name, None)
        self._append(name, entries)

    def add(self, entries: tuple[UsageEntry, ...]) -> None:
        """Write down what was used by nothing in particular."""
        self._append(0, entries)

    def _append(self, name: int, entries: tuple[UsageEntry, ...]) -> None:
        number = self._number + 1
        if not self._write(["e", name, number if entries else 0, _rows(entries)]):
            self.lost += bool(entries)
            return
        if entries:
            self._number = number
            self._unsent.append(UsageRecord(number=number, entries=entries))

    def _write(self, line: list[Any]) -> bool:
        data = _line(line)
        if self._size + len(data) > self._bytes_max:
            if not self.lost:
                logger.error(
                    "usage_lost source=%s why='%s has its %d bytes: the catalog takes nothing; see "
                    "the controller'",
                    self.source,
                    self.path,
                    self._bytes_max,
                )
            return False
        try:
            written = os.write(self._file, data)
            if written != len(data):  # half a line: it would hide those that come after it
                os.ftruncate(self._file, self._size)
                raise OSError(f"wrote {written} of {len(data)} bytes")
        except OSError as exc:
            logger.error("usage_lost source=%s path=%s why=%r", self.source, self.path, str(exc))
            return False
        self._size += len(data)
        return True

    def unsent(self, count: int) -> UsageBatch | None:
        """Give the next records that the catalog may not have; None if there are none."""
        if not self._unsent:
            return None
        records = tuple(record for record, _ in zip(self._unsent, range(count), strict=False))
        return UsageBatch(source=self.source, incarnation=self.incarnation, records=records)

    def acknowledge(self, through: int) -> None:
        """Forget what the catalog has, and cut the file where that is nearly all of it."""
        while self._unsent and self._unsent[0].number <= through:
            self._unsent.popleft()
        # A busy process always has something begun and something unsent.
        few = len(self._unsent) + len(self._begun) <= CUT_LINES_MAX
        if few and self._size >= CUT_BYTES:
            self._cut()

    def _cut(self) -> None:
        """Put a file in place of this one that holds only what the catalog may not have."""
        known = self._unsent[0].number - 1 if self._unsent else self._number
        lines: list[list[Any]] = [["n", known]]
        lines += (["b", name, _rows(entries)] for name, entries in self._begun.items())
        lines += (["e", 0, record.number, _rows(record.entries)] for record in self._unsent)
        data = b"".join(map(_line, lines))
        beside = self.path.with_suffix(_CUT_SUFFIX)
        try:
            file = _open(beside, os.O_TRUNC)
            try:
                written = os.write(file, data)
                if written != len(data):
                    raise OSError(f"wrote {written} of {len(data)} bytes")
                beside.replace(self.path)
            except OSError:
                os.close(file)
                raise
        except OSError as exc:  # the old one goes on
            logger.error("usage_not_cut source=%s path=%s why=%r", self.source, beside, str(exc))
            return
        os.close(self._file)
        self._file, self._size = file, len(data)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


def read_earlier(
    folder: Path, *, source: str, incarnation: Incarnation
) -> Iterator[tuple[Path, UsageBatch]]:
    """Read the journals of earlier lives, oldest first; what had not ended is unknown.

    Args:
        folder: Where they are.
        source: Kind and name of the process.
        incarnation: This life, whose own journal is left out.
    """
    lives = []
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        name = path.name.removeprefix(_PREFIX).removesuffix(_SUFFIX)
        if name.isdecimal() and int(name) != incarnation:
            lives.append((int(name), path))
    for life, path in sorted(lives):
        records = tuple(read_records(path))
        yield path, UsageBatch(source=source, incarnation=Incarnation(life), records=records)


def read_records(path: Path) -> list[UsageRecord]:
    """Read a journal that nobody writes any more, up to the first line that is not whole.

    Returns:
        Its records, and one more, always with the next number, of what had not ended.
    """
    records: list[UsageRecord] = []
    begun: dict[int, tuple[UsageEntry, ...]] = {}
    number = 0
    for line in path.read_bytes().split(b"\n"):
        content = _content(line)
        if content is None:
            break
        match content:
            case ["b", name, rows]:
                begun[name] = _entries(rows)
            case ["e", name, record, rows]:
                begun.pop(name, None)
                if record:
                    number = record
                    records.append(UsageRecord(number=record, entries=_entries(rows)))
            case ["n", known]:
                number = known
    unknown = tuple(entry for entries in begun.values() for entry in entries)
    if unknown:
        records.append(UsageRecord(number=number + 1, entries=unknown))
    return records


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, 0o600)


def _line(content: list[Any]) -> bytes:
    data = json.dumps(content, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _content(line: bytes) -> list[Any] | None:
    checksum, _, data = line.partition(b" ")
    if not data or checksum != b"%08x" % zlib.crc32(data):
        return None
    content: list[Any] = json.loads(data)
    return content


def _rows(entries: tuple[UsageEntry, ...]) -> list[tuple[Any, ...]]:
    return [tuple([getattr(entry, name) for name in _FIELDS]) for entry in entries]


def _entries(rows: list[list[Any]]) -> tuple[UsageEntry, ...]:
    return tuple(
        UsageEntry(**{**dict(zip(_FIELDS, row, strict=True)), "tenant_id": TenantId(row[1])})
        for row in rows
    )
