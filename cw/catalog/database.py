"""Opening the catalog's database, and bringing its tables up to date.

SQLite by default, a file in the cluster's folder; PostgreSQL by URL. One controller writes at a
time; whoever takes a backup reads beside it.
"""

import logging
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from cw.errors import ConfigError

FILE: Final = "catalog.db"
"""In the cluster's folder."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_BUSY_MS: Final = 10_000
"""How long a writer waits for another: a backup that reads keeps nobody waiting."""

logging.getLogger("alembic.runtime.plugins").setLevel(logging.WARNING)


def default_url(folder: Path) -> str:
    """Say where a cluster's catalog is if its settings do not."""
    return f"sqlite:///{folder / FILE}"


def open_database(url: str, *, read_only: bool = False) -> Engine:
    """Connect to a catalog, as it is.

    Args:
        url: SQLite's or PostgreSQL's.
        read_only: Keep no writer waiting; a transaction sees one state of the whole.

    Raises:
        ConfigError: The URL is not one, or names a database whose driver is not installed.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigError(
                f"expected a catalog at sqlite:///FILE or postgresql+psycopg://..., got "
                f"{parsed.render_as_string(hide_password=True)}"
            )
        engine = create_engine(parsed)
    except ArgumentError as exc:  # its text repeats the URL, and with it a password
        raise ConfigError("the catalog's URL can't be read: expected sqlite:///FILE") from exc
    except (NoSuchModuleError, ModuleNotFoundError) as exc:
        raise ConfigError(
            f"the catalog's driver is missing ({exc}): pip install cw[postgres]"
        ) from exc
    if engine.dialect.name == "sqlite":
        # As SQLAlchemy's manual says: else the driver begins late, commits before DDL and breaks
        # savepoints, and a migration that is killed half way stays so. IMMEDIATE: two writers take
        # turns at the beginning, not after one has read what the other changes.
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
    elif read_only:
        engine = engine.execution_options(
            isolation_level="REPEATABLE READ", postgresql_readonly=True
        )
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # transactions begin when they are told to
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")  # who reads and who writes do not wait
    cursor.execute("PRAGMA synchronous = FULL")  # a revoked key stays so when the power fails
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def upgrade(engine: Engine) -> None:
    """Bring the tables to what this version expects; a no-op if they are.

    Raises:
        ConfigError: A later version of cw has changed them, or the database can't be used.
    """
    try:
        with engine.begin() as connection:
            command.upgrade(_config(connection), "head")
    except (CommandError, SQLAlchemyError) as exc:
        raise ConfigError(
            f"the catalog can't be brought up to date ({exc}); if a later version of cw has used "
            "it, run that, or restore a backup"
        ) from exc


def revision_of(connection: Connection) -> str:
    """Say which migration the tables are of; empty for a database without them."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def latest_revision() -> str:
    """Say which migration this version's tables are of."""
    head = ScriptDirectory.from_config(_config(None)).get_current_head()
    assert head is not None, "there are migrations"
    return head


def _config(connection: Connection | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
