"""Models on the wire: specifications, profiles, status."""

from typing import Any

from cw.messages import (
    Datatype,
    ModelId,
    ModelSpec,
    ModelState,
    ModelStatus,
    ProfileEntry,
    TensorSpec,
)
from cw.rpc import schema
from cw.rpc.codec.binding import EnumTable, list_to_wire

DATATYPES = EnumTable(Datatype, schema.common.Datatype)
MODEL_STATES = EnumTable(ModelState, schema.common.ModelState)


def tensor_spec_to_wire(spec: TensorSpec, wire: Any) -> None:
    """Write a `TensorSpec`."""
    wire.name = spec.name
    wire.datatype = DATATYPES.number[spec.datatype]
    wire.shape = list(spec.shape)


def tensor_spec_from_wire(wire: Any) -> TensorSpec:
    """Read a `TensorSpec`."""
    return TensorSpec(
        name=wire.name, datatype=DATATYPES.member(wire.datatype), shape=tuple(wire.shape)
    )


def model_spec_to_wire(spec: ModelSpec, wire: Any) -> None:
    """Write a `ModelSpec`."""
    wire.modelId = spec.model_id
    wire.name = spec.name
    wire.programSha256 = spec.program_sha256
    wire.weightsSha256 = spec.weights_sha256
    wire.imageBytes = spec.image_bytes
    list_to_wire(tensor_spec_to_wire, spec.inputs, wire.init("inputs", len(spec.inputs)))
    list_to_wire(tensor_spec_to_wire, spec.outputs, wire.init("outputs", len(spec.outputs)))
    wire.batchSizes = list(spec.batch_sizes)
    wire.version = spec.version


def model_spec_from_wire(wire: Any) -> ModelSpec:
    """Read a `ModelSpec`."""
    return ModelSpec(
        model_id=ModelId(wire.modelId),
        name=wire.name,
        program_sha256=wire.programSha256,
        weights_sha256=wire.weightsSha256,
        image_bytes=wire.imageBytes,
        inputs=tuple(tensor_spec_from_wire(it) for it in wire.inputs),
        outputs=tuple(tensor_spec_from_wire(it) for it in wire.outputs),
        batch_sizes=tuple(wire.batchSizes),
        version=wire.version,
    )


def profile_entry_to_wire(entry: ProfileEntry, wire: Any) -> None:
    """Write a `ProfileEntry`."""
    wire.batchSize = entry.batch_size
    wire.samples = entry.samples
    wire.p50Ns = entry.p50_ns
    wire.p99Ns = entry.p99_ns
    wire.maxNs = entry.max_ns
    wire.estimateNs = entry.estimate_ns


def profile_entry_from_wire(wire: Any) -> ProfileEntry:
    """Read a `ProfileEntry`."""
    return ProfileEntry(
        batch_size=wire.batchSize,
        samples=wire.samples,
        p50_ns=wire.p50Ns,
        p99_ns=wire.p99Ns,
        max_ns=wire.maxNs,
        estimate_ns=wire.estimateNs,
    )


def model_status_to_wire(status: ModelStatus, wire: Any) -> None:
    """Write a `ModelStatus`."""
    model_spec_to_wire(status.spec, wire.init("spec"))
    wire.state = MODEL_STATES.number[status.state]
    wire.stepsDone = status.steps_done
    wire.stepsTotal = status.steps_total
    list_to_wire(profile_entry_to_wire, status.profile, wire.init("profile", len(status.profile)))
    wire.loadNs = status.load_ns
    wire.detail = status.detail


def model_status_from_wire(wire: Any) -> ModelStatus:
    """Read a `ModelStatus`."""
    return ModelStatus(
        spec=model_spec_from_wire(wire.spec),
        state=MODEL_STATES.member(wire.state),
        steps_done=wire.stepsDone,
        steps_total=wire.stepsTotal,
        profile=tuple(profile_entry_from_wire(it) for it in wire.profile),
        load_ns=wire.loadNs,
        detail=wire.detail,
    )
