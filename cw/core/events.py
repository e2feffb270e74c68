"""What may happen to the scheduler: the only things that change its mind.

Instants are cluster time. The controller's actor makes these of what arrives over its ports; the
simulator makes the same of its seeded world.
"""

import attrs

from cw.messages import (
    ActionResult,
    AttemptFailed,
    Cancel,
    Descriptor,
    DeviceDescription,
    ExecutorId,
    GatewayId,
    ModelId,
    ModelSpec,
    Settled,
    TenantId,
)


@attrs.frozen(kw_only=True)
class ModelAdded:
    """A model is in the catalog from now on: prepare it, profile it, make it ready."""

    spec: ModelSpec


@attrs.frozen(kw_only=True)
class ModelRemoved:
    """A model left the catalog: finish what was promised of it, take nothing new, free it."""

    model_id: ModelId


@attrs.frozen(kw_only=True)
class ExecutorJoined:
    """An executor serves from now on. Ids are never reused, so a joined id is a new one."""

    executor_id: ExecutorId
    name: str
    device: DeviceDescription
    prepared: tuple[ModelId, ...] = ()
    resident: tuple[ModelId, ...] = ()


@attrs.frozen(kw_only=True)
class ExecutorLost:
    """An executor is gone, whatever it was doing."""

    executor_id: ExecutorId


@attrs.frozen(kw_only=True)
class GatewayLost:
    """A gateway is gone: nobody waits for the answers to its requests any more."""

    gateway_id: GatewayId


@attrs.frozen(kw_only=True)
class RequestArrived:
    """A gateway took in a request (or resubmits one to a new epoch)."""

    descriptor: Descriptor


@attrs.frozen(kw_only=True)
class ActionDone:
    """An executor finished, or refused, an action."""

    executor_id: ExecutorId
    result: ActionResult


@attrs.frozen(kw_only=True)
class TimerFired:
    """The instant that `wake_at_ns` asked for has come. Harmless when it has not."""


@attrs.frozen(kw_only=True)
class TenantWeighed:
    """A tenant's part of the devices' time, against the others', is this from now on."""

    tenant_id: TenantId
    weight: float


@attrs.frozen(kw_only=True)
class ModelPinned:
    """Whatever model has this name is to stay resident, or need not any more."""

    name: str
    pinned: bool


Event = (
    ModelAdded
    | ModelRemoved
    | ExecutorJoined
    | ExecutorLost
    | GatewayLost
    | RequestArrived
    | Settled
    | AttemptFailed
    | Cancel
    | ActionDone
    | TenantWeighed
    | ModelPinned
    | TimerFired
)
