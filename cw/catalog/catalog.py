"""The catalog as one object: an order in, an answer and its effects out. Blocks; one at a time."""

from collections.abc import Callable, Collection
from typing import Final, TypeVar

import attrs
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from cw.catalog import keys, models, tenants, usage
from cw.catalog.database import open_database, upgrade
from cw.errors import CatalogFailed, RequestInvalid
from cw.messages import (
    CatalogAnswer,
    CatalogOrder,
    CatalogVerb,
    DirectoryChange,
    DirectoryTenant,
    TenantId,
    UsageBatch,
    UsageEntry,
)

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class CatalogState:
    """All that others have to know of the catalog."""

    directory: DirectoryChange
    """The whole."""
    weights: dict[TenantId, float]
    pinned: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Effects:
    """What others have to know of one order."""

    directory: DirectoryChange | None = None
    weight: tuple[TenantId, float] | None = None
    pinned: tuple[str, bool] | None = None


Outcome = tuple[CatalogAnswer, Effects]
_NOTHING: Final = CatalogAnswer()
_NO_EFFECTS: Final = Effects()


@attrs.frozen
class Catalog:
    """A catalog that is open and up to date."""

    _engine: Engine

    @classmethod
    def open(cls, url: str, stored: Collection[tuple[str, int]]) -> "Catalog":
        """Open a catalog, bring its tables up to date and in line with the store.

        Args:
            url: SQLite's or PostgreSQL's.
            stored: The store's models, each with the bytes of its image.

        Raises:
            ConfigError: It can't be used.
        """
        engine = open_database(url)
        upgrade(engine)
        with engine.begin() as connection:
            models.keep_only(connection, stored)
        return cls(engine)

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def state(self) -> CatalogState:
        """Read all that others have to know.

        Raises:
            CatalogFailed: The database did not answer.
        """
        return self._in_transaction(_state)

    def carry_out(self, order: CatalogOrder) -> Outcome:
        """Do what is asked, wholly or not at all; on disk when this returns.

        Raises:
            RequestInvalid: It can't be done as it stands; see `GatewaySession.catalog`.
            CatalogFailed: The database did not take it.
        """
        work = _WORK.get(order.verb)
        if work is None:
            raise RequestInvalid(f"{order.verb.value!r} is not asked of the catalog itself")
        return self._in_transaction(lambda connection: work(connection, order))

    def add_usage(self, batch: UsageBatch) -> int:
        """Add what is not added yet of a batch of usage records; on disk when this returns.

        Returns:
            The number up to which all records of that life are added.

        Raises:
            CatalogFailed: The database did not take it.
        """
        return self._in_transaction(lambda connection: usage.add_usage(connection, batch))

    def usage(self, *, by: str, tenant_id: TenantId | None = None) -> tuple[UsageEntry, ...]:
        """Read sums of what was used; see `usage.read_usage`.

        Raises:
            CatalogFailed: The database did not answer.
        """
        return self._in_transaction(
            lambda connection: usage.read_usage(connection, by=by, tenant_id=tenant_id)
        )

    def _in_transaction(self, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as exc:
            # Its text repeats the statement's values, a key's hash among them.
            raise CatalogFailed(
                f"the catalog's database failed ({type(exc).__name__}); nothing was changed: see "
                "whether it is up, has room and may be written"
            ) from exc


def _state(connection: Connection) -> CatalogState:
    known = tenants.list_tenants(connection)
    return CatalogState(
        directory=DirectoryChange(
            whole=True,
            tenants=tuple(
                DirectoryTenant(
                    tenant_id=tenant.tenant_id, requests_per_s=tenant.quota.requests_per_s
                )
                for tenant in known
            ),
            keys_added=keys.directory_keys(connection),
            models=models.directory_models(connection),
        ),
        weights={tenant.tenant_id: tenant.quota.weight for tenant in known},
        pinned=models.pinned_models(connection),
    )


# --- one function for each verb -------------------------------------------------------------------


def _add_tenant(connection: Connection, order: CatalogOrder) -> Outcome:
    tenant_id = tenants.add_tenant(connection, order.tenant, order.quota)
    return _NOTHING, _tenant_effects(tenant_id, order)


def _set_quota(connection: Connection, order: CatalogOrder) -> Outcome:
    tenants.set_quota(connection, order.tenant, order.quota)
    tenant_id = tenants.tenant_id_of(connection, order.tenant, but_default=True)
    return _NOTHING, _tenant_effects(tenant_id, order)


def _tenant_effects(tenant_id: TenantId, order: CatalogOrder) -> Effects:
    told = DirectoryTenant(tenant_id=tenant_id, requests_per_s=order.quota.requests_per_s)
    return Effects(
        directory=DirectoryChange(tenants=(told,)), weight=(tenant_id, order.quota.weight)
    )


def _list_tenants(connection: Connection, _: CatalogOrder) -> Outcome:
    return CatalogAnswer(tenants=tenants.list_tenants(connection)), _NO_EFFECTS


def _add_key(connection: Connection, order: CatalogOrder) -> Outcome:
    key, entry = keys.add_key(connection, order.tenant, order.label)
    return CatalogAnswer(new_key=key), Effects(directory=DirectoryChange(keys_added=(entry,)))


def _rotate_key(connection: Connection, order: CatalogOrder) -> Outcome:
    key, entry = keys.rotate_key(connection, order.key_id)
    change = DirectoryChange(keys_revoked=(order.key_id,), keys_added=(entry,))
    return CatalogAnswer(new_key=key), Effects(directory=change)


def _revoke_key(connection: Connection, order: CatalogOrder) -> Outcome:
    keys.revoke_key(connection, order.key_id)
    return _NOTHING, Effects(directory=DirectoryChange(keys_revoked=(order.key_id,)))


def _list_keys(connection: Connection, order: CatalogOrder) -> Outcome:
    return CatalogAnswer(keys=keys.list_keys(connection, order.tenant)), _NO_EFFECTS


def _claim_model(connection: Connection, order: CatalogOrder) -> Outcome:
    access = models.own_model(connection, order.model, order.tenant, order.host_bytes)
    return _NOTHING, Effects(directory=DirectoryChange(models=(access,)))


def _release_model(connection: Connection, order: CatalogOrder) -> Outcome:
    models.forget_model(connection, order.model)
    return _NOTHING, Effects(directory=DirectoryChange(models_forgotten=(order.model,)))


def _share_model(connection: Connection, order: CatalogOrder) -> Outcome:
    access = models.share_model(connection, order.model, order.tenant)
    return _NOTHING, Effects(directory=DirectoryChange(models=(access,)))


def _unshare_model(connection: Connection, order: CatalogOrder) -> Outcome:
    access = models.unshare_model(connection, order.model, order.tenant)
    return _NOTHING, Effects(directory=DirectoryChange(models=(access,)))


def _pin_model(connection: Connection, order: CatalogOrder) -> Outcome:
    pinned = order.verb is CatalogVerb.PIN_MODEL
    models.set_pinned(connection, order.model, pinned=pinned)
    return _NOTHING, Effects(pinned=(order.model, pinned))


_WORK: Final[dict[CatalogVerb, Callable[[Connection, CatalogOrder], Outcome]]] = {
    CatalogVerb.ADD_TENANT: _add_tenant,
    CatalogVerb.LIST_TENANTS: _list_tenants,
    CatalogVerb.SET_QUOTA: _set_quota,
    CatalogVerb.ADD_KEY: _add_key,
    CatalogVerb.ROTATE_KEY: _rotate_key,
    CatalogVerb.REVOKE_KEY: _revoke_key,
    CatalogVerb.LIST_KEYS: _list_keys,
    CatalogVerb.CLAIM_MODEL: _claim_model,
    CatalogVerb.RELEASE_MODEL: _release_model,
    CatalogVerb.SHARE_MODEL: _share_model,
    CatalogVerb.UNSHARE_MODEL: _unshare_model,
    CatalogVerb.PIN_MODEL: _pin_model,
    CatalogVerb.UNPIN_MODEL: _pin_model,
}
