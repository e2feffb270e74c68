"""Backups: the whole catalog as lines of JSON, from one state of it, into an empty one.

Rows rather than a database's own file, so that they can be looked at, and that SQLite's can be
restored into PostgreSQL. The first line names the tables' revision: it restores into a
catalog of that revision alone, which this version of cw makes. Only hashes of keys are in it.
Taking one keeps nobody waiting: a reader sees the state at its beginning, whatever is written
meanwhile. Rows are streamed: usage may be large.
"""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, Table, func, insert, inspect, select, text

from cw.catalog import usage as _usage  # noqa: F401 (its tables are part of the whole)
from cw.catalog.database import latest_revision, revision_of
from cw.catalog.tables import METADATA
from cw.errors import ConfigError

FORMAT: Final = "cw-catalog-1"
_ROWS: Final = 1000
"""Read and written at a time."""


def back_up(engine: Engine, path: Path) -> int:
    """Write a backup; the file appears when it is whole, readable by its owner alone.

    Returns:
        How many rows it holds.

    Raises:
        ConfigError: There is no catalog, or it is not of this version.
        OSError: The file can't be written.
    """
    partial = path.with_name(path.name + ".partial")
    count = 0
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw, engine.connect() as connection:
            _check_revision(connection)
            with gzip.open(raw, "wt", encoding="utf-8") as lines:
                head = {"format": FORMAT, "revision": revision_of(connection)}
                lines.write(json.dumps(head) + "\n")
                for table in METADATA.sorted_tables:
                    for row in _rows(connection, table):
                        lines.write(json.dumps([table.name, row]) + "\n")
                        count += 1
                lines.write(json.dumps({"rows": count}) + "\n")
            raw.flush()
            os.fsync(raw.fileno())
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
    return count


def restore(engine: Engine, path: Path) -> int:
    """Fill an empty catalog from a backup, wholly or not at all.

    Returns:
        How many rows it got.

    Raises:
        ConfigError: The file is no whole backup of this version, or the catalog is not empty.
    """
    with engine.begin() as connection:
        _check_revision(connection)
        _check_empty(connection)
        try:
            count = _fill(connection, path)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as exc:
            raise ConfigError(f"expected a whole backup at {path}: {exc}") from exc
        if connection.dialect.name == "postgresql":
            connection.execute(
                text(
                    "SELECT setval(pg_get_serial_sequence('tenants', 'tenant_id'), "
                    "(SELECT coalesce(max(tenant_id), 0) + 1 FROM tenants), false)"
                )
            )
    return count


def _fill(connection: Connection, path: Path) -> int:
    count, waiting, of = 0, list[dict[str, Any]](), ""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        head = json.loads(lines.readline())
        if head["format"] != FORMAT or head["revision"] != latest_revision():
            raise ValueError(
                f"format {head['format']!r} of revision {head['revision']!r}, where this version "
                f"reads {FORMAT!r} of {latest_revision()!r}"
            )
        for line in lines:
            found = json.loads(line)
            if isinstance(found, dict):
                _insert(connection, of, waiting)
                if found["rows"] != count:
                    raise ValueError(f"it says {found['rows']} rows and holds {count}")
                return count
            name, row = found
            if name != of or len(waiting) >= _ROWS:
                _insert(connection, of, waiting)
                waiting, of = [], name
            waiting.append(row)
            count += 1
    raise ValueError("its last line is missing: it was cut short")


def _insert(connection: Connection, table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        connection.execute(insert(METADATA.tables[table]), rows)


def _rows(connection: Connection, table: Table) -> Iterator[dict[str, Any]]:
    query = select(table).order_by(*table.primary_key)
    found = connection.execution_options(yield_per=_ROWS).execute(query)
    for row in found.mappings():
        yield dict(row)


def _check_revision(connection: Connection) -> None:
    if revision_of(connection) != latest_revision():
        raise ConfigError(
            f"expected a catalog of revision {latest_revision()}, got "
            f"{revision_of(connection) or 'none'}: start its controller once with this version"
        )


def _check_empty(connection: Connection) -> None:
    present = set(inspect(connection).get_table_names())
    for table in METADATA.sorted_tables:
        count = connection.scalar(select(func.count()).select_from(table))
        if table.name in present and count:
            raise ConfigError(
                f"expected an empty catalog to restore into, got {count} rows of {table.name}: "
                "stop the cluster and move its catalog.db away first"
            )
