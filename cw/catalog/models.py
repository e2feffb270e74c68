"""Whose each model is, who may use it, and which stay resident."""

from collections.abc import Collection
from typing import Final

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from cw.catalog.clock import now_ms
from cw.catalog.tables import MODEL_SHARES, MODELS, NAME_LENGTH_MAX
from cw.catalog.tenants import quota_of, tenant_id_of
from cw.errors import ModelConflict, QuotaExceeded, RequestInvalid, UnknownModel
from cw.messages import NO_TENANT, ModelAccess, TenantId
from cw.units import format_bytes

_BYTES_MAX: Final = 1 << 62


def own_model(connection: Connection, name: str, tenant: str, host_bytes: int) -> ModelAccess:
    """Note whose a model is that is about to come; again for the same owner changes the size.

    Without a tenant's name it stays its owner's; a new one is the default tenant's.

    Raises:
        UnknownTenant: There is none of that name.
        ModelConflict: It is another tenant's.
        QuotaExceeded: It would take its owner past its bounds.
    """
    if not 0 < len(name) <= NAME_LENGTH_MAX or not 0 <= host_bytes <= _BYTES_MAX:
        raise RequestInvalid(
            f"expected a name of 1 to {NAME_LENGTH_MAX} characters and at most {_BYTES_MAX} bytes, "
            f"got {len(name)} and {host_bytes}"
        )
    row = connection.execute(select(MODELS).where(MODELS.c.name == name)).first()
    tenant_id = tenant_id_of(connection, tenant)
    if row is not None and not tenant:
        tenant_id = TenantId(row.tenant_id)
    if row is not None and row.tenant_id != tenant_id:
        raise ModelConflict(f"a model named {name!r} exists; add this one under another name")
    _check_quota(connection, tenant_id, host_bytes, but=name)
    if row is not None:
        chosen = update(MODELS).where(MODELS.c.name == name)
        connection.execute(chosen.values(host_bytes=host_bytes))
        return access_of(connection, name)
    connection.execute(
        insert(MODELS).values(
            name=name,
            tenant_id=tenant_id,
            host_bytes=host_bytes,
            pinned=False,
            created_ms=now_ms(),
        )
    )
    return ModelAccess(model=name, owner=tenant_id)


def _check_quota(connection: Connection, tenant_id: TenantId, host_bytes: int, *, but: str) -> None:
    if tenant_id == NO_TENANT:
        return
    quota = quota_of(connection, tenant_id)
    others = (MODELS.c.tenant_id == tenant_id) & (MODELS.c.name != but)
    count, held_bytes = connection.execute(
        select(func.count(), func.coalesce(func.sum(MODELS.c.host_bytes), 0)).where(others)
    ).one()
    if quota.models and count + 1 > quota.models:
        raise QuotaExceeded(
            f"the tenant has {count} models, and its quota is {quota.models}: remove one, or raise "
            "it with 'cw tenant quota'"
        )
    if quota.host_bytes and held_bytes + host_bytes > quota.host_bytes:
        raise QuotaExceeded(
            f"the tenant has models of {format_bytes(int(held_bytes))}, this one has "
            f"{format_bytes(host_bytes)}, and its quota is {format_bytes(quota.host_bytes)}: "
            "remove one, or raise it with 'cw tenant quota'"
        )


def forget_model(connection: Connection, name: str) -> None:
    """Forget a model that was removed, with all its shares; a no-op for one that is not there."""
    connection.execute(delete(MODELS).where(MODELS.c.name == name))


def share_model(connection: Connection, name: str, tenant: str) -> ModelAccess:
    """Let another tenant see and call a model.

    Raises:
        UnknownModel, UnknownTenant: There is none of that name.
        RequestInvalid: It is that tenant's own.
    """
    tenant_id = tenant_id_of(connection, tenant, but_default=True)
    if access_of(connection, name).owner == tenant_id:
        raise RequestInvalid(f"{name!r} is {tenant!r}'s own: nothing to share")
    try:
        with connection.begin_nested():
            connection.execute(insert(MODEL_SHARES).values(model=name, tenant_id=tenant_id))
    except IntegrityError:
        pass  # it was shared already
    return access_of(connection, name)


def unshare_model(connection: Connection, name: str, tenant: str) -> ModelAccess:
    """Take a share back.

    Raises:
        UnknownModel, UnknownTenant: There is none of that name.
    """
    tenant_id = tenant_id_of(connection, tenant, but_default=True)
    connection.execute(
        delete(MODEL_SHARES).where(
            (MODEL_SHARES.c.model == name) & (MODEL_SHARES.c.tenant_id == tenant_id)
        )
    )
    return access_of(connection, name)


def set_pinned(connection: Connection, name: str, *, pinned: bool) -> None:
    """Note whether a model is to stay resident.

    Raises:
        UnknownModel: There is none of that name.
    """
    chosen = update(MODELS).where(MODELS.c.name == name)
    if connection.execute(chosen.values(pinned=pinned)).rowcount != 1:
        raise _unknown(name)


def pinned_models(connection: Connection) -> tuple[str, ...]:
    """List the models that are to stay resident, by name."""
    return tuple(connection.scalars(select(MODELS.c.name).where(MODELS.c.pinned)))


def access_of(connection: Connection, name: str) -> ModelAccess:
    """Say who may see a model.

    Raises:
        UnknownModel: There is none of that name.
    """
    owner = connection.scalar(select(MODELS.c.tenant_id).where(MODELS.c.name == name))
    if owner is None:
        raise _unknown(name)
    shared = select(MODEL_SHARES.c.tenant_id).where(MODEL_SHARES.c.model == name)
    ids = sorted(connection.scalars(shared))
    return ModelAccess(
        model=name, owner=TenantId(owner), shared_with=tuple(TenantId(each) for each in ids)
    )


def directory_models(connection: Connection) -> tuple[ModelAccess, ...]:
    """Say who may see each model that some tenant may see."""
    shared: dict[str, list[TenantId]] = {}
    for row in connection.execute(select(MODEL_SHARES).order_by(MODEL_SHARES.c.tenant_id)):
        shared.setdefault(row.model, []).append(TenantId(row.tenant_id))
    return tuple(
        ModelAccess(
            model=row.name,
            owner=TenantId(row.tenant_id),
            shared_with=tuple(shared.get(row.name, ())),
        )
        for row in connection.execute(select(MODELS))
        if row.tenant_id != NO_TENANT or row.name in shared
    )


def keep_only(connection: Connection, stored: Collection[tuple[str, int]]) -> None:
    """Bring the table in line with what is in the store: (name, bytes of its image) each.

    A controller may die between a model's way into the store and its row here: it is the default
    tenant's then, which nobody but the administrator sees.
    """
    known = set(connection.scalars(select(MODELS.c.name)))
    sizes = dict(stored)
    for name in known - sizes.keys():
        forget_model(connection, name)
    rows = [
        {
            "name": name,
            "tenant_id": NO_TENANT,
            "host_bytes": host_bytes,
            "pinned": False,
            "created_ms": now_ms(),
        }
        for name, host_bytes in sizes.items()
        if name not in known
    ]
    if rows:
        connection.execute(insert(MODELS), rows)


def _unknown(name: str) -> UnknownModel:
    return UnknownModel(f"no model is named {name[:128]!r}; see 'cw model list'")
