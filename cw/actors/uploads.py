"""Uploads: archives that clients send in chunks, across broken connections and dead gateways.

Everything of an upload lies in the store's staging folder (`cw/models/uploads.py`), so any gateway
of the store can go on with it, whoever began it. Only the turns are kept here.

Neighbours: `doors.py` (who may upload), `cw/models/uploads.py` (what is kept; it blocks, so it is
called in threads), the controller through `GatewaySession`.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import trio

from cw.config import GatewaySettings
from cw.errors import CwError, PeerDisconnected, RequestInvalid, StoreFull
from cw.messages import ModelSpec, UploadOffer
from cw.models.store import ModelStore
from cw.models.uploads import PartialUpload, PartialUploads, UploadLimits

logger = logging.getLogger(__name__)

_SWEEP_EVERY_S: Final = 600.0
"""Stale uploads hold disk for so much longer than they should, at most."""

Register = Callable[[ModelSpec, bool], Awaitable[ModelSpec]]
"""Have the controller serve a version that is in the store, or hold it; gives it its number."""


def partial_uploads(store: ModelStore, settings: GatewaySettings) -> PartialUploads:
    """Open the uploads of a store, under a gateway's bounds."""
    return PartialUploads(
        store.root,
        UploadLimits(
            max_bytes=settings.max_upload_bytes,
            max_open=settings.max_open_uploads,
            max_open_bytes=settings.max_open_upload_bytes,
            keep_ns=settings.upload_keep_ns,
        ),
    )


@attrs.frozen(eq=False)
class UploadDesk:
    """Begins and resumes the uploads of one owner.

    Args:
        store: Where models go.
        settings: The gateway's.
        owner: Whose uploads these are; others can't go on with them.
        check: Raises while no controller could be told of a model.
        register: Tells it.
    """

    store: ModelStore
    settings: GatewaySettings
    owner: str
    check: Callable[[], object]
    register: Register

    async def begin(self, offer: UploadOffer) -> "Upload":
        """See `AdminPort.begin_upload`."""
        partial = partial_uploads(self.store, self.settings)
        begun = await trio.to_thread.run_sync(partial.begin, self.owner, offer)
        return Upload(self, partial, begun)

    async def resume(self, token: str) -> "Upload":
        """See `AdminPort.resume_upload`."""
        partial = partial_uploads(self.store, self.settings)
        found = await trio.to_thread.run_sync(partial.resume, self.owner, token)
        return Upload(self, partial, found)


@attrs.define(eq=False)
class Upload:
    """One archive on its way into the store; implements `UploadPort`.

    Calls take turns in the order of their coming, so that a client need not wait for a chunk's
    answer before it sends the next.
    """

    desk: UploadDesk
    partial: PartialUploads
    upload: PartialUpload
    _turn: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock, init=False)

    @property
    def token(self) -> str:
        """See `UploadPort.token`."""
        return self.upload.token

    async def progress(self) -> Mapping[str, int]:
        """See `UploadPort.progress`."""
        async with self._turn:
            return await trio.to_thread.run_sync(self.partial.written, self.upload)

    async def write(self, file: str, data: bytes, *, offset: int, crc32: int) -> None:
        """See `UploadPort.write`."""

        def write() -> None:
            self.partial.write(self.upload, file, data, offset=offset, crc32=crc32)

        async with self._turn:
            await trio.to_thread.run_sync(write)

    async def commit(self, *, hold: bool = False) -> ModelSpec:
        """See `UploadPort.commit`.

        What is wrong with the archive ends the upload: it would be as wrong the next time. What is
        wrong with the cluster does not.
        """
        async with self._turn:
            self.desk.check()
            # To the end, whoever hangs up: a stored model of which no controller knows could be
            # neither used nor removed. A controller that is silent is found out by the heartbeat.
            with trio.CancelScope(shield=True):
                try:
                    spec = await trio.to_thread.run_sync(self._into_store)
                except (PeerDisconnected, RequestInvalid, StoreFull):
                    raise
                except CwError:
                    await trio.to_thread.run_sync(self.partial.discard, self.upload)
                    raise
                served = await self.desk.register(spec, hold)
        logger.info("added model=%s version=%d", served.name, served.version)
        return served

    def _into_store(self) -> ModelSpec:
        with self.partial.completing(self.upload) as folder:
            return self.desk.store.place(folder).manifest.to_spec()

    async def discard(self) -> None:
        """See `UploadPort.discard`."""
        with trio.CancelScope(shield=True):
            async with self._turn:
                await trio.to_thread.run_sync(self.partial.discard, self.upload)


async def sweep_uploads(store: ModelStore, settings: GatewaySettings) -> None:
    """Throw away stale uploads now and then, until cancelled."""
    partial = partial_uploads(store, settings)
    while True:
        try:
            swept = await trio.to_thread.run_sync(lambda: partial.sweep(wall_ns=time.time_ns()))
        except OSError as exc:
            logger.warning("uploads not swept: %s", exc)
        else:
            if swept:
                logger.info("swept uploads=%d", swept)
        await trio.sleep(_SWEEP_EVERY_S)
