"""Intake: is this call a request that the model can serve at all?

Pure, and the gateway's first step: what fails here costs nobody else anything, and the answer names
what was expected, what came and what to do. Knows nothing of load: that is `core/admission.py`.
"""

from collections.abc import Sequence

from cw.messages import Datatype, Failure, FailureKind, InferCall, ModelSpec, Tensor, TensorSpec
from cw.units import format_ms

_KNOWN_DATATYPES = frozenset(datatype.value for datatype in Datatype)


def check_slo(slo_ns: int, *, min_ns: int, max_ns: int) -> Failure | None:
    """Say why an SLO makes no sense, or None if it does."""
    if min_ns <= slo_ns <= max_ns:
        return None
    return Failure(
        kind=FailureKind.INVALID_SLO,
        message=(
            f"expected an SLO between {format_ms(min_ns)} and {format_ms(max_ns)}, "
            f"got {format_ms(slo_ns)} ({slo_ns} ns)"
        ),
    )


def unknown_model(name: str, known: Sequence[str]) -> Failure:
    """Describe a model that is not there, with some that are."""
    shown = ", ".join(sorted(known)[:5]) or "none yet"
    more = f" and {len(known) - 5} more" if len(known) > 5 else ""
    return Failure(
        kind=FailureKind.UNKNOWN_MODEL,
        message=(
            f"no model is named {name[:128]!r}; registered: {shown}{more}. "
            "List them with 'cw model list', add one with 'cw model add'"
        ),
    )


def unknown_version(call: InferCall, known: Sequence[ModelSpec]) -> Failure:
    """Describe a version that is not in service, with those that are."""
    numbers = ", ".join(str(spec.version) for spec in known)
    return Failure(
        kind=FailureKind.UNKNOWN_MODEL,
        message=(
            f"version {call.version} of {call.model!r} is not in service; those are: {numbers}. "
            f"Leave the version out, or see 'cw model versions {call.model}'"
        ),
    )


def match_inputs(spec: ModelSpec, call: InferCall) -> tuple[bytes | memoryview, ...] | Failure:
    """Put a call's tensors into the model's order, each checked by name, datatype, shape and size.

    Returns:
        One buffer per input of the model, or the reason why there is none.
    """
    by_name = {tensor.name: tensor for tensor in call.inputs}
    if len(by_name) != len(call.inputs) or len(by_name) != len(spec.inputs):
        return _names_differ(spec, call)
    buffers = []
    for expected in spec.inputs:
        tensor = by_name.get(expected.name)
        if tensor is None:
            return _names_differ(spec, call)
        problem = _mismatch(expected, tensor)
        if problem is not None:
            return Failure(
                kind=FailureKind.INVALID_INPUT,
                message=f"model {spec.name!r}, input {expected.name!r}: {problem}",
            )
        buffers.append(tensor.data)
    return tuple(buffers)


def _names_differ(spec: ModelSpec, call: InferCall) -> Failure:
    expected = ", ".join(tensor.name for tensor in spec.inputs)
    came = ", ".join(tensor.name[:64] for tensor in call.inputs[:16]) or "none"
    return Failure(
        kind=FailureKind.INVALID_INPUT,
        message=f"model {spec.name!r}: expected the inputs {expected}; got {came}",
    )


def _mismatch(expected: TensorSpec, tensor: Tensor) -> str | None:
    datatype = expected.datatype.value
    if tensor.datatype != datatype:
        hint = "" if tensor.datatype in _KNOWN_DATATYPES else " (not a datatype cw knows)"
        return f"expected datatype {datatype}, got {tensor.datatype[:32]!r}{hint}"
    if tensor.shape != expected.shape:
        return (
            f"expected shape {list(expected.shape)} (one sample, without a batch dimension), "
            f"got {list(tensor.shape[:16])}"
        )
    if len(tensor.data) != expected.size_bytes:
        return (
            f"expected {expected.size_bytes} bytes for {datatype} {list(expected.shape)}, "
            f"got {len(tensor.data)}"
        )
    return None
