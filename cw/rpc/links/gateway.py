"""Between a gateway and its controller, once they have met (`links.controller`)."""

from collections.abc import Awaitable, Sequence
from typing import Any

from cw.messages import (
    CatalogAnswer,
    CatalogOrder,
    ClusterStatus,
    GatewayReport,
    ModelId,
    ModelSpec,
    ModelStatus,
    Notices,
    Pong,
    RouteOrder,
    UsageBatch,
    VersionStatus,
)
from cw.rpc import schema
from cw.rpc.codec.binding import list_to_wire
from cw.rpc.codec.catalog import answer_from_wire as catalog_answer_from_wire
from cw.rpc.codec.catalog import answer_to_wire as catalog_answer_to_wire
from cw.rpc.codec.catalog import order_from_wire, order_to_wire
from cw.rpc.codec.decisions import notices_from_wire, notices_to_wire
from cw.rpc.codec.models import (
    model_spec_from_wire,
    model_spec_to_wire,
    model_status_from_wire,
    model_status_to_wire,
)
from cw.rpc.codec.reports import (
    gateway_report_from_wire,
    gateway_report_to_wire,
    pong_from_wire,
    pong_to_wire,
)
from cw.rpc.codec.status import cluster_status_from_wire, cluster_status_to_wire
from cw.rpc.codec.usage import usage_batch_from_wire, usage_batch_to_wire
from cw.rpc.codec.versions import (
    route_order_from_wire,
    route_order_to_wire,
    versions_from_wire,
    versions_to_wire,
)
from cw.rpc.kj_connection import KjConnection
from cw.rpc.links.base import Stub, asked, nothing, told
from cw.rpc.outbox import Outbox
from cw.rpc.ports import GatewayPort, GatewaySession
from cw.rpc.weights import notices_weight


class GatewayStub(Stub):
    """A gateway, as the controller sees it; satisfies `GatewayPort`."""

    def __init__(self, connection: KjConnection, capability: Any, *, max_messages: int) -> None:
        """Speak to the gateway behind `capability`; at most `max_messages` wait."""
        super().__init__(connection, capability)
        self.outbox = Outbox(
            connection, self._send, max_messages=max_messages, weigh=notices_weight
        )

    def tell(self, notices: Notices) -> None:
        """See `GatewayPort.tell`."""
        self.outbox.tell((notices,))

    def _send(self, many: Sequence[Notices]) -> Awaitable[object]:
        request = self._capability.tell_request()
        list_to_wire(notices_to_wire, many, request.init("notices", len(many)))
        call: Awaitable[object] = request.send()
        return call


class GatewayGate(schema.control.Gateway.Server):  # type: ignore[misc]
    """The door of a gateway to its controller."""

    def __init__(self, gateway: GatewayPort, link: KjConnection) -> None:
        """Let the peer on `link` reach `gateway`."""
        self.gateway = gateway
        self.link = link

    def _tell(self, many: Sequence[Notices]) -> None:
        for notices in many:
            self.gateway.tell(notices)

    tell_context = told(lambda params: [notices_from_wire(it) for it in params.notices], _tell)


class GatewaySessionStub(Stub):
    """A controller, as one of its gateways sees it; satisfies `GatewaySession`."""

    def __init__(self, connection: KjConnection, capability: Any, *, max_messages: int) -> None:
        """Speak to the session behind `capability`; at most `max_messages` wait."""
        super().__init__(connection, capability)
        self.outbox = Outbox(connection, self._send, max_messages=max_messages)

    def tell(self, reports: Sequence[GatewayReport]) -> None:
        """See `GatewaySession.tell`."""
        self.outbox.tell(reports)

    def _send(self, reports: Sequence[GatewayReport]) -> Awaitable[object]:
        request = self._capability.tell_request()
        list_to_wire(gateway_report_to_wire, reports, request.init("reports", len(reports)))
        call: Awaitable[object] = request.send()
        return call

    async def ping(self, sent_ns: int) -> Pong:
        """See `GatewaySession.ping`."""

        def fill(params: Any) -> None:
            params.sentNs = sent_ns

        return await self._ask("ping", fill, lambda results: pong_from_wire(results.pong))

    async def meter(self, batch: UsageBatch) -> int:
        """See `GatewaySession.meter`."""
        return await self._ask(
            "meter",
            lambda params: usage_batch_to_wire(batch, params.init("batch")),
            lambda results: int(results.through),
        )

    async def add_model(self, spec: ModelSpec, *, hold: bool = False) -> ModelSpec:
        """See `GatewaySession.add_model`."""

        def fill(params: Any) -> None:
            model_spec_to_wire(spec, params.init("spec"))
            params.hold = hold

        return await self._ask("addModel", fill, lambda results: model_spec_from_wire(results.spec))

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `GatewaySession.versions`."""

        def fill(params: Any) -> None:
            params.name = name

        return await self._ask("versions", fill, versions_from_wire)

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `GatewaySession.route_model`."""
        return await self._ask(
            "routeModel",
            lambda params: route_order_to_wire(order, params.init("order")),
            versions_from_wire,
        )

    async def remove_model(self, model_id: ModelId) -> None:
        """See `GatewaySession.remove_model`."""

        def fill(params: Any) -> None:
            params.modelId = model_id

        await self._ask("removeModel", fill, nothing)

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """See `GatewaySession.model_status`."""

        def fill(params: Any) -> None:
            params.modelId = model_id

        return await self._ask(
            "modelStatus", fill, lambda results: model_status_from_wire(results.status)
        )

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        return await self._ask(
            "catalog",
            lambda params: order_to_wire(order, params.init("order")),
            lambda results: catalog_answer_from_wire(results.answer),
        )

    async def status(self) -> ClusterStatus:
        """See `GatewaySession.status`."""
        return await self._ask(
            "status", nothing, lambda results: cluster_status_from_wire(results.status)
        )


class GatewaySessionGate(schema.control.GatewaySession.Server):  # type: ignore[misc]
    """The door of a controller to one of its gateways."""

    def __init__(self, session: GatewaySession, link: KjConnection) -> None:
        """Let the peer on `link` reach `session`."""
        self.session = session
        self.link = link

    tell_context = told(
        lambda params: [gateway_report_from_wire(it) for it in params.reports],
        lambda gate, reports: gate.session.tell(reports),
    )
    meter_context = asked(
        lambda params: usage_batch_from_wire(params.batch),
        lambda gate, batch: gate.session.meter(batch),
        lambda results, through: setattr(results, "through", through),
    )
    ping_context = asked(
        lambda params: params.sentNs,
        lambda gate, sent_ns: gate.session.ping(sent_ns),
        lambda results, pong: pong_to_wire(pong, results.init("pong")),
    )
    addModel_context = asked(  # noqa: N815
        lambda params: (model_spec_from_wire(params.spec), params.hold),
        lambda gate, added: gate.session.add_model(added[0], hold=added[1]),
        lambda results, spec: model_spec_to_wire(spec, results.init("spec")),
    )
    versions_context = asked(
        lambda params: params.name,
        lambda gate, name: gate.session.versions(name),
        lambda results, versions: versions_to_wire(versions, results),
    )
    routeModel_context = asked(  # noqa: N815
        lambda params: route_order_from_wire(params.order),
        lambda gate, order: gate.session.route_model(order),
        lambda results, versions: versions_to_wire(versions, results),
    )
    removeModel_context = asked(  # noqa: N815
        lambda params: ModelId(params.modelId),
        lambda gate, model_id: gate.session.remove_model(model_id),
    )
    modelStatus_context = asked(  # noqa: N815
        lambda params: ModelId(params.modelId),
        lambda gate, model_id: gate.session.model_status(model_id),
        lambda results, status: model_status_to_wire(status, results.init("status")),
    )
    catalog_context = asked(
        lambda params: order_from_wire(params.order),
        lambda gate, order: gate.session.catalog(order),
        lambda results, answer: catalog_answer_to_wire(answer, results.init("answer")),
    )
    status_context = asked(
        nothing,
        lambda gate, _: gate.session.status(),
        lambda results, status: cluster_status_to_wire(status, results.init("status")),
    )
