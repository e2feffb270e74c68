"""What gateways and executors tell the controller, and how each introduces itself."""

import enum

import attrs

from cw.messages.ids import (
    Attempt,
    Epoch,
    ExecutorId,
    GatewayId,
    Incarnation,
    ModelId,
    RequestId,
)
from cw.messages.requests import Descriptor


class SettledAs(enum.Enum):
    """How a request ended at its gateway: the only source of kept and broken."""

    KEPT = "kept"
    LATE = "late"
    FAILED = "failed"
    CANCELLED = "cancelled"


@attrs.frozen(kw_only=True)
class Settled:
    """The request was answered, finally. The controller may forget it.

    `attempt` is the gateway's current one. After `Refuse` or `Abandon` none is sent: the
    controller ended those itself.
    """

    request_id: RequestId
    attempt: Attempt
    outcome: SettledAs
    finished_ns: int


@attrs.frozen(kw_only=True)
class AttemptFailed:
    """The attempt gave no output (executor unreachable, inputs late); may another be made?"""

    request_id: RequestId
    attempt: Attempt
    detail: str


@attrs.frozen(kw_only=True)
class Cancel:
    """The caller went away before the answer. No decision on it is wanted any more."""

    request_id: RequestId
    attempt: Attempt


GatewayReport = Descriptor | Settled | AttemptFailed | Cancel


@attrs.frozen(kw_only=True)
class GatewayHello:
    """A gateway introduces itself to a controller."""

    name: str
    previous_id: GatewayId | None = None
    """The id it had in an earlier epoch: its open requests still carry it."""


@attrs.frozen(kw_only=True)
class GatewayWelcome:
    """What the controller answers."""

    epoch: Epoch
    gateway_id: GatewayId


@attrs.frozen(kw_only=True)
class DeviceDescription:
    """What a device is, for planning."""

    kind: str
    """``cpu``, ``emulated`` or ``cuda``."""
    name: str
    """The processor's or card's name: profiles are shared between equal (kind, name)."""
    pages_total: int
    shared_lanes: bool
    """True when LOAD and INFER take turns on one resource, so that one timeline plans both."""
    load_bytes_per_second: int
    """First guess of a LOAD's rate, until one was measured."""


@attrs.frozen(kw_only=True)
class ExecutorHello:
    """An executor introduces itself to a controller."""

    name: str
    incarnation: Incarnation
    data_address: str
    device: DeviceDescription
    prepared: tuple[ModelId, ...] = ()
    """Models it can run already (the controller is new, the executor is not)."""
    resident: tuple[ModelId, ...] = ()
    """Of those, the ones whose weights are in pages now."""


@attrs.frozen(kw_only=True)
class ExecutorWelcome:
    """What the controller answers."""

    epoch: Epoch
    executor_id: ExecutorId


@attrs.frozen(kw_only=True)
class Pong:
    """Answer to a ping, for `core/clock_sync.py`: the answering side's clock."""

    received_ns: int
    replied_ns: int
