"""What is kept of tenants, what is asked of the catalog, and what gateways are told of it."""

import enum

import attrs

from cw.messages.ids import TenantId

NO_TENANT = TenantId(0)
"""The default tenant: whoever asks where there are no tenants, and the administrator where there
are. It stands in no table, has no quota and sees every model."""


@attrs.frozen(kw_only=True)
class Quota:
    """What a tenant may use. 0 means no bound, of the weight excepted."""

    weight: float = 1.0
    """Its part of the devices' time at overload, against the weights of those who ask, too."""
    requests_per_s: float = 0.0
    host_bytes: int = 0
    """Of its models' images together."""
    models: int = 0


@attrs.frozen(kw_only=True)
class TenantInfo:
    """A tenant as the catalog knows it."""

    tenant_id: TenantId
    name: str
    quota: Quota
    models: int = 0
    host_bytes: int = 0
    """Of the images of the models that it owns."""
    keys: int = 0
    """That open its door now."""


@attrs.frozen(kw_only=True)
class KeyInfo:
    """A key, less its secret, which nobody knows but its holder."""

    key_id: str
    tenant: str
    label: str
    created_ms: int
    revoked_ms: int
    """0 while it opens its door."""


class CatalogVerb(enum.Enum):
    """What may be asked of the catalog."""

    ADD_TENANT = "addTenant"
    LIST_TENANTS = "listTenants"
    SET_QUOTA = "setQuota"
    ADD_KEY = "addKey"
    ROTATE_KEY = "rotateKey"
    REVOKE_KEY = "revokeKey"
    LIST_KEYS = "listKeys"
    CLAIM_MODEL = "claimModel"
    RELEASE_MODEL = "releaseModel"
    SHARE_MODEL = "shareModel"
    UNSHARE_MODEL = "unshareModel"
    PIN_MODEL = "pinModel"
    UNPIN_MODEL = "unpinModel"
    REREAD = "reread"


@attrs.frozen(kw_only=True)
class CatalogOrder:
    """One thing asked of the catalog; schemas/catalog.capnp says which fields each verb reads."""

    verb: CatalogVerb
    tenant: str = ""
    model: str = ""
    key_id: str = ""
    label: str = ""
    host_bytes: int = 0
    quota: Quota = Quota()


@attrs.frozen(kw_only=True)
class CatalogAnswer:
    """What came of an order: lists where it lists, and a new key, which is shown this once."""

    tenants: tuple[TenantInfo, ...] = ()
    keys: tuple[KeyInfo, ...] = ()
    new_key: str = attrs.field(default="", repr=False)


# --- the directory: what gateways are told --------------------------------------------------------


@attrs.frozen(kw_only=True)
class DirectoryTenant:
    """A tenant, as far as a gateway has to do with it."""

    tenant_id: TenantId
    requests_per_s: float
    """At this gateway; 0: no bound."""


@attrs.frozen(kw_only=True)
class DirectoryKey:
    """A key that opens a tenant's door."""

    key_id: str
    tenant_id: TenantId
    secret_hash: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class ModelAccess:
    """Who may see and call a model. A model without one is the default tenant's."""

    model: str
    owner: TenantId
    shared_with: tuple[TenantId, ...] = ()


@attrs.frozen(kw_only=True)
class DirectoryChange:
    """What changed in the directory, or the whole of it; fields apply in this order."""

    whole: bool = False
    """Forget what was known before."""
    tenants: tuple[DirectoryTenant, ...] = ()
    """New ones, or with changed quotas."""
    keys_revoked: tuple[str, ...] = ()
    """Ids; the sessions that these keys opened end."""
    keys_added: tuple[DirectoryKey, ...] = ()
    models: tuple[ModelAccess, ...] = ()
    models_forgotten: tuple[str, ...] = ()
