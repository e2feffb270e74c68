"""The catalog's orders and answers, and the directory, on the wire."""

from typing import Any

from cw.messages import (
    CatalogAnswer,
    CatalogOrder,
    CatalogVerb,
    DirectoryChange,
    DirectoryKey,
    DirectoryTenant,
    KeyInfo,
    ModelAccess,
    Quota,
    TenantId,
    TenantInfo,
)
from cw.rpc import schema
from cw.rpc.codec.binding import EnumTable, list_to_wire

CATALOG_VERBS = EnumTable(CatalogVerb, schema.catalog.CatalogVerb)


def _quota_to_wire(quota: Quota, wire: Any) -> None:
    wire.weight = quota.weight
    wire.requestsPerS = quota.requests_per_s
    wire.hostBytes = quota.host_bytes
    wire.models = quota.models


def _quota_from_wire(wire: Any) -> Quota:
    return Quota(
        weight=wire.weight,
        requests_per_s=wire.requestsPerS,
        host_bytes=wire.hostBytes,
        models=wire.models,
    )


def order_to_wire(order: CatalogOrder, wire: Any) -> None:
    """Write a `CatalogOrder`."""
    wire.verb = CATALOG_VERBS.number[order.verb]
    wire.tenant = order.tenant
    wire.model = order.model
    wire.keyId = order.key_id
    wire.label = order.label
    wire.hostBytes = order.host_bytes
    _quota_to_wire(order.quota, wire.init("quota"))


def order_from_wire(wire: Any) -> CatalogOrder:
    """Read a `CatalogOrder`."""
    return CatalogOrder(
        verb=CATALOG_VERBS.member(wire.verb),
        tenant=wire.tenant,
        model=wire.model,
        key_id=wire.keyId,
        label=wire.label,
        host_bytes=wire.hostBytes,
        quota=_quota_from_wire(wire.quota),
    )


def answer_to_wire(answer: CatalogAnswer, wire: Any) -> None:
    """Write a `CatalogAnswer`."""
    tenants = wire.init("tenants", len(answer.tenants))
    list_to_wire(_tenant_to_wire, answer.tenants, tenants)
    list_to_wire(_key_to_wire, answer.keys, wire.init("keys", len(answer.keys)))
    wire.newKey = answer.new_key


def answer_from_wire(wire: Any) -> CatalogAnswer:
    """Read a `CatalogAnswer`."""
    return CatalogAnswer(
        tenants=tuple(_tenant_from_wire(it) for it in wire.tenants),
        keys=tuple(_key_from_wire(it) for it in wire.keys),
        new_key=wire.newKey,
    )


def _tenant_to_wire(tenant: TenantInfo, wire: Any) -> None:
    wire.tenantId = tenant.tenant_id
    wire.name = tenant.name
    _quota_to_wire(tenant.quota, wire.init("quota"))
    wire.models = tenant.models
    wire.hostBytes = tenant.host_bytes
    wire.keys = tenant.keys


def _tenant_from_wire(wire: Any) -> TenantInfo:
    return TenantInfo(
        tenant_id=TenantId(wire.tenantId),
        name=wire.name,
        quota=_quota_from_wire(wire.quota),
        models=wire.models,
        host_bytes=wire.hostBytes,
        keys=wire.keys,
    )


def _key_to_wire(key: KeyInfo, wire: Any) -> None:
    wire.keyId = key.key_id
    wire.tenant = key.tenant
    wire.label = key.label
    wire.createdMs = key.created_ms
    wire.revokedMs = key.revoked_ms


def _key_from_wire(wire: Any) -> KeyInfo:
    return KeyInfo(
        key_id=wire.keyId,
        tenant=wire.tenant,
        label=wire.label,
        created_ms=wire.createdMs,
        revoked_ms=wire.revokedMs,
    )


# --- the directory --------------------------------------------------------------------------------


def directory_to_wire(change: DirectoryChange, wire: Any) -> None:
    """Write a `DirectoryChange`."""
    wire.whole = change.whole
    tenants = wire.init("tenants", len(change.tenants))
    for at, tenant in enumerate(change.tenants):
        tenants[at].tenantId = tenant.tenant_id
        tenants[at].requestsPerS = tenant.requests_per_s
    wire.keysRevoked = list(change.keys_revoked)
    keys = wire.init("keysAdded", len(change.keys_added))
    for at, key in enumerate(change.keys_added):
        keys[at].keyId = key.key_id
        keys[at].tenantId = key.tenant_id
        keys[at].secretHash = key.secret_hash
    models = wire.init("models", len(change.models))
    for at, access in enumerate(change.models):
        models[at].model = access.model
        models[at].owner = access.owner
        models[at].sharedWith = list(access.shared_with)
    wire.modelsForgotten = list(change.models_forgotten)


def directory_from_wire(wire: Any) -> DirectoryChange:
    """Read a `DirectoryChange`."""
    return DirectoryChange(
        whole=wire.whole,
        tenants=tuple(
            DirectoryTenant(tenant_id=TenantId(it.tenantId), requests_per_s=it.requestsPerS)
            for it in wire.tenants
        ),
        keys_revoked=tuple(wire.keysRevoked),
        keys_added=tuple(
            DirectoryKey(
                key_id=it.keyId, tenant_id=TenantId(it.tenantId), secret_hash=bytes(it.secretHash)
            )
            for it in wire.keysAdded
        ),
        models=tuple(
            ModelAccess(
                model=it.model,
                owner=TenantId(it.owner),
                shared_with=tuple(TenantId(each) for each in it.sharedWith),
            )
            for it in wire.models
        ),
        models_forgotten=tuple(wire.modelsForgotten),
    )
