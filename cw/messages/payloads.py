"""What gateways bring to executors and take from them: the only messages with tensors."""

import attrs

from cw.messages.actions import Outcome
from cw.messages.ids import ActionId, Attempt, Epoch, RequestId, Ticket


@attrs.frozen(kw_only=True)
class SlotInputs:
    """One request's inputs, in the order of the model's inputs."""

    position: int
    request_id: RequestId
    attempt: Attempt
    arrival_ns: int
    tensors: tuple[bytes | memoryview, ...]


@attrs.frozen(kw_only=True)
class BatchInputs:
    """One gateway's share of one action: one call per (gateway, action)."""

    epoch: Epoch
    action_id: ActionId
    ticket: Ticket
    slots: tuple[SlotInputs, ...]


@attrs.frozen(kw_only=True)
class SlotOutputs:
    """One request's outputs, in the order of the model's outputs; None with the reason why."""

    position: int
    outputs: tuple[bytes | memoryview, ...] | None
    lane_busy_ns: int = 0


@attrs.frozen(kw_only=True)
class BatchOutputs:
    """The answer to `BatchInputs`; slots in the order of the call."""

    outcome: Outcome
    device_ns: int
    batch_size: int
    slots: tuple[SlotOutputs, ...]
    detail: str = ""
    executor_ns: int = 0
    """From the receipt of this call to the handing over of its answer."""
    waited_ns: int = 0
    """The first part of that, until the batch started on the device."""
