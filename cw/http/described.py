"""What the door says of a model: metadata, Triton's configuration, statistics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from cw.messages import Answer, Datatype, ModelSpec, TensorSpec

_ROUNDING: Final = 1e-6
"""Thirds do not add up to one exactly."""


def metadata(spec: ModelSpec, versions: Sequence[ModelSpec]) -> Mapping[str, Any]:
    """Describe a model as the protocol does; shapes are of one sample.

    Args:
        spec: The version that was asked for, or the current one.
        versions: All that are in service.
    """
    return {
        "name": spec.name,
        "versions": [str(each.version) for each in versions],
        "platform": "cw",
        "inputs": [_tensor(tensor) for tensor in spec.inputs],
        "outputs": [_tensor(tensor) for tensor in spec.outputs],
    }


def configuration(spec: ModelSpec) -> Mapping[str, Any]:
    """Describe a model as Triton's clients want it. Batches are cw's business: the size is 0."""
    return {
        "name": spec.name,
        "platform": "cw",
        "backend": "cw",
        "max_batch_size": 0,
        "input": [_configured(tensor) for tensor in spec.inputs],
        "output": [_configured(tensor) for tensor in spec.outputs],
    }


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype.value, "shape": list(tensor.shape)}


def _configured(tensor: TensorSpec) -> dict[str, Any]:
    datatype = "TYPE_BOOL" if tensor.datatype is Datatype.BOOL else f"TYPE_{tensor.datatype.value}"
    return {"name": tensor.name, "data_type": datatype, "dims": list(tensor.shape)}


@attrs.define
class Count:
    """How many, and how long they took together."""

    count: int = 0
    ns: int = 0

    def add(self, duration_ns: int) -> None:
        """Count one more."""
        self.count += 1
        self.ns += duration_ns

    def shown(self) -> dict[str, int]:
        """Show both as the protocol does."""
        return {"count": self.count, "ns": self.ns}


@attrs.define
class Statistics:
    """What this gateway's HTTP door answered for one model since it was started."""

    last_ms: int = 0
    batches: float = 0.0
    """Each request is the part of a batch that it was."""
    success: Count = attrs.field(factory=Count)
    fail: Count = attrs.field(factory=Count)
    queue: Count = attrs.field(factory=Count)
    compute: Count = attrs.field(factory=Count)

    def add(self, answer: Answer, *, wall_ms: int) -> None:
        """Count an answer.

        Args:
            answer: Refusals count as failures: the protocol knows no third thing.
            wall_ms: Milliseconds since 1970.
        """
        timing = answer.timing
        self.last_ms = wall_ms
        if answer.outputs is None:
            self.fail.add(timing.total_ns)
            return
        self.success.add(timing.total_ns)
        self.batches += 1 / max(1, timing.batch_size)
        self.queue.add(max(0, timing.total_ns - timing.device_ns))
        self.compute.add(timing.device_ns)

    def shown(self, name: str, version: int) -> dict[str, Any]:
        """Show them as the protocol's statistics extension does."""
        nothing = Count().shown()
        return {
            "name": name,
            "version": str(version),
            "last_inference": self.last_ms,
            "inference_count": self.success.count,
            "execution_count": math.ceil(self.batches - _ROUNDING),
            "inference_stats": {
                "success": self.success.shown(),
                "fail": self.fail.shown(),
                "queue": self.queue.shown(),
                "compute_input": nothing,
                "compute_infer": self.compute.shown(),
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [],
        }
