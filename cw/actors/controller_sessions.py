"""The controller, as each kind of peer sees it once it has joined."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from cw.actors.clock import now_ns
from cw.actors.delegate import ExecutorDelegate, GatewayDelegate
from cw.core.events import ActionDone, RequestArrived
from cw.errors import PeerDisconnected
from cw.messages import (
    ActionResult,
    ClusterStatus,
    Descriptor,
    ExecutorId,
    GatewayReport,
    ModelId,
    ModelSpec,
    ModelStatus,
    Pong,
)

if TYPE_CHECKING:
    from cw.actors.controller import ControllerActor


@attrs.define(eq=False)
class Session:
    """What both kinds of peer may do: ping, and hang up."""

    controller: "ControllerActor"
    delegate: GatewayDelegate | ExecutorDelegate

    def _hear(self) -> None:
        """Note a sign of life.

        Raises:
            PeerDisconnected: The peer counts as lost, so nothing of it is taken any more.
        """
        if self.delegate.is_lost:
            raise PeerDisconnected("the controller has given this peer up: join anew")
        self.delegate.pulse.heard_ns = now_ns()

    async def ping(self, sent_ns: int) -> Pong:
        """See `GatewaySession.ping`."""
        received_ns = now_ns()
        self._hear()
        return Pong(received_ns=received_ns, replied_ns=now_ns())

    async def wait_closed(self) -> None:
        """Return once the peer is gone."""
        await self.delegate.port.wait_closed()

    def close(self) -> None:
        """Hang up on the peer."""
        self.delegate.port.close()


@attrs.define(eq=False)
class ControllerForGateway(Session):
    """The controller, as one gateway sees it; implements `GatewaySession`."""

    def tell(self, reports: Sequence[GatewayReport]) -> None:
        """See `GatewaySession.tell`."""
        self._hear()
        self.controller.put(
            *(
                RequestArrived(descriptor=report) if isinstance(report, Descriptor) else report
                for report in reports
            )
        )

    async def add_model(self, spec: ModelSpec) -> None:
        """See `GatewaySession.add_model`."""
        await self.controller.add_model(spec)

    async def remove_model(self, model_id: ModelId) -> None:
        """See `GatewaySession.remove_model`."""
        await self.controller.remove_model(model_id)

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """See `GatewaySession.model_status`."""
        return await self.controller.model_status(model_id)

    async def status(self) -> ClusterStatus:
        """See `GatewaySession.status`."""
        return await self.controller.status()


@attrs.define(eq=False)
class ControllerForExecutor(Session):
    """The controller, as one executor sees it; implements `ExecutorSession`."""

    executor_id: ExecutorId

    def tell(self, results: Sequence[ActionResult]) -> None:
        """See `ExecutorSession.tell`."""
        self._hear()
        self.controller.put(
            *(ActionDone(executor_id=self.executor_id, result=result) for result in results)
        )
