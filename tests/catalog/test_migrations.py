"""Migrations lead to the tables that the code speaks of, from nothing and from any earlier step."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from cw.catalog.database import (
    default_url,
    latest_revision,
    open_database,
    revision_of,
    upgrade,
)
from cw.catalog.tables import METADATA
from cw.errors import ConfigError


def test_migrations_and_tables_agree(connection):
    """A column that only one of them knows would fail at a user's first insert."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})

    assert compare_metadata(context, METADATA) == []
    assert revision_of(connection) == latest_revision()


def test_an_upgraded_catalog_is_left_alone(engine):
    """Each start of a controller upgrades: the second time nothing may happen."""
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO tenants VALUES (5, 'a', 0, 1.0, 0, 0, 0)"))

    upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(text("SELECT name FROM tenants")).scalar() == "a"


def test_a_later_versions_catalog_is_refused(engine):
    """An old cw must not write into tables that it does not know."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConfigError, match="later version"):
        upgrade(engine)


def test_a_database_without_tables_has_no_revision(tmp_path):
    """A backup's reader must tell an empty file from a catalog."""
    engine = open_database(default_url(tmp_path))

    with engine.connect() as connection:
        assert revision_of(connection) == ""
        assert inspect(connection).get_table_names() == []
    engine.dispose()


@pytest.mark.parametrize("url", ["mysql://u:pw@h/d", "nonsense", "oracle://u:pw@h/d", "://pw@"])
def test_other_databases_are_refused_without_a_password_in_the_text(url):
    """The URL comes from a settings file, and its error goes into logs."""
    with pytest.raises(ConfigError) as caught:
        open_database(url)

    assert "pw" not in str(caught.value)


def test_sqlite_refuses_what_refers_to_nothing(connection):
    """SQLite checks foreign keys only if each connection asks for it."""
    with pytest.raises(Exception, match="FOREIGN KEY"):
        connection.execute(text("INSERT INTO keys VALUES ('k', 77, 'h', '', 0, 0)"))


def test_a_step_that_fails_half_way_leaves_nothing(engine):
    """A controller killed in a migration must find the tables as they were before it."""
    with pytest.raises(ZeroDivisionError), engine.begin() as connection:
        connection.execute(text("CREATE TABLE half (x INTEGER)"))
        _ = 1 / 0

    with engine.connect() as connection:
        assert "half" not in inspect(connection).get_table_names()
