"""Catalogs to test on: a file of SQLite each, brought up to date."""

import pytest

from cw.catalog.database import default_url, open_database, upgrade


@pytest.fixture
def engine(tmp_path):
    """Open a new catalog."""
    engine = open_database(default_url(tmp_path))
    upgrade(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine):
    """Begin a transaction on it."""
    with engine.begin() as connection:
        yield connection
