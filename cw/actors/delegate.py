"""Delegates: the controller's stand-ins for its peers.

Each gathers what one round of decisions has to say to its peer and tells it as one message. A peer
that can't take it is cut off: waiting for it would stop everybody, and forgetting a message would
leave the two with different books.
"""

import logging

import attrs

from cw.errors import OutboxFull, PeerDisconnected
from cw.messages import (
    Action,
    CancelSlot,
    Decision,
    DirectoryChange,
    Epoch,
    ExecutorAddress,
    ExecutorId,
    ModelId,
    ModelSpec,
    Notices,
    Orders,
    Route,
)
from cw.rpc.ports import ExecutorPort, GatewayPort

logger = logging.getLogger(__name__)


@attrs.define(eq=False)
class Pulse:
    """When anything was last heard on a connection; of all executors of one process at once."""

    heard_ns: int


@attrs.define(eq=False, kw_only=True)
class GatewayDelegate:
    """The controller's side of one gateway."""

    name: str
    port: GatewayPort
    pulse: Pulse
    """When it last gave a sign of life, on the controller's clock."""
    is_lost: bool = False
    """The controller has given it up."""
    directory: list[DirectoryChange] = attrs.field(factory=list)
    models_added: list[ModelSpec] = attrs.field(factory=list)
    models_removed: list[ModelId] = attrs.field(factory=list)
    routes: list[Route] = attrs.field(factory=list)
    executors_joined: list[ExecutorAddress] = attrs.field(factory=list)
    executors_lost: list[ExecutorId] = attrs.field(factory=list)
    decisions: list[Decision] = attrs.field(factory=list)

    def add_model(self, spec: ModelSpec) -> None:
        """Have the gateway serve a model."""
        if spec.model_id in self.models_removed:
            # Removed and added again within one round: a gateway adds first, then removes.
            self.models_removed.remove(spec.model_id)
        else:
            self.models_added.append(spec)

    def flush(self) -> None:
        """Tell what has gathered, if anything."""
        if not (
            self.decisions
            or self.directory
            or self.models_added
            or self.models_removed
            or self.routes
            or self.executors_joined
            or self.executors_lost
        ):
            return
        notices = Notices(
            directory=tuple(self.directory),
            models_added=tuple(self.models_added),
            routes=tuple(self.routes),
            models_removed=tuple(self.models_removed),
            executors_joined=tuple(self.executors_joined),
            executors_lost=tuple(self.executors_lost),
            decisions=tuple(self.decisions),
        )
        for gathered in (
            self.decisions,
            self.directory,
            self.models_added,
            self.models_removed,
            self.routes,
            self.executors_joined,
            self.executors_lost,
        ):
            gathered.clear()
        try:
            self.port.tell(notices)
        except PeerDisconnected:
            pass  # its loss is on its way as an event of its own
        except OutboxFull:
            logger.warning("cut off gateway=%s reason='its outbox is full'", self.name)
            self.port.close()


@attrs.define(eq=False, kw_only=True)
class ExecutorDelegate:
    """The controller's side of one executor."""

    name: str
    port: ExecutorPort
    pulse: Pulse
    address: str
    epoch: Epoch
    is_lost: bool = False
    actions: list[Action] = attrs.field(factory=list)
    cancels: list[CancelSlot] = attrs.field(factory=list)

    def flush(self) -> None:
        """Tell what has gathered, if anything."""
        if not (self.actions or self.cancels):
            return
        orders = Orders(epoch=self.epoch, actions=tuple(self.actions), cancels=tuple(self.cancels))
        self.actions.clear()
        self.cancels.clear()
        try:
            self.port.tell(orders)
        except PeerDisconnected:
            pass  # its loss is on its way as an event of its own
        except OutboxFull:
            logger.warning("cut off executor=%s reason='its outbox is full'", self.name)
            self.port.close()
