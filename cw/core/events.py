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
    | TimerFired
)
