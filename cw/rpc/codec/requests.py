"""A client's request and its answer on the wire.

Tensors' bytes are copied once when written and once when read. What is read is `bytes` of its own:
nothing keeps the message alive.
"""

from typing import Any

from cw.messages import (
    Answer,
    Failure,
    FailureKind,
    InferCall,
    Refusal,
    RefusalReason,
    Tensor,
    Timing,
)
from cw.rpc import schema
from cw.rpc.codec.binding import EnumTable, fields_of, unexpected, which

REFUSAL_REASONS = EnumTable(RefusalReason, schema.common.RefusalReason)
FAILURE_KINDS = EnumTable(FailureKind, schema.common.FailureKind)

TENSOR = fields_of(schema.serving.Tensor)
CALL = fields_of(schema.serving.InferCall)
TIMING = fields_of(schema.serving.Timing)
ANSWER = fields_of(schema.serving.Answer)
REFUSAL = fields_of(schema.common.Refusal)


def refusal_to_wire(refusal: Refusal, wire: Any) -> None:
    """Write a `Refusal`."""
    put = wire._set_by_field
    put(REFUSAL.reason, REFUSAL_REASONS.number[refusal.reason])
    if refusal.earliest_finish_ns is not None:
        put(REFUSAL.is_earliest_known, True)
        put(REFUSAL.earliest_finish_ns, refusal.earliest_finish_ns)
    if refusal.message:
        put(REFUSAL.message, refusal.message)


def refusal_from_wire(wire: Any) -> Refusal:
    """Read a `Refusal`."""
    get = wire._get_by_field
    return Refusal(
        reason=REFUSAL_REASONS.member(get(REFUSAL.reason)),
        earliest_finish_ns=(
            get(REFUSAL.earliest_finish_ns) if get(REFUSAL.is_earliest_known) else None
        ),
        message=get(REFUSAL.message),
    )


def failure_to_wire(failure: Failure, wire: Any) -> None:
    """Write a `Failure`."""
    wire.kind = FAILURE_KINDS.number[failure.kind]
    wire.message = failure.message


def failure_from_wire(wire: Any) -> Failure:
    """Read a `Failure`."""
    return Failure(kind=FAILURE_KINDS.member(wire.kind), message=wire.message)


def infer_call_to_wire(call: InferCall, wire: Any) -> None:
    """Write an `InferCall`."""
    put = wire._set_by_field
    put(CALL.model, call.model)
    if call.slo_ns is None:
        put(CALL.is_best_effort, True)
    else:
        put(CALL.slo_ns, call.slo_ns)
    if call.version:
        put(CALL.version, call.version)
    inputs = wire._init_by_field(CALL.inputs, len(call.inputs))
    for at, tensor in enumerate(call.inputs):
        put = inputs[at]._set_by_field
        put(TENSOR.name, tensor.name)
        put(TENSOR.datatype, tensor.datatype)
        put(TENSOR.shape, list(tensor.shape))
        put(TENSOR.data, tensor.data)


def infer_call_from_wire(wire: Any) -> InferCall:
    """Read an `InferCall`."""
    get = wire._get_by_field
    return InferCall(
        model=get(CALL.model),
        inputs=tuple([_tensor_from_wire(it) for it in get(CALL.inputs)]),
        slo_ns=None if get(CALL.is_best_effort) else get(CALL.slo_ns),
        version=get(CALL.version),
    )


def _tensor_from_wire(wire: Any) -> Tensor:
    get = wire._get_by_field
    return Tensor(
        name=get(TENSOR.name),
        datatype=get(TENSOR.datatype),
        shape=tuple(get(TENSOR.shape)),
        data=get(TENSOR.data),
    )


def timing_to_wire(timing: Timing, wire: Any) -> None:
    """Write a `Timing`."""
    put = wire._set_by_field
    put(TIMING.total_ns, timing.total_ns)
    put(TIMING.predicted_ns, timing.predicted_ns)
    put(TIMING.device_ns, timing.device_ns)
    put(TIMING.lane_busy_ns, timing.lane_busy_ns)
    put(TIMING.batch_size, timing.batch_size)
    put(TIMING.assigned_ns, timing.assigned_ns)
    put(TIMING.executor_ns, timing.executor_ns)
    put(TIMING.waited_ns, timing.waited_ns)


def timing_from_wire(wire: Any) -> Timing:
    """Read a `Timing`."""
    get = wire._get_by_field
    return Timing(
        total_ns=get(TIMING.total_ns),
        predicted_ns=get(TIMING.predicted_ns),
        device_ns=get(TIMING.device_ns),
        lane_busy_ns=get(TIMING.lane_busy_ns),
        batch_size=get(TIMING.batch_size),
        assigned_ns=get(TIMING.assigned_ns),
        executor_ns=get(TIMING.executor_ns),
        waited_ns=get(TIMING.waited_ns),
    )


def answer_to_wire(answer: Answer, wire: Any) -> None:
    """Write an `Answer`."""
    timing_to_wire(answer.timing, wire._init_by_field(ANSWER.timing))
    wire._set_by_field(ANSWER.promised, answer.promised)
    wire._set_by_field(ANSWER.version, answer.version)
    if answer.outputs is not None:
        wire._set_by_field(ANSWER.outputs, list(answer.outputs))
    elif answer.refusal is not None:
        refusal_to_wire(answer.refusal, wire._init_by_field(ANSWER.refusal))
    else:
        assert answer.failure is not None, f"an answer that says nothing: {answer}"
        failure_to_wire(answer.failure, wire._init_by_field(ANSWER.failure))


def answer_from_wire(wire: Any) -> Answer:
    """Read an `Answer`."""
    get = wire._get_by_field
    timing, promised = timing_from_wire(get(ANSWER.timing)), get(ANSWER.promised)
    version = get(ANSWER.version)
    match which(wire, "Answer"):
        case "outputs":
            outputs = tuple(get(ANSWER.outputs))
            return Answer(timing=timing, promised=promised, outputs=outputs, version=version)
        case "refusal":
            refusal = refusal_from_wire(get(ANSWER.refusal))
            return Answer(timing=timing, promised=promised, refusal=refusal, version=version)
        case "failure":
            failure = failure_from_wire(get(ANSWER.failure))
            return Answer(timing=timing, promised=promised, failure=failure, version=version)
        case other:
            raise unexpected("Answer", other)
