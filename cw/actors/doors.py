"""Doors: what a gateway lets its clients do. Capabilities: what a client holds is what it may do.

`ServingDoor` only authenticates. A tenant's door infers and looks; an administrator's adds and
removes models, and says which version a name stands for.

Neighbours: `gateway.py` (requests), `uploads.py` (archives on their way), `cw/models/store.py`
(blocking, so used in threads).
"""

import hmac
import logging
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from cw.actors.front import Front, registry_of
from cw.actors.meters import GatewayMeter
from cw.actors.tenant_door import TenantDoor
from cw.actors.uploads import UploadDesk
from cw.errors import (
    AccessDenied,
    ManifestInvalid,
    RequestInvalid,
    UnknownModel,
)
from cw.messages import (
    NO_TENANT,
    CatalogAnswer,
    CatalogOrder,
    CatalogVerb,
    ModelSpec,
    RouteOrder,
    TenantId,
    UploadOffer,
    VersionStatus,
)
from cw.models.store import ModelStore
from cw.rpc.ports import AdminPort, UploadPort

logger = logging.getLogger(__name__)

_NO_KEY: Final = (
    "this cluster has tenants: give a key with --key, CW_KEY or 'Authorization: Bearer'"
)
_WRONG_KEY: Final = "this key opens nothing here: it was mistyped, revoked, or is another cluster's"
_NOTICE_S: Final = 1.0
"""A controller that is silent for so long is lost, and its successor tells of all models anew."""
_NOTICE_POLL_S: Final = 0.001


@attrs.define(eq=False)
class ServingDoor:
    """The front door; implements `ServingPort`.

    Args:
        gateway: Behind it.
        store: Where models go.
        admin_key: Opens the administrator's door; empty means that nothing does.
        meter: Writes down how requests end, if anybody does.
    """

    gateway: Front
    store: ModelStore
    admin_key: str
    meter: GatewayMeter | None = None

    _open: dict[str, TenantDoor] = attrs.field(factory=dict, init=False)
    """By key's id: the doors of those who have logged in. The empty id's is the empty key's; as
    many as there are keys, at most."""
    _administrators: TenantDoor = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._administrators = TenantDoor(self.gateway, meter=self.meter)
        self.gateway.directory.ended = self._end

    async def login(self, key: str) -> TenantDoor:
        """See `ServingPort.login`; the administrator's key opens the default tenant's door."""
        directory = self.gateway.directory
        if not key and not directory.has_tenants:
            return self._door("", NO_TENANT)
        entry = directory.open(key)
        if entry is not None:
            return self._door(entry.key_id, entry.tenant_id)
        if self._is_admin(key):
            return self._administrators
        raise AccessDenied(_NO_KEY if not key else _WRONG_KEY)

    def _door(self, key_id: str, tenant_id: TenantId) -> TenantDoor:
        door = self._open.get(key_id)
        if door is None:
            door = self._open[key_id] = TenantDoor(self.gateway, tenant_id, self.meter)
        return door

    def _end(self, key_ids: set[str]) -> None:
        for key_id in key_ids & self._open.keys():
            logger.info("ended sessions of key=%s", key_id or "(none)")
            self._open.pop(key_id).end()

    async def admin(self, key: str) -> AdminPort:
        """See `ServingPort.admin`."""
        if not self._is_admin(key):
            raise AccessDenied(
                "not the administrator's key; tools/devcluster writes it to admin.key beside its "
                "store, and the cw command finds it there or in CW_ADMIN_KEY"
            )
        return AdminDoor(self)

    def _is_admin(self, key: str) -> bool:
        if not self.admin_key:
            return False
        given = key.encode(errors="surrogatepass")
        return hmac.compare_digest(given, self.admin_key.encode())

    async def wait_closed(self) -> None:
        """Never returns: the door has no connection of its own."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Nothing to hang up on."""


async def _told(is_known: Callable[[], bool]) -> None:
    """Wait until the controller's notice of a change has come, just behind its answer.

    Whoever added a model may ask for it in the next call, and whoever removed one may add another
    of that name.
    """
    with trio.move_on_after(_NOTICE_S):
        while True:
            if is_known():
                return
            await trio.sleep(_NOTICE_POLL_S)


@attrs.define(eq=False)
class AdminDoor:
    """What an administrator may do; implements `AdminPort`."""

    door: ServingDoor

    @property
    def _uploads(self) -> UploadDesk:
        return UploadDesk(
            store=self.door.store,
            settings=self.door.gateway.settings,
            owner="admin",
            check=lambda: registry_of(self.door.gateway),
            register=self._register,
        )

    async def _register(self, spec: ModelSpec, hold: bool) -> ModelSpec:
        gateway = self.door.gateway
        await self.catalog(
            CatalogOrder(verb=CatalogVerb.CLAIM_MODEL, model=spec.name, host_bytes=spec.image_bytes)
        )
        served = await registry_of(gateway).add_model(spec, hold=hold)
        await _told(
            lambda: served.model_id in {it.model_id for it in gateway.routes.versions(spec.name)}
        )
        return served

    async def begin_upload(self, offer: UploadOffer) -> UploadPort:
        """See `AdminPort.begin_upload`."""
        return await self._uploads.begin(offer)

    async def resume_upload(self, token: str) -> UploadPort:
        """See `AdminPort.resume_upload`."""
        return await self._uploads.resume(token)

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `AdminPort.versions`."""
        return await registry_of(self.door.gateway).versions(name)

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `AdminPort.route_model`."""
        with trio.CancelScope(shield=True):
            versions = await registry_of(self.door.gateway).route_model(order)
            logger.info("routed model=%s", order.name)
        return versions

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `AdminPort.catalog`."""
        return await registry_of(self.door.gateway).catalog(order)

    async def allow_program(self, program_sha256: str) -> None:
        """See `AdminPort.allow_program`."""
        try:
            await trio.to_thread.run_sync(
                self.door.store.allow_program, program_sha256, "allowed by the administrator"
            )
        except ManifestInvalid as exc:
            raise RequestInvalid(str(exc)) from exc

    async def remove_model(self, name: str) -> None:
        """See `AdminPort.remove_model`."""
        gateway = self.door.gateway
        spec = gateway.models.get(name)
        if spec is None:
            raise UnknownModel(f"no model is named {name[:128]!r}; see 'cw model list'")
        # To the end, whoever hangs up: what stays in the store is back with the next controller.
        with trio.CancelScope(shield=True):
            await registry_of(gateway).remove_model(spec.model_id)
            await _told(lambda: spec not in gateway.routes.versions(name))
        logger.info("removed model=%s", name)
