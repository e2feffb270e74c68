"""Back the catalog of tenants up, and restore it into a cluster that has none.

Both speak to the database itself, on the controller's machine. A backup may be taken while the
cluster serves; a restore is made before its first start, or when it is stopped and its old
catalog.db (with -wal and -shm beside it) is moved away.

Examples:
  cw catalog backup catalog.backup
  cw catalog restore catalog.backup --dir .cw/new
"""

import argparse
from pathlib import Path

from cw.catalog.backup import back_up, restore
from cw.catalog.database import default_url, open_database, upgrade
from cw.cli.common import DEFAULT_FOLDER, people, print_json
from cw.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    saving = verbs.add_parser("backup", help="write a backup; the cluster may serve meanwhile")
    loading = verbs.add_parser("restore", help="fill an empty catalog from a backup")
    for verb in (saving, loading):
        verb.add_argument("file", type=Path, metavar="FILE")
        verb.add_argument("--dir", type=Path, default=DEFAULT_FOLDER, help="the cluster's folder")
        verb.add_argument("--url", help="of the database, where it is not in that folder")
        verb.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    is_backup = args.verb == "backup"
    if args.url is None and is_backup and not args.dir.is_dir():
        raise ConfigError(f"expected a cluster's folder at {args.dir}; name it with --dir")
    if args.url is None:
        args.dir.mkdir(parents=True, exist_ok=True)
    engine = open_database(args.url or default_url(args.dir), read_only=is_backup)
    try:
        if is_backup:
            rows = back_up(engine, args.file)
        else:
            upgrade(engine)
            rows = restore(engine, args.file)
    finally:
        engine.dispose()
    people.print(f"{args.verb}: {rows} rows")
    if args.json:
        print_json({"rows": rows, "file": str(args.file)})
    return 0
