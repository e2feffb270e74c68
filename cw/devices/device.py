"""The device protocol: the little that an executor needs of whatever runs models.

One contract suite (`tests/actor/test_device_contract.py`) runs over every implementation. A device
obeys: it takes no decision, and no more than one call waits behind the one that runs on a lane. The
lane's actor (`actors/lane.py`), which drives it, guarantees that; and that a model is prepared
before it is loaded and resident before it runs, and that its pages are not taken while it does.

A call with a *window* begins by the device's own clockwork, not by the event loop's: as soon as its
lane is free, never before `earliest`, never after `latest` (design/0013).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import attrs

from cw.messages import DeviceDescription, ModelId, ModelSpec, Window

Tensors = tuple[bytes | memoryview, ...]
"""One sample's tensors in the model's own order, C-contiguous, little-endian."""


@attrs.frozen(kw_only=True)
class DeviceReport:
    """One device call, measured on this process's own monotonic clock (`actors/clock.py`)."""

    start_ns: int
    end_ns: int
    device_ns: int
    """Duration of the work alone, without queueing or notification."""
    running_ns: int
    """Of `device_ns`, the time in which the device's thread was on a processor; equal to it where
    that can't be told. The rest was taken by the machine."""


@attrs.frozen(kw_only=True)
class InferReport(DeviceReport):
    """An INFER, measured, with what it gave."""

    outputs: tuple[Tensors, ...]
    """Per request, in the order of the inputs; padding is cut off."""


class Device(Protocol):
    """A GPU, or what stands in for one. All methods run on the event loop's thread."""

    def describe(self) -> DeviceDescription:
        """Say what the device is; constant for its life."""
        ...

    async def prepare(
        self, model: ModelSpec, program: Path, weights: Path, *, is_allowed: bool = False
    ) -> DeviceReport:
        """Load the program, reserve addresses for the weights, open the host image.

        Args:
            model: What to prepare; preparing it twice is a no-op.
            program: The program's file.
            weights: The weights' file, a page-aligned image (`models/image.py`).
            is_allowed: The program's hash is on the allow-list, so torch may load it; if not, it is
                rebuilt from its graph's data.

        Raises:
            ArchiveInvalid: Program and weights do not fit each other or the model's spec.
        """
        ...

    async def load(
        self, model_id: ModelId, pages: Sequence[int], *, window: Window | None = None
    ) -> DeviceReport:
        """Copy the weights into these pages (numbers in 0..pages_total-1, chosen by the caller).

        Args:
            model_id: A prepared model, not resident.
            pages: Free ones; as many as the model's spec says.
            window: Bounds on the start, on this process's clock; None: at once.

        Raises:
            StartMissed: The lane was free only after `latest`; the pages are free still.
            DeviceFault: The device broke; the executor has to restart.
        """
        ...

    async def unload(self, model_id: ModelId) -> None:
        """Take the pages away from the model; they may be given to another at once.

        No lane is needed for it: what there is to do is done by the LOAD that takes the pages.
        """
        ...

    async def infer(
        self,
        model_id: ModelId,
        batch_size: int,
        inputs: Sequence[Tensors],
        *,
        window: Window | None = None,
    ) -> InferReport:
        """Run a batch of `batch_size`, of which `len(inputs)` are real and the rest is padding.

        With no inputs at all it runs on random ones: a probe, made to be measured.

        Args:
            model_id: A resident model.
            batch_size: One of its batch sizes.
            inputs: Per request, the bytes of each input.
            window: Bounds on the start, on this process's clock; None: at once.

        Raises:
            StartMissed: The lane was free only after `latest`; nothing ran.
            DeviceFault: The device broke; the executor has to restart.
        """
        ...

    async def forget(self, model_id: ModelId) -> None:
        """Drop all that `prepare` made. The model is not resident."""
        ...

    async def aclose(self) -> None:
        """Stop the device's threads and free its memory. Calls in progress are awaited."""
        ...
