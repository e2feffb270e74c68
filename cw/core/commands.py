"""What the scheduler may order: carried out by the controller's actor, or by the simulator."""

import attrs

from cw.messages import (
    Action,
    Attempt,
    Decision,
    ExecutorId,
    GatewayId,
    ModelId,
    RequestId,
)


@attrs.frozen(kw_only=True)
class SendAction:
    """Send an action to an executor, at once; actions to one executor keep their order."""

    executor_id: ExecutorId
    action: Action


@attrs.frozen(kw_only=True)
class SendCancel:
    """Tell an executor that nobody waits for this slot any more."""

    executor_id: ExecutorId
    request_id: RequestId
    attempt: Attempt


@attrs.frozen(kw_only=True)
class Decide:
    """Tell a gateway what became of one or more of its requests."""

    gateway_id: GatewayId
    decision: Decision


@attrs.frozen(kw_only=True)
class DropExecutor:
    """Cut an executor off: it broke the protocol or its device. It may join again as a new one."""

    executor_id: ExecutorId
    reason: str


@attrs.frozen(kw_only=True)
class AnnounceModel:
    """Tell every gateway that a model is ready to be asked for, or no longer is."""

    model_id: ModelId
    ready: bool


Command = SendAction | SendCancel | Decide | DropExecutor | AnnounceModel
