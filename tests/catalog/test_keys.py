"""Keys open one door, are kept as hashes only, and end when they are revoked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.catalog import keys as keys_module
from cw.catalog.keys import add_key, directory_keys, list_keys, revoke_key, rotate_key
from cw.catalog.tenants import add_tenant
from cw.core.api_keys import KEY_LENGTH, hash_secret, is_secret, make_key, split_key
from cw.core.directory import Directory
from cw.errors import QuotaExceeded, RequestInvalid, UnknownTenant
from cw.messages import DirectoryChange, DirectoryKey, Quota, TenantId


@pytest.fixture
def acme(connection):
    """A tenant to give keys to."""
    return add_tenant(connection, "acme", Quota())


def directory(connection):
    told = Directory()
    told.apply(DirectoryChange(whole=True, keys_added=directory_keys(connection)))
    return told


def test_a_key_opens_its_tenants_door(connection, acme):
    """The one thing that a key is for."""
    key, entry = add_key(connection, "acme", "laptop")

    assert directory(connection).open(key) == entry
    assert entry.tenant_id == acme
    assert len(key) == KEY_LENGTH


def test_nothing_kept_tells_the_key(connection, acme):
    """Who reads the database, a backup of it or a log of messages can open nothing."""
    key, entry = add_key(connection, "acme", "laptop")
    secret = split_key(key)[1]

    dump = "\n".join(connection.connection.driver_connection.iterdump())

    assert secret not in dump
    assert entry.key_id in dump
    assert entry.secret_hash.hex() not in repr(entry)


def test_a_revoked_key_opens_nothing_and_stays_listed(connection, acme):
    """Whoever looks into an incident needs to see when it ended."""
    key, entry = add_key(connection, "acme", "laptop")
    revoke_key(connection, entry.key_id)

    assert directory(connection).open(key) is None
    (listed,) = list_keys(connection, "acme")
    assert listed.revoked_ms >= listed.created_ms > 0
    with pytest.raises(UnknownTenant, match="opens anything"):
        revoke_key(connection, entry.key_id)


def test_rotation_replaces_a_key(connection, acme):
    """The new key has the old one's tenant and label; only it opens the door."""
    old, old_entry = add_key(connection, "acme", "laptop")
    new, new_entry = rotate_key(connection, old_entry.key_id)

    told = directory(connection)
    assert (told.open(old), told.open(new)) == (None, new_entry)
    assert {listed.label for listed in list_keys(connection, "acme")} == {"laptop"}
    with pytest.raises(UnknownTenant):
        rotate_key(connection, old_entry.key_id)


def test_keys_are_for_tenants_that_there_are(connection, acme, monkeypatch):
    """The default tenant's door has no key: it is open, or closed to all but the administrator."""
    for name in ("", "default", "zoo"):
        with pytest.raises(UnknownTenant):
            add_key(connection, name, "")
    with pytest.raises(RequestInvalid, match="label"):
        add_key(connection, "acme", "a\nb")
    monkeypatch.setattr(keys_module, "KEYS_MAX", 1)
    add_key(connection, "acme", "")
    with pytest.raises(QuotaExceeded, match="revoke"):
        add_key(connection, "acme", "")


@given(st.text(max_size=KEY_LENGTH + 8))
def test_garbage_is_no_key(garbage):
    """Whatever a client sends as a key is answered, not raised: NULs and surrogates too."""
    assert Directory().open(garbage) is None


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32), st.integers(0, 82))
def test_one_wrong_character_opens_nothing(key_id, secret, at):
    """No prefix or suffix of a secret is worth anything."""
    key = make_key(key_id, secret)
    known = Directory()
    own_id, own_secret = split_key(key)
    entry = DirectoryKey(key_id=own_id, tenant_id=TenantId(1), secret_hash=hash_secret(own_secret))
    known.apply(DirectoryChange(keys_added=(entry,)))
    other = "f" if key[at] != "f" else "0"

    assert known.open(key) == entry
    assert known.open(key[:at] + other + key[at + 1 :]) is None
    assert known.open(key[:at]) is None


def test_an_unknown_id_never_matches():
    """The hash that an unknown id is compared with, in its stead, opens nothing."""
    assert not is_secret("anything", None)
