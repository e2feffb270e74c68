"""The controller, as each kind of peer sees it once it has joined."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from cw.actors.clock import now_ns
from cw.actors.delegate import ExecutorDelegate, GatewayDelegate
from cw.core.events import ActionDone, RequestArrived
from cw.errors import PeerDisconnected, RequestInvalid
from cw.messages import (
    ActionResult,
    CatalogAnswer,
    CatalogOrder,
    CatalogVerb,
    ClusterStatus,
    Descriptor,
    ExecutorId,
    GatewayReport,
    ModelId,
    ModelSpec,
    ModelStatus,
    Pong,
    RouteOrder,
    UsageBatch,
    VersionStatus,
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

    async def meter(self, batch: UsageBatch) -> int:
        """See `GatewaySession.meter`."""
        self._hear()
        return await self.controller.take_usage(batch)

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

    async def add_model(self, spec: ModelSpec, *, hold: bool = False) -> ModelSpec:
        """See `GatewaySession.add_model`."""
        return await self.controller.desk.add(spec, hold=hold)

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `GatewaySession.versions`."""
        return self.controller.desk.statuses(name)

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `GatewaySession.route_model`."""
        return await self.controller.desk.order(order)

    async def remove_model(self, model_id: ModelId) -> None:
        """See `GatewaySession.remove_model`."""
        name = self.controller.desk.name_of(model_id)
        await self.controller.desk.remove(model_id)
        if self.controller.keeper is not None and name is not None:
            await self.controller.keeper.forget(name)

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        if self.controller.keeper is None:
            if order.verb is CatalogVerb.CLAIM_MODEL:
                return CatalogAnswer()  # it is the default tenant's, as everything is
            raise RequestInvalid("this cluster has no catalog: everybody is its default tenant")
        return await self.controller.keeper.order(order)

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
