"""The directory: what a gateway knows of tenants, keys and whose each model is.

The controller's catalog is the truth; this is what it told. A gateway that has lost its controller
goes on with what it was told last, and learns of no new key. Looking something up costs one or two
dictionaries, whatever the number of tenants.

Pure. Neighbours: `actors/tenant_door.py` asks, `messages/catalog.py` says what is told.
"""

from collections.abc import Callable, Iterable

import attrs

from cw.core.api_keys import is_secret, split_key
from cw.core.token_bucket import TokenBucket
from cw.messages import (
    NO_TENANT,
    DirectoryChange,
    DirectoryKey,
    DirectoryTenant,
    Refusal,
    RefusalReason,
    TenantId,
)
from cw.units import format_ms

_UNSHARED: frozenset[TenantId] = frozenset()


@attrs.define(eq=False)
class Directory:
    """What was told so far."""

    ended: Callable[[set[str]], None] = lambda _: None
    """Called with the ids of keys that open nothing any more, as soon as that is known; with the
    empty key's, too, once there are tenants."""
    _tenants: dict[TenantId, DirectoryTenant] = attrs.field(factory=dict)
    _buckets: dict[TenantId, TokenBucket] = attrs.field(factory=dict)
    """Of tenants whose requests are bounded."""
    _keys: dict[str, DirectoryKey] = attrs.field(factory=dict)
    _readers: dict[str, frozenset[TenantId]] = attrs.field(factory=dict)
    """By model's name: the owner, and those that it is shared with."""

    @property
    def has_tenants(self) -> bool:
        """Whether callers are told apart: then the empty key opens nothing."""
        return bool(self._tenants)

    def apply(self, change: DirectoryChange) -> None:
        """Take in a change."""
        ended = set(change.keys_revoked)
        if change.whole:
            kept = {key.key_id: key for key in change.keys_added}
            ended |= {key_id for key_id, key in self._keys.items() if kept.get(key_id) != key}
            self._keys.clear()
            self._readers.clear()
            self._keep_tenants({tenant.tenant_id for tenant in change.tenants})
        for tenant in change.tenants:
            self._set_tenant(tenant)
        for key_id in change.keys_revoked:
            self._keys.pop(key_id, None)
        self._keys.update({key.key_id: key for key in change.keys_added})
        for access in change.models:
            self._readers[access.model] = frozenset((access.owner, *access.shared_with))
        for name in change.models_forgotten:
            self._readers.pop(name, None)
        if self._tenants:
            ended.add("")
        if ended:
            self.ended(ended)

    def _keep_tenants(self, tenant_ids: set[TenantId]) -> None:
        for tenant_id in self._tenants.keys() - tenant_ids:
            del self._tenants[tenant_id]
            self._buckets.pop(tenant_id, None)

    def _set_tenant(self, tenant: DirectoryTenant) -> None:
        # Told again with the same bound, a tenant must not get a full bucket: a controller that
        # comes back tells everything again.
        if self._tenants.get(tenant.tenant_id) == tenant:
            return
        self._tenants[tenant.tenant_id] = tenant
        if tenant.requests_per_s > 0:
            self._buckets[tenant.tenant_id] = TokenBucket(tenant.requests_per_s)
        else:
            self._buckets.pop(tenant.tenant_id, None)

    def open(self, key: str) -> DirectoryKey | None:
        """Find what a key opens, in a time that says nothing of how near a guess came."""
        parts = split_key(key)
        if parts is None:
            return None
        key_id, secret = parts
        entry = self._keys.get(key_id)
        if not is_secret(secret, entry.secret_hash if entry is not None else None):
            return None
        return entry

    def sees(self, tenant_id: TenantId, model: str) -> bool:
        """Say whether a tenant may see and call a model, if there is one of that name."""
        return tenant_id == NO_TENANT or tenant_id in self._readers.get(model, _UNSHARED)

    def visible(self, tenant_id: TenantId, models: Iterable[str]) -> list[str]:
        """Pick the names that a tenant may see."""
        return [name for name in models if self.sees(tenant_id, name)]

    def over_quota(self, tenant_id: TenantId, now_ns: int) -> Refusal | None:
        """Count one request of a tenant, or say why it is refused and when it would not be."""
        bucket = self._buckets.get(tenant_id)
        if bucket is None:
            return None
        wait_ns = bucket.take(now_ns)
        if not wait_ns:
            return None
        return Refusal(
            reason=RefusalReason.OVER_QUOTA,
            earliest_finish_ns=wait_ns,
            message=(
                f"your quota is {bucket.rate_per_s:g} requests/s at this gateway; ask again in "
                f"{format_ms(wait_ns)}, or have the administrator raise it"
            ),
        )
