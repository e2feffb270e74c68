"""Tenants and their quotas."""

import re
from typing import Final

from sqlalchemy import Connection, Row, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from cw.catalog.clock import now_ms
from cw.catalog.tables import KEYS, MODELS, NAME_LENGTH_MAX, TENANTS
from cw.errors import RequestInvalid, UnknownTenant
from cw.messages import NO_TENANT, Quota, TenantId, TenantInfo

NAME_PATTERN: Final = re.compile(rf"[a-z0-9][a-z0-9._-]{{0,{NAME_LENGTH_MAX - 1}}}")
DEFAULT_NAME: Final = "default"
"""What people call `NO_TENANT`."""
_WEIGHT_MAX: Final = 1e6
_COUNT_MAX: Final = 1 << 62


def add_tenant(connection: Connection, name: str, quota: Quota) -> TenantId:
    """Add a tenant; it gets keys one by one (`keys.add_key`).

    Raises:
        RequestInvalid: The name is taken or is none, or the quota makes no sense.
    """
    if not NAME_PATTERN.fullmatch(name) or name == DEFAULT_NAME:
        raise RequestInvalid(
            f"expected a tenant's name of lowercase letters, digits, '.', '_' and '-', at most "
            f"{NAME_LENGTH_MAX} of them and not {DEFAULT_NAME!r}, got {name[:160]!r}"
        )
    row = {"name": name, "created_ms": now_ms(), **_quota_columns(quota)}
    try:
        with connection.begin_nested():
            made = connection.execute(insert(TENANTS).values(row).returning(TENANTS.c.tenant_id))
            return TenantId(made.scalar_one())
    except IntegrityError as exc:
        raise RequestInvalid(f"a tenant named {name!r} exists; see 'cw tenant list'") from exc


def set_quota(connection: Connection, name: str, quota: Quota) -> None:
    """Give a tenant another quota; what it holds already is left to it.

    Raises:
        UnknownTenant: There is none of that name.
        RequestInvalid: The quota makes no sense.
    """
    tenant_id = tenant_id_of(connection, name, but_default=True)
    chosen = update(TENANTS).where(TENANTS.c.tenant_id == tenant_id)
    connection.execute(chosen.values(_quota_columns(quota)))


def tenant_id_of(connection: Connection, name: str, *, but_default: bool = False) -> TenantId:
    """Find a tenant; the empty name and `default` are the default tenant's.

    Raises:
        UnknownTenant: There is none of that name, or it is the default one and may not be.
    """
    if name in ("", DEFAULT_NAME) and not but_default:
        return NO_TENANT
    found = connection.scalar(select(TENANTS.c.tenant_id).where(TENANTS.c.name == name))
    if found is None:
        raise UnknownTenant(f"no tenant is named {name[:128]!r}; see 'cw tenant list'")
    return TenantId(found)


def quota_of(connection: Connection, tenant_id: TenantId) -> Quota:
    """Say what a tenant may use; the default tenant has no bound."""
    row = connection.execute(select(TENANTS).where(TENANTS.c.tenant_id == tenant_id)).first()
    return Quota() if row is None else _quota(row)


def list_tenants(connection: Connection) -> tuple[TenantInfo, ...]:
    """List all tenants by name, with what they hold."""
    held = (
        select(
            MODELS.c.tenant_id,
            func.count().label("models"),
            func.sum(MODELS.c.host_bytes).label("host_bytes"),
        )
        .group_by(MODELS.c.tenant_id)
        .subquery()
    )
    keys = (
        select(KEYS.c.tenant_id, func.count().label("keys"))
        .where(KEYS.c.revoked_ms == 0)
        .group_by(KEYS.c.tenant_id)
        .subquery()
    )
    query = (
        select(TENANTS, held.c.models, held.c.host_bytes, keys.c["keys"].label("key_count"))
        .outerjoin(held, held.c.tenant_id == TENANTS.c.tenant_id)
        .outerjoin(keys, keys.c.tenant_id == TENANTS.c.tenant_id)
        .order_by(TENANTS.c.name)
    )
    return tuple(
        TenantInfo(
            tenant_id=TenantId(row.tenant_id),
            name=row.name,
            quota=_quota(row),
            models=row.models or 0,
            host_bytes=int(row.host_bytes or 0),
            keys=row.key_count or 0,
        )
        for row in connection.execute(query)
    )


def _quota(row: Row[tuple[object, ...]]) -> Quota:
    return Quota(
        weight=row.weight,
        requests_per_s=row.requests_per_s,
        host_bytes=row.host_bytes_max,
        models=row.models_max,
    )


def _quota_columns(quota: Quota) -> dict[str, float]:
    sound = (
        0 < quota.weight <= _WEIGHT_MAX
        and 0 <= quota.requests_per_s < float("inf")
        and 0 <= quota.host_bytes <= _COUNT_MAX
        and 0 <= quota.models <= _COUNT_MAX
    )
    if not sound:
        raise RequestInvalid(
            f"expected a weight above 0 and at most {_WEIGHT_MAX:g}, and bounds of 0 (none) or "
            f"more, got {quota}"
        )
    return {
        "weight": quota.weight,
        "requests_per_s": quota.requests_per_s,
        "host_bytes_max": quota.host_bytes,
        "models_max": quota.models,
    }
