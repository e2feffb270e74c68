"""Version desk: the controller's hand on what names stand for.

It keeps a record of versions for each name (`core/versions.py`). A change is written to the store
before anybody acts on it, so a controller that is killed at any instant finds the old state or the
new one, and goes on from there: what was wanted is wanted again. A version that has left service is
drained: gateways are told at once to send it nothing, and the scheduler, which answers what was
asked before, hears of it once every gateway has acted on that or been cut off.

It costs nothing per request: gateways decide where each one goes, by the routes told here.

Neighbours: `controller.py` (whose part this is), `core/versions.py`, `cw/models/store.py`.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import attrs
import trio

from cw.config import LinkSettings
from cw.core.versions import ModelVersions
from cw.errors import CwError, ModelConflict, StoreFull, UnknownModel
from cw.messages import ModelId, ModelSpec, Route, RouteOrder, VersionStatus
from cw.models.store import ModelStore
from cw.units import SECOND

logger = logging.getLogger(__name__)


class VersionFiles(Protocol):
    """Where records and specifications of versions are kept."""

    async def save(self, record: ModelVersions) -> None:
        """Keep a record; versions that it does not name any more are deleted.

        Raises:
            UnknownModel: A version in service is not there.
            StoreFull: It could not be written; nothing changed.
        """
        ...

    async def spec_of(self, name: str, model_id: ModelId) -> ModelSpec:
        """Read a version's specification.

        Raises:
            UnknownModel: The store does not have it.
        """
        ...

    async def remove(self, name: str) -> None:
        """Delete a name with all its versions; harmless if there is none."""
        ...


class NoFiles:
    """Keeps nothing, for a controller without a store; satisfies `VersionFiles`."""

    async def save(self, record: ModelVersions) -> None:
        """Keep nothing."""

    async def spec_of(self, name: str, model_id: ModelId) -> ModelSpec:
        """Find nothing."""
        raise UnknownModel(f"no version of {name!r} has the id {model_id}")

    async def remove(self, name: str) -> None:
        """Delete nothing."""


@attrs.frozen
class StoreVersions:
    """Keeps them in the store, in threads since disks are slow; satisfies `VersionFiles`."""

    store: ModelStore

    async def save(self, record: ModelVersions) -> None:
        """See `VersionFiles.save`."""
        try:
            await trio.to_thread.run_sync(self.store.save_versions, record)
        except OSError as exc:
            raise StoreFull(f"the store could not be written: {exc}; nothing changed") from exc

    async def spec_of(self, name: str, model_id: ModelId) -> ModelSpec:
        """See `VersionFiles.spec_of`."""
        return await trio.to_thread.run_sync(self.store.spec_of, name, model_id)

    async def remove(self, name: str) -> None:
        """See `VersionFiles.remove`."""
        with suppress(UnknownModel):  # another cell of the same store has removed it
            await trio.to_thread.run_sync(self.store.remove, name)


@attrs.define(eq=False)
class VersionDesk:
    """The versions of all names.

    Args:
        files: Where they are kept.
        link: How long a gateway may be silent before it is cut off.
        serve: Have gateways and the scheduler know a version.
        withdraw: Have them forget one; what was asked of it before is answered.
        tell_route: Have gateways send requests so.
    """

    files: VersionFiles
    link: LinkSettings
    serve: Callable[[ModelSpec], None]
    withdraw: Callable[[ModelId], None]
    tell_route: Callable[[Route], None]
    _records: dict[str, ModelVersions] = attrs.field(factory=dict, init=False)
    _served: dict[ModelId, ModelSpec] = attrs.field(factory=dict, init=False)
    """In service or draining."""
    _specs: dict[ModelId, ModelSpec] = attrs.field(factory=dict, init=False)
    """Of the versions that were seen, so that a rollback needs no disk."""
    _ready: set[ModelId] = attrs.field(factory=set, init=False)
    _routes: dict[str, Route] = attrs.field(factory=dict, init=False)
    """As the gateways know them."""
    _turn: trio.StrictFIFOLock = attrs.field(factory=trio.StrictFIFOLock, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)

    def start(self, nursery: trio.Nursery) -> None:
        """Give it a place for its own work: switches and drains."""
        self._nursery = nursery

    def restore(self, record: ModelVersions, specs: tuple[ModelSpec, ...]) -> None:
        """Serve again what an earlier controller did.

        Args:
            record: From the store.
            specs: Of its versions in service.
        """
        for spec in specs:
            self._specs[spec.model_id] = spec
        self._act(record)

    @property
    def routes(self) -> tuple[Route, ...]:
        """As the gateways know them: for one that joins."""
        return tuple(self._routes.values())

    @property
    def served(self) -> tuple[ModelSpec, ...]:
        """Likewise, the versions."""
        return tuple(self._served.values())

    def name_of(self, model_id: ModelId) -> str | None:
        """Say which name a version in service, or draining, has."""
        spec = self._served.get(model_id)
        return spec.name if spec is not None else None

    def serves_name(self, name: str) -> bool:
        """Say whether a name stands for anything."""
        return name in self._records

    def serves(self, model_id: ModelId) -> bool:
        """Say whether a version is in service, or draining."""
        return model_id in self._served

    # --- what administrators want -----------------------------------------------------------------

    async def add(self, spec: ModelSpec, *, hold: bool) -> ModelSpec:
        """Take in a version that is in the store; the same contents again are a no-op.

        Raises:
            ModelConflict: The same program and weights are there with another manifest.
            RequestInvalid: Too many versions are in service.
        """
        async with self._turn:
            record = self._records.get(spec.name) or ModelVersions(name=spec.name)
            known = record.number_of(spec.model_id)
            if known is not None:
                numbered = attrs.evolve(spec, version=known)
                if numbered != await self._spec(record, known):
                    raise ModelConflict(
                        f"version {known} of {spec.name!r} has the same program and weights, and "
                        "another manifest; remove the model first to change only that"
                    )
                if known == record.current and not record.wanted:
                    return numbered
            changed = record.added(spec.model_id, hold=hold)
            number = changed.number_of(spec.model_id)
            assert number is not None
            numbered = attrs.evolve(spec, version=number)
            self._specs[spec.model_id] = numbered
            await self._change(changed)
            return numbered

    async def order(self, order: RouteOrder) -> tuple[VersionStatus, ...]:
        """Change what a name stands for; see `ModelVersions.ordered`.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: It has no such version.
            RequestInvalid: The shares can't be had.
        """
        async with self._turn:
            changed = self._record(order.name).ordered(order)
            for number in changed.in_service:
                await self._spec(changed, number)
            await self._change(changed)
            return self._records[order.name].statuses()

    def statuses(self, name: str) -> tuple[VersionStatus, ...]:
        """Describe a name's versions.

        Raises:
            UnknownModel: There is none of that name.
        """
        return self._record(name).statuses()

    async def remove(self, model_id: ModelId) -> None:
        """Forget the name that a version belongs to, with all its versions.

        Raises:
            UnknownModel: It is not in service.
        """
        async with self._turn:
            spec = self._served.get(model_id)
            if spec is None or spec.name not in self._records:
                raise UnknownModel(f"no model has the id {model_id}")
            await self.files.remove(spec.name)
            record = self._records.pop(spec.name)
            self._routes.pop(spec.name, None)
            for each in record.ids.values():
                self._specs.pop(each, None)
            for each in [it.model_id for it in self._served.values() if it.name == spec.name]:
                self._withdraw(each)

    def _record(self, name: str) -> ModelVersions:
        record = self._records.get(name)
        if record is None:
            raise UnknownModel(f"no model is named {name[:128]!r}; see 'cw model list'")
        return record

    async def _spec(self, record: ModelVersions, number: int) -> ModelSpec:
        """Find the specification of a version, in the store if it was not in service lately."""
        model_id = record.ids[number]
        if model_id not in self._specs:
            spec = await self.files.spec_of(record.name, model_id)
            self._specs[model_id] = attrs.evolve(spec, version=number)
        return self._specs[model_id]

    # --- what becomes of versions -----------------------------------------------------------------

    def became_ready(self, model_id: ModelId) -> None:
        """Note that a version can be served: a wanted one becomes current."""
        self._ready.add(model_id)
        self._later(self._follow_up, model_id, None)

    def became_unready(self, model_id: ModelId, why: str | None) -> None:
        """Note that a version can't be served.

        Args:
            model_id: Which.
            why: If no executor could prepare it; None when it may yet be.
        """
        self._ready.discard(model_id)
        self._later(self._follow_up, model_id, why)

    def _later(self, work: Callable[..., object], *args: object) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(work, *args)  # type: ignore[arg-type]

    async def _follow_up(self, model_id: ModelId, why: str | None) -> None:
        async with self._turn:
            spec = self._specs.get(model_id)
            record = self._records.get(spec.name) if spec is not None else None
            if spec is None or record is None:
                return
            changed = record
            if model_id in self._ready:
                changed = record.ready(spec.version)
            elif why is not None:
                changed = record.failed(spec.version, why)
            try:
                await self._change(changed)
            except CwError as exc:
                # Act on it all the same: what the disk has leads to the same state again.
                logger.warning("versions not saved model=%s: %s", spec.name, exc)
                self._act(changed)

    async def _change(self, record: ModelVersions) -> None:
        """Keep a record, then act on it."""
        if record != self._records.get(record.name):
            await self.files.save(record)
        self._act(record)

    def _act(self, record: ModelVersions) -> None:
        before = self._records.get(record.name)
        wanted = record.ids.get(record.wanted)
        if wanted is not None and wanted in self._ready and wanted in self._served:
            self._later(self._follow_up, wanted, None)
        self._records[record.name] = record
        in_service = {record.ids[number] for number in record.in_service}
        for model_id in sorted(in_service - set(self._served)):
            self._served[model_id] = self._specs[model_id]
            self.serve(self._specs[model_id])
        if before is not None and before.current != record.current:
            logger.info("switched model=%s version=%d", record.name, record.current)
        ready = {number for number in record.in_service if record.ids[number] in self._ready}
        route = record.route(ready)
        if self._routes.get(record.name) != route:
            self._routes[record.name] = route
            self.tell_route(route)
        if before is not None:
            for number in set(before.in_service) - set(record.in_service):
                if before.ids[number] in self._ready:
                    self._later(self._drain, record.name, before.ids[number])
                else:
                    self._withdraw(before.ids[number])  # nothing was ever promised of it

    async def _drain(self, name: str, model_id: ModelId) -> None:
        """Withdraw a version once no gateway sends it anything any more."""
        await trio.sleep((self.link.silence_ns + 2 * self.link.heartbeat_ns) / SECOND)
        async with self._turn:
            record = self._records.get(name)
            if record is not None and model_id in {record.ids[it] for it in record.in_service}:
                return  # it is back
            self._withdraw(model_id)

    def _withdraw(self, model_id: ModelId) -> None:
        if self._served.pop(model_id, None) is not None:
            self._ready.discard(model_id)
            self.withdraw(model_id)
