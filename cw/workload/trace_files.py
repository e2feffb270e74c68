"""Trace files: recorded arrivals of real services, as instants from their first request.

Read as they are published, plain or gzipped:

- CSV with a header and a column of times: the Azure LLM inference traces of 2023 (``TIMESTAMP``),
  the Azure Functions trace of 2021 (``end_timestamp``), Alibaba's GenAI trace of 2026
  (``gmt_create``). Times are ISO dates or seconds.
- Counts by the second, as whole numbers on one line: Twitter's of 2018 (`read_counts`).
- One number a line, in seconds: instants if they never decrease, otherwise the gaps between
  requests. A file of gaps that never decrease would be read as instants, so one may say which it is
  in a first line ``# gaps`` or ``# instants``.

Where a trace says what each request was for, `model_traces.py` reads that, too.

Source: github.com/Azure/AzurePublicDataset, github.com/alibaba/clusterdata,
github.com/reconfigurable-ml-pipeline/ipa.
"""

import csv
import gzip
import itertools
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cw.errors import ConfigError
from cw.units import SECOND

TIME_COLUMNS: Final = ("TIMESTAMP", "gmt_create", "end_timestamp", "timestamp")


def read_instants_ns(path: Path) -> list[int]:
    """Read a trace file: instants (ns), in order, the first at 0.

    Raises:
        ConfigError: It can't be read, is empty, or a line is not what the format has there.
    """
    lines = read_lines(path)
    column = time_column(lines)
    instants_ns = _from_csv(path, lines, column) if column else _from_numbers(path, lines)
    if not instants_ns:
        raise ConfigError(f"expected at least one request in the trace {path}, found none")
    # Traces are written as requests end or as machines report: nearly, not quite, in order.
    instants_ns.sort()
    return [instant_ns - instants_ns[0] for instant_ns in instants_ns]


def read_counts(path: Path) -> list[int]:
    """Read requests per second, as whole numbers between spaces or lines.

    Raises:
        ConfigError: It can't be read, is empty, or something else stands in it.
    """
    try:
        counts = [int(word) for line in read_lines(path) for word in line.split()]
    except ValueError as exc:
        raise ConfigError(f"{path}: expected whole numbers between spaces: {exc}") from exc
    if not counts or min(counts) < 0 or not max(counts):
        raise ConfigError(f"expected counts, 0 or more and not all 0, in the trace {path}")
    return counts


def read_lines(path: Path) -> list[str]:
    """Read a text file, plain or gzipped.

    Raises:
        ConfigError: It can't be read.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as exc:
        raise ConfigError(f"expected a readable trace at {path}: {exc}") from exc
    return text.splitlines()


def time_column(lines: list[str]) -> str | None:
    """Find the column of times that a CSV's header names; None if there is none."""
    header = next(csv.reader(lines[:1]), [])
    return next((name for name in TIME_COLUMNS if name in header), None)


def _from_csv(path: Path, lines: list[str], column: str) -> list[int]:
    instants_ns = []
    for number, row in enumerate(csv.DictReader(lines), start=2):
        try:
            instants_ns.append(instant_ns(row[column]))
        except (TypeError, ValueError) as exc:
            raise ConfigError(
                f"{path}:{number}: expected a time (ISO date or seconds) in column {column!r}: "
                f"{exc}"
            ) from exc
    return instants_ns


def instant_ns(text: str) -> int:
    """Read a time: seconds, or an ISO date.

    Raises:
        ValueError: It is neither.
    """
    try:
        return round(float(text) * SECOND)
    except ValueError:
        pass  # a date, then
    whole, _, fraction = text.partition(".")
    moment = datetime.fromisoformat(whole)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    digits = fraction[:9].rstrip("Z")
    return round(moment.timestamp()) * SECOND + int(digits.ljust(9, "0") or "0")


def _from_numbers(path: Path, lines: list[str]) -> list[int]:
    said, values_ns = None, []
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if text.startswith("#"):
            said = said or text.lstrip("# ").lower()
        elif text:
            try:
                values_ns.append(round(float(text) * SECOND))
            except ValueError as exc:
                raise ConfigError(
                    f"{path}:{number}: expected a number of seconds, got {text[:40]!r}; a CSV "
                    f"needs a header with one of {', '.join(TIME_COLUMNS)}"
                ) from exc
    ordered = all(before <= after for before, after in itertools.pairwise(values_ns))
    if said == "gaps" or (said != "instants" and not ordered):
        return list(itertools.accumulate(values_ns))
    return values_ns
