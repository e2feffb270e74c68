"""Usage: sums of what executors and gateways recorded, each record counted once.

The concept: every writer numbers its records from 1 in each of its lives, and they are added in the
order of their numbers. So one number a life (`through`) says all that is to be known about what has
been added, and it is written in the transaction that adds: records that come twice, late or in
another order change nothing, and a gap is never stepped over.

Models go by name, and stand in no relation to the catalog's: what was used of a model that is gone
is still to be paid for.
"""

from collections import defaultdict
from typing import Any, Final

from sqlalchemy import BigInteger, Column, Integer, String, Table, func, insert, select, update
from sqlalchemy.engine import Connection

from cw.catalog.tables import METADATA, NAME_LENGTH_MAX
from cw.messages import Incarnation, TenantId, UsageBatch, UsageEntry

SOURCE_LENGTH_MAX: Final = 256
MEASURES: Final = (
    "gpu_ns",
    "load_bytes",
    "resident_byte_ms",
    "unknown",
    "kept",
    "refused",
    "broken",
    "failed",
)

USAGE_SOURCES: Final = Table(
    "usage_sources",
    METADATA,
    Column("source", String(SOURCE_LENGTH_MAX), primary_key=True),
    Column("incarnation", BigInteger, primary_key=True, autoincrement=False),
    Column("through", BigInteger, nullable=False),
)

USAGE_HOURS: Final = Table(
    "usage_hours",
    METADATA,
    Column("hour", Integer, primary_key=True, autoincrement=False),
    # MODEL_OWNER, too, which is no tenant's.
    Column("tenant_id", BigInteger, primary_key=True, autoincrement=False),
    Column("model", String(NAME_LENGTH_MAX), primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in MEASURES),
)


def add_usage(connection: Connection, batch: UsageBatch) -> int:
    """Add what is not added yet of a batch, up to the first gap.

    Returns:
        The number up to which all records of that life are added.
    """
    through = usage_through(connection, batch.source, batch.incarnation)
    sums: dict[tuple[int, TenantId, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    added = through
    for record in sorted(batch.records, key=lambda each: each.number):
        if record.number > added + 1:
            break
        if record.number == added + 1:
            added = record.number
            for entry in record.entries:
                measures = sums[entry.hour, entry.tenant_id, entry.model[:NAME_LENGTH_MAX]]
                for name in MEASURES:
                    measures[name] += getattr(entry, name)
    if added == through:
        return through
    for (hour, tenant_id, model), measures in sums.items():
        _add(connection, {"hour": hour, "tenant_id": tenant_id, "model": model}, measures)
    _set_through(connection, batch, added)
    return added


def usage_through(connection: Connection, source: str, incarnation: Incarnation) -> int:
    """Say up to which number a life's records are added; 0 if none is."""
    found = connection.execute(
        select(USAGE_SOURCES.c.through).where(
            USAGE_SOURCES.c.source == source, USAGE_SOURCES.c.incarnation == incarnation
        )
    ).scalar()
    return found or 0


def read_usage(
    connection: Connection, *, by: str = "model", tenant_id: TenantId | None = None
) -> tuple[UsageEntry, ...]:
    """Read the sums, in the order of tenants and then hours or models.

    Args:
        connection: The catalog's.
        by: ``model`` sums over all hours (and gives 0 as the hour); ``hour`` over all models (and
            gives no model); ``both`` over nothing.
        tenant_id: Only of this one.
    """
    columns = {"model": ("model",), "hour": ("hour",), "both": ("hour", "model")}[by]
    keys = [USAGE_HOURS.c[name] for name in ("tenant_id", *columns)]
    query = select(*keys, *(func.sum(USAGE_HOURS.c[name]).label(name) for name in MEASURES))
    if tenant_id is not None:
        query = query.where(USAGE_HOURS.c.tenant_id == tenant_id)
    rows = connection.execute(query.group_by(*keys).order_by(*keys)).mappings()
    return tuple(_entry(dict(row)) for row in rows)


def _entry(row: dict[str, Any]) -> UsageEntry:
    sums = {name: int(row[name]) for name in MEASURES}  # PostgreSQL's sums are decimals
    return UsageEntry(**{"hour": 0, "model": "", **row, **sums})


def _add(connection: Connection, key: dict[str, object], measures: dict[str, int]) -> None:
    matches = [USAGE_HOURS.c[name] == value for name, value in key.items()]
    grown = {name: USAGE_HOURS.c[name] + amount for name, amount in measures.items()}
    if not connection.execute(update(USAGE_HOURS).where(*matches).values(grown)).rowcount:
        connection.execute(insert(USAGE_HOURS).values(**key, **measures))


def _set_through(connection: Connection, batch: UsageBatch, through: int) -> None:
    table = USAGE_SOURCES
    matches = (table.c.source == batch.source, table.c.incarnation == batch.incarnation)
    changed = connection.execute(update(table).where(*matches).values(through=through))
    if not changed.rowcount:
        connection.execute(
            insert(table).values(
                source=batch.source, incarnation=batch.incarnation, through=through
            )
        )
