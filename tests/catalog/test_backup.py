"""A backup holds all of one state, and restores into an empty catalog alone."""

import gzip
import threading

import pytest

from cw.catalog.backup import back_up, restore
from cw.catalog.database import default_url, open_database, upgrade
from cw.catalog.keys import add_key, directory_keys
from cw.catalog.models import directory_models, own_model, pinned_models, set_pinned, share_model
from cw.catalog.tenants import add_tenant, list_tenants
from cw.core.directory import Directory
from cw.errors import ConfigError
from cw.messages import DirectoryChange, Quota


@pytest.fixture
def filled(engine):
    """A catalog with something in each table; gives the key, too."""
    with engine.begin() as connection:
        add_tenant(connection, "acme", Quota(weight=2.0, requests_per_s=5.0))
        add_tenant(connection, "zoo", Quota())
        key, _ = add_key(connection, "acme", "laptop")
        own_model(connection, "price", "acme", 7)
        share_model(connection, "price", "zoo")
        set_pinned(connection, "price", pinned=True)
    return engine, key


@pytest.fixture
def fresh(tmp_path):
    """Another, empty catalog."""
    (tmp_path / "fresh").mkdir()
    engine = open_database(default_url(tmp_path / "fresh"))
    upgrade(engine)
    yield engine
    engine.dispose()


def everything(engine):
    with engine.connect() as connection:
        return (
            list_tenants(connection),
            directory_keys(connection),
            directory_models(connection),
            pinned_models(connection),
        )


def test_a_restored_catalog_is_the_one_that_was_backed_up(filled, fresh, tmp_path):
    """Tenants, quotas, owners, shares and pins are there, and the old keys open their doors."""
    engine, key = filled
    back_up(engine, tmp_path / "backup")

    restore(fresh, tmp_path / "backup")

    assert everything(fresh) == everything(engine)
    directory = Directory()
    directory.apply(DirectoryChange(whole=True, keys_added=everything(fresh)[1]))
    assert directory.open(key) is not None
    with fresh.begin() as connection:  # ids go on from there: none is given twice
        assert add_tenant(connection, "third", Quota()) == 3


def test_a_backup_can_be_read_by_its_owner_alone_and_tells_no_key(filled, tmp_path):
    """It lies on disks and in archives for years."""
    engine, key = filled
    back_up(engine, tmp_path / "backup")

    assert (tmp_path / "backup").stat().st_mode & 0o077 == 0
    assert key.split("_")[2] not in gzip.decompress((tmp_path / "backup").read_bytes()).decode()


def test_a_catalog_that_holds_something_is_not_written_over(filled, tmp_path):
    """A restore into the wrong folder must not mix two clusters' tenants."""
    engine, _ = filled
    back_up(engine, tmp_path / "backup")

    with pytest.raises(ConfigError, match="expected an empty catalog"):
        restore(engine, tmp_path / "backup")


@pytest.mark.parametrize("spoil", ["cut", "row", "revision", "garbage"])
def test_a_damaged_backup_restores_nothing(filled, fresh, tmp_path, spoil):
    """Half of the keys would be worse than none: nobody would notice."""
    back_up(filled[0], tmp_path / "backup")
    lines = gzip.decompress((tmp_path / "backup").read_bytes()).splitlines(keepends=True)
    if spoil == "cut":
        lines = lines[:-1]
    elif spoil == "row":
        del lines[-2]
    elif spoil == "revision":
        lines[0] = b'{"format": "cw-catalog-1", "revision": "0000"}\n'
    else:
        lines[2] = b"{]\n"
    (tmp_path / "backup").write_bytes(gzip.compress(b"".join(lines)))

    with pytest.raises(ConfigError, match="expected a whole backup"):
        restore(fresh, tmp_path / "backup")
    assert everything(fresh) == ((), (), (), ())


def test_a_backup_beside_a_writer_is_one_state(filled, tmp_path, fresh):
    """It is taken while the controller works: each tenant in it has its key, or neither is."""
    engine, _ = filled
    stop = threading.Event()

    def write():
        number = 0
        while not stop.is_set():
            with engine.begin() as connection:
                add_tenant(connection, f"tenant-{number}", Quota())
                add_key(connection, f"tenant-{number}", "")
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    reader = open_database(default_url(tmp_path), read_only=True)
    try:
        for number in range(5):
            back_up(reader, tmp_path / f"backup-{number}")
    finally:
        stop.set()
        writer.join()
        reader.dispose()

    restore(fresh, tmp_path / "backup-4")
    tenants = [tenant for tenant in everything(fresh)[0] if tenant.name.startswith("tenant-")]
    assert {tenant.keys for tenant in tenants} <= {1}


def test_nothing_is_backed_up_where_there_is_no_catalog(tmp_path):
    """An empty file that says that it is a backup would be noticed when it is needed."""
    engine = open_database(default_url(tmp_path), read_only=True)

    with pytest.raises(ConfigError, match="start its controller"):
        back_up(engine, tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    engine.dispose()
