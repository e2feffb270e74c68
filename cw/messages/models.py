"""A model as every process knows it: shapes, sizes and state, never weights or programs."""

import enum
from typing import Final

import attrs

from cw.messages.ids import ModelId
from cw.units import pages_for


class Datatype(enum.Enum):
    """An element type, by its Open Inference Protocol name."""

    BOOL = "BOOL"
    UINT8 = "UINT8"
    UINT16 = "UINT16"
    UINT32 = "UINT32"
    UINT64 = "UINT64"
    INT8 = "INT8"
    INT16 = "INT16"
    INT32 = "INT32"
    INT64 = "INT64"
    FP16 = "FP16"
    FP32 = "FP32"
    FP64 = "FP64"

    @property
    def size_bytes(self) -> int:
        """Bytes of one element."""
        return _SIZE_BYTES[self]

    @property
    def numpy_name(self) -> str:
        """The numpy dtype of the same elements, e.g. ``float32``."""
        return _NUMPY_NAMES[self]


_SIZE_BYTES: Final = {
    kind: 1 if kind is Datatype.BOOL else int(kind.value.lstrip("UINTFP")) // 8 for kind in Datatype
}
_NUMPY_NAMES: Final = {
    kind: kind.value.lower() if kind.value[0] != "F" else f"float{kind.value[2:]}"
    for kind in Datatype
}


@attrs.frozen(kw_only=True)
class TensorSpec:
    """One input or output of a model; `shape` is of one sample, without the batch dimension."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of one sample."""
        size = self.datatype.size_bytes
        for dimension in self.shape:
            size *= dimension
        return size


@attrs.frozen(kw_only=True)
class ModelSpec:
    """What every process needs to know of a model: never its weights or program themselves."""

    model_id: ModelId
    name: str
    program_sha256: str
    weights_sha256: str
    image_bytes: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_sizes: tuple[int, ...]
    """Ascending; the first is 1. A batch in between is padded up to the next."""
    version: int = 1
    """Which of those that have come under this name, counted from 1."""

    @property
    def pages(self) -> int:
        """Pages of device memory that the weights take while resident."""
        return pages_for(self.image_bytes)


class ModelState(enum.Enum):
    """How far a model's registration has come."""

    REGISTERING = "registering"
    """Programs are being loaded and batch sizes measured; requests are refused `notReady`."""
    READY = "ready"
    FAILED = "failed"
    """No executor could prepare it; the reason is in `ModelStatus.detail`."""


@attrs.frozen(kw_only=True)
class ProfileEntry:
    """What was measured of one batch size on one kind of device."""

    batch_size: int
    samples: int
    p50_ns: int
    p99_ns: int
    max_ns: int
    estimate_ns: int
    """What the scheduler plans with."""


@attrs.frozen(kw_only=True)
class ModelStatus:
    """A model as the controller sees it now."""

    spec: ModelSpec
    state: ModelState
    steps_done: int
    """Registration's progress: measured runs done, of `steps_total`."""
    steps_total: int
    profile: tuple[ProfileEntry, ...] = ()
    load_ns: int = 0
    """Planned duration of one LOAD."""
    detail: str = ""
