"""Traces that know what each request was for: their functions or models are laid on ours.

Recorded names outnumber models or fall short of them. So names are ordered by their volume, the
greatest first, and either laid on models in blocks (all of the trace is kept), or only the top ones
are taken, one model each.

Source: blocks as in Clockwork's replay of the Azure Functions trace (OSDI 2020, section 6.5):
function i of T, by volume, goes to model floor(M * i / T).
"""

import csv
import enum
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.streams import Recording
from cw.workload.trace_files import instant_ns, read_lines, time_column

_NAME_COLUMNS: Final = {
    "gmt_create": "checkpoint_model_version_id",
    "end_timestamp": "func",
}
"""By the column of times, the one that names what a request was for."""
_FIRST_MINUTE: Final = "1"
"""Heads the first column of counts in the Azure Functions trace of 2019."""


class Layout(enum.Enum):
    """How recorded names are laid on models."""

    BLOCKS = "blocks"
    """All of them, in blocks of about equal size by volume."""
    TOP = "top"
    """One model each, as many as there are models; the others' requests are left out."""


def read_requests(
    path: Path,
    *,
    models: tuple[int, ...],
    slo_ns: int,
    layout: Layout = Layout.BLOCKS,
    rate_rps: float | None = None,
) -> Recording:
    """Read requests with their names: Azure Functions 2021, or Alibaba's GenAI trace of 2026.

    Args:
        path: A CSV, plain or gzipped.
        models: On which its names are laid, the one with the greatest volume first.
        slo_ns: Of all requests.
        layout: How.
        rate_rps: As in `Recording`.

    Raises:
        ConfigError: It can't be read, or lacks the columns.
    """
    lines = read_lines(path)
    column = time_column(lines)
    named_by = _NAME_COLUMNS.get(column or "")
    header = next(csv.reader(lines[:1]), [])
    if column is None or named_by not in header:
        pairs = "; ".join(f"{time} with {name}" for time, name in _NAME_COLUMNS.items())
        raise ConfigError(f"expected columns of times and names ({pairs}) in {path}, got {header}")
    rows: list[tuple[int, str]] = []
    whole_seconds = True
    for number, row in enumerate(csv.DictReader(lines), start=2):
        try:
            began_ns = instant_ns(row[column]) - round(float(row.get("duration") or 0) * SECOND)
        except (TypeError, ValueError) as exc:
            raise ConfigError(
                f"{path}:{number}: expected a time (ISO date or seconds) in column {column!r}, and "
                f"seconds in 'duration' if there is one: {exc}"
            ) from exc
        whole_seconds = whole_seconds and began_ns % SECOND == 0
        rows.append((began_ns, row[named_by]))
    places = _lay(Counter(name for _, name in rows), len(models), layout)
    kept = sorted((began_ns, places[name]) for began_ns, name in rows if name in places)
    if not kept:
        raise ConfigError(f"expected at least one request in the trace {path}, found none")
    return Recording(
        instants_ns=array("q", (began_ns - kept[0][0] for began_ns, _ in kept)),
        places=array("q", (place for _, place in kept)),
        models=models,
        slo_ns=slo_ns,
        rate_rps=rate_rps,
        grain_ns=SECOND if whole_seconds else 0,
    )


def _lay(volumes: Mapping[str, int], models: int, layout: Layout) -> dict[str, int]:
    """Give names their models' places; those that are left out have none."""
    ordered = sorted(volumes, key=lambda name: (-volumes[name], name))
    if layout is Layout.TOP:
        return {name: place for place, name in enumerate(ordered[:models])}
    return {name: models * place // len(ordered) for place, name in enumerate(ordered)}


def read_minute_counts(paths: Sequence[Path], *, models: int) -> NDArray[np.int64]:
    """Read counts by the minute as in the Azure Functions trace of 2019, laid on models in blocks.

    The files are read twice, line by line, so that the whole of a day (46,413 functions by 1,440
    minutes) never lies in memory.

    Args:
        paths: A day each, one after the other in time. Functions are the same by their hashes.
        models: How many.

    Returns:
        int64[models, minutes], the model with the greatest volume first.

    Raises:
        ConfigError: It can't be read, or lacks the columns.
    """
    volumes = Counter[str]()
    spans = [0]
    for path in paths:
        minutes = 0
        for name, counts in _functions(path):
            volumes[name] += int(counts.sum())
            minutes = len(counts)
        spans.append(spans[-1] + minutes)
    if not volumes:
        raise ConfigError(f"expected at least one function in {', '.join(map(str, paths))}")
    places = _lay(volumes, models, Layout.BLOCKS)
    laid = np.zeros((models, spans[-1]), dtype=np.int64)
    for path, begin in zip(paths, spans[:-1], strict=True):
        for name, counts in _functions(path):
            laid[places[name], begin : begin + len(counts)] += counts
    return laid


def _functions(path: Path) -> Iterator[tuple[str, NDArray[np.int64]]]:
    rows = csv.reader(read_lines(path))
    header = next(rows, [])
    if "HashFunction" not in header or _FIRST_MINUTE not in header:
        raise ConfigError(
            f"expected the columns HashFunction and 1 to 1440 in {path}, got {header[:6]}"
        )
    name_at, first = header.index("HashFunction"), header.index(_FIRST_MINUTE)
    owner = slice(0, name_at + 1)
    for number, row in enumerate(rows, start=2):
        try:
            counts = np.array(row[first : len(header)], dtype=np.int64)
        except ValueError as exc:
            raise ConfigError(f"{path}:{number}: expected whole numbers: {exc}") from exc
        # A function's hash is unique within its application only.
        yield " ".join(row[owner]), counts
