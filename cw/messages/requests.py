"""A request, and the one answer it gets: outputs, a refusal or a failure."""

import enum
from typing import Final

import attrs

from cw.messages.ids import Attempt, ModelId, RequestId, TenantId

NO_DEADLINE_NS: Final = 1 << 62
"""The deadline of a best-effort request: later than any instant."""


@attrs.frozen(kw_only=True)
class Descriptor:
    """All that the controller learns of a request; the payload stays at the gateway."""

    request_id: RequestId
    model_id: ModelId
    arrival_ns: int
    deadline_ns: int
    """`NO_DEADLINE_NS` of a best-effort request."""
    tenant_id: TenantId = TenantId(0)
    attempt: Attempt = Attempt(1)
    promised: bool = False
    """True when a gateway resubmits to a new epoch what an earlier one had promised."""


class RefusalReason(enum.Enum):
    """Why a request was refused while its caller still has time to go elsewhere."""

    OVERLOAD = "overload"
    """Every GPU that could run it is full of promises until past its deadline."""
    DEADLINE_TOO_SHORT = "deadlineTooShort"
    """Not even an idle, warm GPU could make it: ask for more time."""
    COLD = "cold"
    """The weights are not on a GPU and could not be brought there in time."""
    NOT_READY = "notReady"
    """The model is still being registered."""
    NO_EXECUTOR = "noExecutor"
    """No executor is alive that can run the model."""
    OVER_QUOTA = "overQuota"
    """The tenant's own limit, not the cluster's."""
    BUSY = "busy"
    """The gateway's own bounds (open requests, payload bytes) are full."""
    SHUTTING_DOWN = "shuttingDown"
    QUEUE_FULL = "queueFull"
    """Of a best-effort request: too many wait already, of its tenant and model or in all."""


class FailureKind(enum.Enum):
    """Why a request was neither served nor refused."""

    UNKNOWN_MODEL = "unknownModel"
    INVALID_INPUT = "invalidInput"
    INVALID_SLO = "invalidSlo"
    TOO_LARGE = "tooLarge"
    CANCELLED = "cancelled"
    LATE = "late"
    """The deadline passed after a promise: a broken promise."""
    EXECUTOR_LOST = "executorLost"
    """The executor died and no time was left for another try."""
    DEVICE_FAULT = "deviceFault"
    INTERNAL = "internal"


@attrs.frozen(kw_only=True)
class Refusal:
    """A refusal, with what the caller needs to decide where to go next."""

    reason: RefusalReason
    earliest_finish_ns: int | None = None
    """When the answer could have been had, were this request alone in asking; None if unknown.
    Cluster time inside the cluster; in the client's answer, a duration from the call's arrival."""
    message: str = ""


@attrs.frozen(kw_only=True)
class Failure:
    """An error answer. `message` names what was expected, what came and what to do."""

    kind: FailureKind
    message: str = ""


@attrs.frozen(kw_only=True)
class Timing:
    """Where a request's time went; all durations, so that no clock needs naming."""

    total_ns: int
    """From the gateway's receipt of the whole request to the handing over of the answer."""
    predicted_ns: int = 0
    """What the promise said `total_ns` would be at most; 0 when none was made."""
    device_ns: int = 0
    """Time on the device of the batch that carried it."""
    lane_busy_ns: int = 0
    """Time in which its lane ran other actions while it waited."""
    batch_size: int = 0
    """Requests in the batch that carried it."""
    assigned_ns: int = 0
    """From the gateway's receipt to the controller's word on which batch carries it."""
    executor_ns: int = 0
    """In the executor: from the receipt of the inputs to the handing over of the outputs."""
    waited_ns: int = 0
    """The first part of `executor_ns`, until the batch started on the device."""


@attrs.frozen(kw_only=True)
class Answer:
    """The one answer to one request: exactly one of `outputs`, `refusal`, `failure` is set."""

    timing: Timing
    promised: bool
    outputs: tuple[bytes | memoryview, ...] | None = None
    """In the order of the model's outputs, C-contiguous little-endian elements."""
    refusal: Refusal | None = None
    failure: Failure | None = None
    version: int = 0
    """Of the model that it was asked of; 0 when it came to none."""


@attrs.frozen(kw_only=True)
class Tensor:
    """A named array as a client sends it; not yet checked against any model."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes | memoryview


@attrs.frozen(kw_only=True)
class InferCall:
    """One request as it comes from a client."""

    model: str
    inputs: tuple[Tensor, ...]
    slo_ns: int | None
    """From the whole request's receipt at the gateway; the client took off its own share. None:
    best effort, to be run in lane time that no request with an SLO wants."""
    version: int = 0
    """Of the model; 0: as its administrator shares requests out among them."""
