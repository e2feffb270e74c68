"""A lane of a simulated executor, and the actions in it.

What may start when is decided by the code of a real executor (`core/lane.py`); here lies what that
decision is made of. Neighbours: `executor.py`, which runs lanes.
"""

import random
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import attrs

from cw.core.lane import Inputs, LanePlan
from cw.messages import (
    Action,
    Attempt,
    Infer,
    ModelId,
    Prepare,
    RequestId,
    Window,
)

if TYPE_CHECKING:
    from cw.sim.gateway import SimGateway


class Brought(NamedTuple):
    """One slot's inputs, and whose they are."""

    gateway: "SimGateway"
    request_id: RequestId
    attempt: Attempt


@attrs.define(eq=False)
class Pending:
    """An action between its coming and its end. Instants are on the executor's clock."""

    action: Action
    model_id: ModelId
    received_ns: int
    window: Window | None
    ready_ns: int
    to_cluster_ns: int
    """What its window was converted with: the clock may be understood better by its start."""
    cancelled: set[int] = attrs.field(factory=set)
    """Positions that nobody waits for."""
    inputs: dict[int, Brought] = attrs.field(factory=dict)
    """By position."""

    def presence(self) -> Inputs:
        """Say how many of its inputs are there."""
        action = self.action
        if not isinstance(action, Infer) or not action.slots:
            return Inputs.ALL
        wanted = len(action.slots) - len(self.cancelled)
        if not wanted:
            return Inputs.CANCELLED
        if not self.inputs:
            return Inputs.NONE
        return Inputs.ALL if len(self.inputs) == wanted else Inputs.SOME


def model_of(action: Action) -> ModelId:
    """Say which model an action is for."""
    return action.model.model_id if isinstance(action, Prepare) else action.model_id


@attrs.define(eq=False)
class SimLane:
    """One serial resource and its actions, in the order of their coming."""

    name: str
    random: random.Random
    # It is the device as well, and needs nothing ahead of its time.
    plan: LanePlan = attrs.field(factory=lambda: LanePlan(hand_over_ns=0))
    queue: deque[Pending] = attrs.field(factory=deque)
    running: Pending | None = None
    wakes_ns: int | None = None
    """When it looks at its head again, in virtual time; None: when something happens."""
