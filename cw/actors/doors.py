"""Doors: what a gateway lets its clients do. Capabilities: what a client holds is what it may do.

`ServingDoor` only authenticates. A tenant's door infers and looks; an administrator's adds and
removes models. Uploads are written to the store's staging folder and become a model by one commit,
so that a client that vanishes half way leaves nothing behind.

Neighbours: `gateway.py` (requests), `cw/models/store.py` (archives; blocking, so used in threads).
"""

import hmac
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.gateway import GatewayActor
from cw.errors import (
    AccessDenied,
    ArchiveInvalid,
    ManifestInvalid,
    ModelConflict,
    OutboxFull,
    PeerDisconnected,
    RequestInvalid,
    UnknownModel,
)
from cw.messages import Answer, ClusterStatus, InferCall, ModelId, ModelSpec, ModelStatus
from cw.models.archive import FILE_BYTES_MAX, read_manifest
from cw.models.store import ModelStore
from cw.rpc.ports import AdminPort, GatewaySession, UploadPort
from cw.units import format_bytes

logger = logging.getLogger(__name__)

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
        uploads_max: Uploads open at a time, all clients together.
    """

    gateway: GatewayActor
    store: ModelStore
    admin_key: str
    uploads_max: int = 16
    uploads_open: int = attrs.field(default=0, init=False)

    async def login(self, key: str) -> "TenantDoor":
        """See `ServingPort.login`."""
        if key and not self._is_admin(key):
            raise AccessDenied("this cluster has no tenant with that key; use the empty key")
        return TenantDoor(self.gateway)

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
        return hmac.compare_digest(key.encode(), self.admin_key.encode())

    async def wait_closed(self) -> None:
        """Never returns: the door has no connection of its own."""
        await trio.sleep_forever()

    def close(self) -> None:
        """Nothing to hang up on."""


def _session(gateway: GatewayActor) -> GatewaySession:
    if gateway.session is None:
        raise PeerDisconnected("this gateway has no controller at the moment; retry shortly")
    return gateway.session


async def _told(gateway: GatewayActor, name: str, model_id: ModelId | None) -> None:
    """Wait until the controller's notice of a change has come, just behind its answer.

    Whoever added a model may ask for it in the next call, and whoever removed one may add another
    of that name.
    """
    with trio.move_on_after(_NOTICE_S):
        while True:
            spec = gateway.models.get(name)
            if (spec.model_id if spec is not None else None) == model_id:
                return
            await trio.sleep(_NOTICE_POLL_S)


@attrs.define(eq=False)
class TenantDoor:
    """What a tenant may do; implements `TenantPort`."""

    gateway: GatewayActor

    async def infer(self, call: InferCall) -> Answer:
        """See `TenantPort.infer`."""
        return await self.gateway.infer(call, arrival_ns=now_ns())

    def model_spec(self, name: str) -> ModelSpec:
        """Describe a model, as this gateway knows it.

        Raises:
            UnknownModel: There is none of that name.
        """
        spec = self.gateway.models.get(name)
        if spec is None:
            raise UnknownModel(f"no model is named {name[:128]!r}; see 'cw model list'")
        return spec

    async def models(self) -> Sequence[ModelStatus]:
        """See `TenantPort.models`."""
        return (await _session(self.gateway).status()).models

    async def model_status(self, name: str) -> ModelStatus:
        """See `TenantPort.model_status`."""
        spec = self.model_spec(name)
        return await _session(self.gateway).model_status(spec.model_id)

    async def status(self) -> ClusterStatus:
        """See `TenantPort.status`."""
        return await _session(self.gateway).status()


@attrs.define(eq=False)
class AdminDoor:
    """What an administrator may do; implements `AdminPort`."""

    door: ServingDoor

    async def begin_upload(self) -> UploadPort:
        """See `AdminPort.begin_upload`."""
        if self.door.uploads_open >= self.door.uploads_max:
            raise OutboxFull(
                f"{self.door.uploads_open} uploads are open, which is this gateway's bound; "
                "finish or discard one first"
            )
        self.door.uploads_open += 1
        try:
            staged = await trio.to_thread.run_sync(self.door.store.stage)
        except BaseException:
            self.door.uploads_open -= 1
            raise
        return Upload(self.door, staged)

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
            await _session(gateway).remove_model(spec.model_id)
            with suppress(UnknownModel):  # then somebody else has removed its files already
                await trio.to_thread.run_sync(self.door.store.remove, name)
            await _told(gateway, name, None)
        logger.info("removed model=%s", name)


@attrs.define(eq=False)
class Upload:
    """One archive on its way into the store; implements `UploadPort`.

    Calls take turns in the order of their coming, also those that a client does not wait for: two
    pieces of one file must not change places, nor a piece come into a folder that is being deleted.
    """

    door: ServingDoor
    staged: Path
    _turn: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock, init=False)
    _written: dict[str, int] = attrs.field(factory=dict, init=False)
    _ended: bool = attrs.field(default=False, init=False)

    async def write(self, file: str, data: bytes) -> None:
        """See `UploadPort.write`."""
        async with self._turn:
            self._check_open()
            bound = FILE_BYTES_MAX.get(file)
            if bound is None:
                names = ", ".join(FILE_BYTES_MAX)
                raise ArchiveInvalid(f"an archive has the files {names}; got {file[:128]!r}")
            written = self._written.get(file, 0) + len(data)
            if written > bound:
                raise ArchiveInvalid(
                    f"{file} may have at most {format_bytes(bound)}; the upload outgrew that"
                )
            bound = self.door.gateway.settings.max_upload_bytes
            if sum(self._written.values()) + len(data) > bound:
                raise ArchiveInvalid(
                    f"an upload may have at most {format_bytes(bound)} (max_upload of the "
                    "gateway's settings); this one outgrew that"
                )
            await trio.to_thread.run_sync(_append, self.staged / file, data)
            self._written[file] = written

    async def commit(self) -> ModelSpec:
        """See `UploadPort.commit`."""
        async with self._turn:
            self._check_open()
            session = _session(self.door.gateway)
            try:
                spec = await self._add(session)
            finally:
                await self._end()
        logger.info("added model=%s bytes=%d", spec.name, spec.image_bytes)
        return spec

    async def _add(self, session: GatewaySession) -> ModelSpec:
        manifest = await trio.to_thread.run_sync(read_manifest, self.staged)
        existing = self.door.gateway.models.get(manifest.name)
        if existing is not None and existing.model_id != manifest.to_spec().model_id:
            # Asked before the store is touched: the served version must not change under it.
            raise ModelConflict(
                f"a model named {manifest.name!r} exists with other contents; "
                "remove it first, or add this one under another name"
            )
        # To the end, whoever hangs up: a stored model of which no controller knows could be neither
        # used nor removed. A controller that does not answer is found out by the heartbeat.
        with trio.CancelScope(shield=True):
            stored = await trio.to_thread.run_sync(self.door.store.commit, self.staged)
            spec = stored.manifest.to_spec()
            await session.add_model(spec)
            await _told(self.door.gateway, spec.name, spec.model_id)
        return spec

    async def discard(self) -> None:
        """See `UploadPort.discard`."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                await self._end()

    async def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        try:
            with trio.CancelScope(shield=True), suppress(OSError):
                await trio.to_thread.run_sync(self.door.store.discard, self.staged)
        finally:
            self.door.uploads_open -= 1

    def _check_open(self) -> None:
        if self._ended:
            raise ArchiveInvalid("this upload has ended; begin another")


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
