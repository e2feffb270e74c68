"""``POST /v2/models/M/infer``: what a body asks for, and how its answer is written.

A request is one sample. Its tensors have the model's own shapes; clients that think in batches may
put a 1 before each, and get the answer in that form. The SLO is the request's parameter ``slo_ms``,
or ``timeout`` in microseconds (which Triton's clients send), or the door's default; with the
parameter ``best_effort`` there is none.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import attrs

from cw.config import HttpSettings
from cw.http.exchange import Body, HttpError, HttpRequest, HttpResponse, json_response
from cw.http.tensors import json_data, read_tensor
from cw.messages import (
    Answer,
    FailureKind,
    InferCall,
    ModelSpec,
    Refusal,
    RefusalReason,
    Tensor,
    TensorSpec,
)
from cw.units import MS, SECOND, US, format_bytes

_HEADER_LENGTH: Final = "inference-header-content-length"

STATUS_OF_FAILURE: Final = {
    FailureKind.UNKNOWN_MODEL: 404,
    FailureKind.INVALID_INPUT: 400,
    FailureKind.INVALID_SLO: 400,
    FailureKind.TOO_LARGE: 413,
    FailureKind.CANCELLED: 503,
    FailureKind.LATE: 504,
    FailureKind.EXECUTOR_LOST: 503,
    FailureKind.DEVICE_FAULT: 500,
    FailureKind.INTERNAL: 500,
}
_UNAVAILABLE: Final = frozenset(
    {RefusalReason.NOT_READY, RefusalReason.NO_EXECUTOR, RefusalReason.SHUTTING_DOWN}
)
"""Not the caller's doing: 503. All other refusals are 429: ask less, or allow more time."""


@attrs.frozen(kw_only=True)
class Asked:
    """A request, and the form in which its answer is wanted.

    Attributes:
        outputs: Which, in which order, and whether as binary data.
        is_batched: Tensors have a leading 1.
    """

    call: InferCall
    outputs: tuple[tuple[TensorSpec, int, bool], ...]
    is_batched: bool
    request_id: str | None = None


def read_request(request: HttpRequest, spec: ModelSpec, settings: HttpSettings) -> Asked:
    """Read a request's body.

    Args:
        request: The whole of it.
        spec: Of the model that is asked for.
        settings: The SLO if it names none, and how much of it may be JSON.

    Raises:
        HttpError: It is not as the protocol says.
    """
    head, binary = _parts(request, settings.max_json_bytes)
    tensors, is_batched = [], False
    for described in _objects(head, "inputs"):
        tensor, size = read_tensor(described, binary)
        binary = binary[size:]
        tensor, has_batch = _one_sample(tensor, spec)
        tensors.append(tensor)
        is_batched |= has_batch
    if len(binary):
        raise HttpError(
            400,
            f"expected the inputs' binary_data_size to say whose the last {len(binary)} bytes are",
        )
    parameters = head.get("parameters", {})
    if not isinstance(parameters, dict):
        raise HttpError(400, "expected 'parameters' to be an object")
    request_id = head.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise HttpError(400, "expected 'id' to be a string")
    return Asked(
        call=InferCall(
            model=spec.name,
            inputs=tuple(tensors),
            slo_ns=_slo_ns(parameters, settings.default_slo_ns),
            version=spec.version,
        ),
        outputs=_outputs(head, spec, as_binary=parameters.get("binary_data_output") is True),
        is_batched=is_batched,
        request_id=request_id,
    )


def write_answer(asked: Asked, spec: ModelSpec, answer: Answer) -> HttpResponse:
    """Write what became of a request.

    Raises:
        HttpError: It was refused, or failed.
    """
    if answer.refusal is not None:
        raise refused(answer.refusal)
    if answer.failure is not None:
        kind = answer.failure.kind
        raise HttpError(STATUS_OF_FAILURE[kind], answer.failure.message, reason=kind.value)
    assert answer.outputs is not None
    described: list[dict[str, Any]] = []
    binary: list[Body] = []
    for output, index, as_binary in asked.outputs:
        data = answer.outputs[index]
        shape = [1, *output.shape] if asked.is_batched else list(output.shape)
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype.value,
            "shape": shape,
        }
        if as_binary:
            entry["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            entry["data"] = json_data(output, data)
        described.append(entry)
    timing = answer.timing
    head = {
        "model_name": spec.name,
        "model_version": str(answer.version),
        "outputs": described,
        "parameters": {
            "total_ms": timing.total_ns / MS,
            "predicted_ms": timing.predicted_ns / MS,
            "device_ms": timing.device_ns / MS,
            "batch_size": timing.batch_size,
        },
    }
    if asked.request_id is not None:
        head["id"] = asked.request_id
    if not binary:
        return json_response(head)
    text = json.dumps(head, separators=(",", ":")).encode()
    return HttpResponse(
        headers=(
            ("content-type", "application/octet-stream"),
            (_HEADER_LENGTH, str(len(text))),
        ),
        body=(text, *binary),
    )


def refused(refusal: Refusal) -> HttpError:
    """Say why a request was refused, and when it could have been answered."""
    earliest_ns = refusal.earliest_finish_ns
    return HttpError(
        503 if refusal.reason in _UNAVAILABLE else 429,
        refusal.message or f"refused: {refusal.reason.value}",
        # Whole seconds are all that the header can say; the body has it to the microsecond.
        retry_after_s=max(1, math.ceil((earliest_ns or 0) / SECOND)),
        reason=refusal.reason.value,
        earliest_finish_ms=None if earliest_ns is None else earliest_ns / MS,
    )


def _parts(request: HttpRequest, max_json_bytes: int) -> tuple[dict[str, Any], memoryview]:
    """Part a body into its JSON and what lies behind it."""
    body = memoryview(request.body)
    length = len(body)
    announced = request.headers.get(_HEADER_LENGTH)
    if announced is not None:
        if not announced.isdecimal() or int(announced) > len(body):
            raise HttpError(
                400,
                f"expected {_HEADER_LENGTH} of at most the body's {len(body)} bytes, got "
                f"{announced[:32]!r}",
            )
        length = int(announced)
    if length > max_json_bytes:
        raise HttpError(
            413,
            f"expected at most {format_bytes(max_json_bytes)} of JSON, got {format_bytes(length)}; "
            "send tensors of that size as binary data (binary_data_size)",
        )
    try:
        head = json.loads(bytes(body[:length]))
    except (ValueError, RecursionError) as exc:
        raise HttpError(400, f"expected a body of JSON: {exc}") from exc
    if not isinstance(head, dict):
        raise HttpError(400, f"expected a JSON object, got {type(head).__name__}")
    return head, body[length:]


def _objects(head: Mapping[str, Any], member: str) -> list[dict[str, Any]]:
    values = head.get(member, [])
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise HttpError(400, f"expected {member!r} to be a list of objects")
    return values


def _one_sample(tensor: Tensor, spec: ModelSpec) -> tuple[Tensor, bool]:
    """Take a leading 1 off; what does not fit the model is left for the gateway to refuse.

    Raises:
        HttpError: There are several samples.
    """
    for expected in spec.inputs:
        if expected.name == tensor.name and tensor.shape[1:] == expected.shape:
            if len(tensor.shape) != len(expected.shape) + 1:
                break
            if tensor.shape[0] != 1:
                raise HttpError(
                    400,
                    f"input {tensor.name!r}: expected one sample, got {tensor.shape[0]}; send a "
                    "request for each: cw batches what comes at the same time",
                )
            return attrs.evolve(tensor, shape=expected.shape), True
    return tensor, False


def _outputs(
    head: Mapping[str, Any], spec: ModelSpec, *, as_binary: bool
) -> tuple[tuple[TensorSpec, int, bool], ...]:
    """Say which outputs are wanted; all of them when none is named."""
    wanted = _objects(head, "outputs")
    if not wanted:
        return tuple((output, index, as_binary) for index, output in enumerate(spec.outputs))
    places = {output.name: (output, index) for index, output in enumerate(spec.outputs)}
    chosen = []
    for described in wanted:
        name = described.get("name")
        if not isinstance(name, str) or name not in places:
            raise HttpError(
                400, f"expected outputs among {', '.join(places)}; got {str(name)[:64]!r}"
            )
        parameters = described.get("parameters", {})
        if not isinstance(parameters, dict):
            raise HttpError(400, "expected 'parameters' to be an object")
        chosen.append((*places[name], parameters.get("binary_data", as_binary) is True))
    return tuple(chosen)


def _slo_ns(parameters: Mapping[str, Any], default_ns: int) -> int | None:
    """Read the SLO; None where the request asks for best effort."""
    if parameters.get("best_effort", False) is not False:
        if parameters["best_effort"] is not True:
            raise HttpError(400, "expected 'best_effort' to be true or false")
        if "slo_ms" in parameters or "timeout" in parameters:
            raise HttpError(400, "expected either 'best_effort' or an SLO, got both")
        return None
    for name, unit_ns in (("slo_ms", MS), ("timeout", US)):
        value = parameters.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            raise HttpError(
                400, f"expected {name!r} to be a positive number, got {str(value)[:32]!r}"
            )
        return round(value * unit_ns)
    return default_ns
