"""Keys: made, shown once, kept hashed, rotated and revoked. How they look: `core/api_keys.py`."""

import secrets
from typing import Final

from sqlalchemy import Connection, func, insert, select, update

from cw.catalog.clock import now_ms
from cw.catalog.tables import KEYS, NAME_LENGTH_MAX, TENANTS
from cw.catalog.tenants import tenant_id_of
from cw.core.api_keys import KEY_ID_BYTES, SECRET_BYTES, hash_secret, make_key, split_key
from cw.errors import QuotaExceeded, RequestInvalid, UnknownTenant
from cw.messages import DirectoryKey, KeyInfo, TenantId

KEYS_MAX: Final = 1000
"""That open one tenant's door: every gateway holds all of them."""


def add_key(connection: Connection, tenant: str, label: str) -> tuple[str, DirectoryKey]:
    """Make a key for a tenant.

    Returns:
        The key itself, which is kept nowhere, and what gateways know of it.

    Raises:
        UnknownTenant: There is none of that name.
        RequestInvalid: The label is too long.
        QuotaExceeded: It has `KEYS_MAX` keys.
    """
    tenant_id = tenant_id_of(connection, tenant, but_default=True)
    if len(label) > NAME_LENGTH_MAX or not label.isprintable():
        raise RequestInvalid(
            f"expected a label of at most {NAME_LENGTH_MAX} printable characters, got {len(label)}"
        )
    alive = (KEYS.c.tenant_id == tenant_id) & (KEYS.c.revoked_ms == 0)
    count = connection.scalar(select(func.count()).select_from(KEYS).where(alive))
    if count is not None and count >= KEYS_MAX:
        raise QuotaExceeded(f"{tenant!r} has {count} keys, which is the bound; revoke some first")
    return _make(connection, tenant_id, label)


def rotate_key(connection: Connection, key_id: str) -> tuple[str, DirectoryKey]:
    """Put a new key in an old one's place; the old one opens nothing any more.

    Raises:
        UnknownTenant: No key of that id opens anything.
    """
    row = connection.execute(select(KEYS).where(KEYS.c.key_id == key_id)).first()
    revoke_key(connection, key_id)
    assert row is not None, "it was there to be revoked"
    return _make(connection, TenantId(row.tenant_id), row.label)


def revoke_key(connection: Connection, key_id: str) -> None:
    """Have a key open nothing any more, for good.

    Raises:
        UnknownTenant: No key of that id opens anything.
    """
    chosen = update(KEYS).where((KEYS.c.key_id == key_id) & (KEYS.c.revoked_ms == 0))
    if connection.execute(chosen.values(revoked_ms=now_ms())).rowcount != 1:
        raise UnknownTenant(
            f"no key of the id {key_id[:64]!r} opens anything; see 'cw tenant key list TENANT'"
        )


def list_keys(connection: Connection, tenant: str) -> tuple[KeyInfo, ...]:
    """List a tenant's keys, revoked ones too, the latest last.

    Raises:
        UnknownTenant: There is none of that name.
    """
    tenant_id = tenant_id_of(connection, tenant, but_default=True)
    query = (
        select(KEYS).where(KEYS.c.tenant_id == tenant_id).order_by(KEYS.c.created_ms, KEYS.c.key_id)
    )
    return tuple(
        KeyInfo(
            key_id=row.key_id,
            tenant=tenant,
            label=row.label,
            created_ms=row.created_ms,
            revoked_ms=row.revoked_ms,
        )
        for row in connection.execute(query)
    )


def directory_keys(connection: Connection) -> tuple[DirectoryKey, ...]:
    """Say what gateways have to know of all keys that open something."""
    query = select(KEYS).join(TENANTS).where(KEYS.c.revoked_ms == 0)
    return tuple(
        DirectoryKey(
            key_id=row.key_id,
            tenant_id=TenantId(row.tenant_id),
            secret_hash=bytes.fromhex(row.secret_hash),
        )
        for row in connection.execute(query)
    )


def _make(connection: Connection, tenant_id: TenantId, label: str) -> tuple[str, DirectoryKey]:
    key = make_key(secrets.token_bytes(KEY_ID_BYTES), secrets.token_bytes(SECRET_BYTES))
    parts = split_key(key)
    assert parts is not None, "a key that was just written can be read"
    key_id, secret_hash = parts[0], hash_secret(parts[1])
    connection.execute(
        insert(KEYS).values(
            key_id=key_id,
            tenant_id=tenant_id,
            secret_hash=secret_hash.hex(),
            label=label,
            created_ms=now_ms(),
            revoked_ms=0,
        )
    )
    return key, DirectoryKey(key_id=key_id, tenant_id=tenant_id, secret_hash=secret_hash)
