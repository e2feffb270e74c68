"""The weights cache: which models an executor has, where their files lie, which pages they hold.

It drives the device's PREPARE, LOAD and UNLOAD and keeps the books of them: a residency table and
a page pool, nothing more. What to load and whom to displace is the controller's choice alone. It
also stands guard: a program that torch loads is code that runs with this process's rights, so the
device is told whether the program's own bytes are on the allow-list; all others it rebuilds.

Neighbours: `lane.py` calls it, one lane at a time for any one model (`core/residency.py` rule 4).
"""

import hashlib
from pathlib import Path
from typing import Final, Protocol

import attrs
import trio

from cw.actors.clock import now_ns
from cw.core.pages import PagePool
from cw.core.residency import Residency, ResidencyTable, Step
from cw.devices.device import Device, DeviceReport
from cw.errors import ArchiveInvalid, CwError
from cw.messages import ModelId, ModelSpec, Window
from cw.models.store import ModelStore


@attrs.frozen(kw_only=True)
class ModelFiles:
    """Where a checked model's files lie."""

    program: Path
    weights: Path
    is_allowed: bool = False
    """An administrator vouches for the program: torch may load it."""


class LocateModel(Protocol):
    """Finds a model's files and checks that they may be used."""

    async def __call__(self, model: ModelSpec) -> ModelFiles:
        """Find them.

        Raises:
            UnknownModel: The store has no such model.
            ArchiveInvalid: The store's files are not what the spec names.
        """
        ...


@attrs.frozen
class StoreLocator:
    """Finds models in the store's folder, in a thread since disks are slow."""

    store: ModelStore

    async def __call__(self, model: ModelSpec) -> ModelFiles:
        """Find a model's files; its program's bytes are hashed, its weights are only data."""
        try:
            return await trio.to_thread.run_sync(self._locate, model)
        except OSError as exc:
            raise ArchiveInvalid(
                f"expected the files of model {model.name!r} in the store: {exc}; add it again"
            ) from exc

    def _locate(self, model: ModelSpec) -> ModelFiles:
        stored = self.store.version(model.name, model.model_id)
        actual = _sha256_of(stored.program_path)
        if actual != model.program_sha256:
            raise ArchiveInvalid(
                f"expected program {model.program_sha256}, its file in the store hashes to "
                f"{actual}: the disk is bad or it was tampered with; add the model again"
            )
        return ModelFiles(
            program=stored.program_path,
            weights=stored.weights_path,
            is_allowed=self.store.is_allowed(model.program_sha256),
        )


class WeightsCache:
    """The models of one executor.

    Args:
        device: Where their weights go.
        locate: Finds and checks their files.
    """

    def __init__(self, device: Device, locate: LocateModel) -> None:
        self.residency: Final = ResidencyTable()
        self._device = device
        self._locate = locate
        self._pages = PagePool(device.describe().pages_total)
        self._specs: dict[ModelId, ModelSpec] = {}

    @property
    def prepared(self) -> tuple[ModelId, ...]:
        """Models that a LOAD could bring in, or has."""
        return self.residency.known(*(set(Residency) - {Residency.UNKNOWN}))

    @property
    def resident(self) -> tuple[ModelId, ...]:
        """Models whose weights are in pages."""
        return self.residency.known(Residency.WARM)

    def state(self, model_id: ModelId) -> Residency:
        """Say where a model is in its life."""
        return self.residency.state(model_id)

    def announce(self, model: ModelSpec) -> None:
        """Remember a model whose PREPARE was ordered: actions behind it may name it by its id."""
        self._specs[model.model_id] = model

    def spec(self, model_id: ModelId) -> ModelSpec | None:
        """Return an announced model's spec."""
        return self._specs.get(model_id)

    def can_fit(self, model_id: ModelId) -> bool:
        """Say whether enough pages are free for a prepared model."""
        return self._pages.can_fit(self._specs[model_id].pages)

    async def prepare(self, model: ModelSpec) -> DeviceReport:
        """Check a model's files and prepare the device for it; at once if that was done before.

        Raises:
            UnknownModel: The store has no such model.
            ArchiveInvalid: Its files are not what the spec names, do not fit each other, or hold a
                program that nobody allowed and that can't be rebuilt.
        """
        self.announce(model)
        if self.state(model.model_id) is not Residency.UNKNOWN:
            now = now_ns()
            return DeviceReport(start_ns=now, end_ns=now, device_ns=0, running_ns=0)
        try:
            files = await self._locate(model)
            report = await self._device.prepare(
                model, files.program, files.weights, is_allowed=files.is_allowed
            )
        except CwError:
            del self._specs[model.model_id]
            raise
        self.residency.step(model.model_id, Step.PREPARED)
        return report

    async def load(self, model_id: ModelId, *, window: Window | None = None) -> DeviceReport:
        """Copy a cold model's weights into free pages; `can_fit` was asked.

        Args:
            model_id: Which model.
            window: Bounds on the copy's start, on this process's clock; None: at once.

        Raises:
            StartMissed: The lane was free only after the window; the model is cold still.
            ProtocolViolation: The model is not cold.
            DeviceFault: The device broke.
        """
        self.residency.step(model_id, Step.LOAD_BEGINS)
        pages = self._pages.claim(model_id, self._specs[model_id].pages)
        try:
            report = await self._device.load(model_id, pages, window=window)
        except CwError:
            self._pages.release(model_id)
            self.residency.step(model_id, Step.LOAD_FAILS)
            raise
        self.residency.step(model_id, Step.LOAD_ENDS)
        return report

    async def unload(self, model_id: ModelId) -> None:
        """Free a warm model's pages.

        Raises:
            ProtocolViolation: The model is not warm.
        """
        self.residency.step(model_id, Step.UNLOAD_BEGINS)
        await self._device.unload(model_id)
        self._pages.release(model_id)
        self.residency.step(model_id, Step.UNLOAD_ENDS)

    async def forget(self, model_id: ModelId) -> None:
        """Drop all that PREPARE made of a cold model.

        Raises:
            ProtocolViolation: The model is not cold.
        """
        self.residency.step(model_id, Step.FORGOTTEN)
        del self._specs[model_id]
        await self._device.forget(model_id)


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
