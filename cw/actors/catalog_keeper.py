"""The catalog's keeper: carries out what is asked of it, in threads, and says what changed.

One order at a time, each a transaction: it is answered once it is on disk. What gateways and the
scheduler have to know of it is handed on in the same turn, so that the directory never runs ahead
of the catalog, nor two changes past each other. Reading costs the request path nothing: gateways
hold the directory themselves.

Neighbours: `cw/catalog/catalog.py` (SQL), `controller.py` (`CatalogListener`).
"""

import logging
from typing import Protocol

import attrs
import trio

from cw.catalog.catalog import Catalog, CatalogState, Effects
from cw.errors import RequestInvalid
from cw.messages import (
    CatalogAnswer,
    CatalogOrder,
    CatalogVerb,
    DirectoryChange,
    TenantId,
)

logger = logging.getLogger(__name__)

_QUIET = frozenset({CatalogVerb.LIST_TENANTS, CatalogVerb.LIST_KEYS})


class CatalogListener(Protocol):
    """Who has to hear what changed: the controller."""

    def tell_directory(self, change: DirectoryChange) -> None:
        """Tell all gateways."""
        ...

    def weigh_tenant(self, tenant_id: TenantId, weight: float) -> None:
        """Have the scheduler share out device time so."""
        ...

    def check_pin(self, name: str) -> None:
        """Raise `QuotaExceeded` if a model can't stay resident beside those that do."""
        ...

    def pin_model(self, name: str, *, pinned: bool) -> None:
        """Have the scheduler keep a model resident, or not."""
        ...

    def serves_name(self, name: str) -> bool:
        """Say whether a model of that name is registered."""
        ...


@attrs.define(eq=False)
class CatalogKeeper:
    """The only one who touches the catalog while its controller runs.

    Args:
        catalog: Open.
        listener: Told of every change, and of the whole at the start.
    """

    catalog: Catalog
    listener: CatalogListener
    whole: DirectoryChange = attrs.field(factory=lambda: DirectoryChange(whole=True), init=False)
    """What a gateway that joins is told."""
    _pinned: frozenset[str] = attrs.field(factory=frozenset, init=False)
    """As the listener knows them."""
    _turn: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock, init=False)

    async def start(self) -> None:
        """Read the catalog and hand all of it on.

        Raises:
            CatalogFailed: The database did not answer.
        """
        async with self._turn:
            self._take(await self._read())

    async def _read(self) -> CatalogState:
        return await trio.to_thread.run_sync(self.catalog.state)

    def _take(self, state: CatalogState) -> None:
        self.whole = state.directory
        self.listener.tell_directory(state.directory)
        for tenant_id, weight in state.weights.items():
            self.listener.weigh_tenant(tenant_id, weight)
        for name in self._pinned.difference(state.pinned):
            self.listener.pin_model(name, pinned=False)
        for name in state.pinned:
            self.listener.pin_model(name, pinned=True)
        self._pinned = frozenset(state.pinned)

    async def order(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        # To the end, whoever hangs up: what is on disk must be told to the gateways, too.
        with trio.CancelScope(shield=True):
            async with self._turn:
                if order.verb is CatalogVerb.REREAD:
                    self._take(await self._read())
                    return CatalogAnswer()
                self._check(order)
                answer, effects = await trio.to_thread.run_sync(self.catalog.carry_out, order)
                if effects != Effects():
                    whole = (await self._read()).directory
                    # Both in one step: a gateway that joins gets either the old whole and then the
                    # change, or the new whole.
                    self.whole = whole
                    self._spread(effects)
        if order.verb not in _QUIET:
            logger.info(
                "catalog verb=%s tenant=%s model=%s key=%s",
                order.verb.value,
                order.tenant,
                order.model,
                order.key_id,
            )
        return answer

    def _check(self, order: CatalogOrder) -> None:
        if order.verb is CatalogVerb.PIN_MODEL:
            self.listener.check_pin(order.model)
        if order.verb is CatalogVerb.RELEASE_MODEL and self.listener.serves_name(order.model):
            raise RequestInvalid(f"{order.model[:128]!r} is served: 'cw model remove' removes it")

    async def forget(self, name: str) -> None:
        """Forget a model that was removed."""
        await self.order(CatalogOrder(verb=CatalogVerb.RELEASE_MODEL, model=name))

    def _spread(self, effects: Effects) -> None:
        if effects.directory is not None:
            self.listener.tell_directory(effects.directory)
        if effects.weight is not None:
            self.listener.weigh_tenant(*effects.weight)
        if effects.pinned is not None:
            name, pinned = effects.pinned
            self.listener.pin_model(name, pinned=pinned)
            self._pinned = self._pinned | {name} if pinned else self._pinned - {name}
