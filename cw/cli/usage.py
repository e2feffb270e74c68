"""What tenants used, read from the catalog's database itself: `cw tenant usage`."""

import argparse
import csv
import datetime
import sys
from typing import Any

import attrs
from rich.table import Table

from cw.catalog.database import open_database
from cw.catalog.tenants import list_tenants
from cw.catalog.usage import read_usage
from cw.cli.common import print_json, results
from cw.errors import UnknownTenant
from cw.messages import MODEL_OWNER, NO_TENANT

_HOUR_S = 3600


def add_usage_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("name", metavar="NAME", nargs="?", help="of one tenant; default all")
    parser.add_argument("--catalog", required=True, metavar="URL", help="sqlite:///FILE or another")
    parser.add_argument("--by", choices=("model", "hour"), default="model")
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")


def show_usage(args: argparse.Namespace) -> None:
    """Print the sums.

    Raises:
        UnknownTenant: There is none of that name.
    """
    rows = usage_rows(args.catalog, by=args.by, name=args.name)
    if args.format == "json":
        print_json(rows)
    elif args.format == "csv":
        writer = csv.DictWriter(sys.stdout, rows[0] if rows else ())
        writer.writeheader()
        writer.writerows(rows)
    else:
        table = Table(*(rows[0] if rows else ("nothing was used",)))
        for row in rows:
            table.add_row(*map(str, row.values()))
        results.print(table)


def usage_rows(url: str, *, by: str, name: str | None) -> list[dict[str, Any]]:
    """Read the sums, with names in place of numbers; see `UsageEntry` for the units."""
    engine = open_database(url, read_only=True)
    with engine.begin() as connection:
        names = {tenant.tenant_id: tenant.name for tenant in list_tenants(connection)}
        names |= {NO_TENANT: "(default)", MODEL_OWNER: "(the model's owner)"}
        entries = read_usage(connection, by=by)
    engine.dispose()
    if name is not None and name not in names.values():
        raise UnknownTenant(f"no tenant is named {name!r}; see 'cw tenant list'")
    rows = []
    for entry in entries:
        row = attrs.asdict(entry)
        tenant = names.get(row.pop("tenant_id"), f"(gone: {entry.tenant_id})")
        hour = datetime.datetime.fromtimestamp(row.pop("hour") * _HOUR_S, datetime.UTC)
        model = row.pop("model")
        what = {"model": model} if by == "model" else {"hour": hour.isoformat()}
        if name in (None, tenant):
            rows.append({"tenant": tenant, **what, **row})
    return rows
