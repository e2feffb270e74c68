"""Joining: how gateways and executors meet their controller."""

from typing import Any

from cw.messages import (
    ExecutorHello,
    ExecutorWelcome,
    GatewayHello,
    GatewayWelcome,
)
from cw.rpc import schema
from cw.rpc.codec.binding import checked
from cw.rpc.codec.reports import (
    executor_hello_from_wire,
    executor_hello_to_wire,
    executor_welcome_from_wire,
    executor_welcome_to_wire,
    gateway_hello_from_wire,
    gateway_hello_to_wire,
    gateway_welcome_from_wire,
    gateway_welcome_to_wire,
)
from cw.rpc.kj_calls import call_alive, detached
from cw.rpc.kj_connection import KjConnection
from cw.rpc.links.base import Stub, agreed_version, check_version
from cw.rpc.links.executor import (
    ExecutorGate,
    ExecutorSessionGate,
    ExecutorSessionStub,
    ExecutorStub,
)
from cw.rpc.links.gateway import GatewayGate, GatewaySessionGate, GatewaySessionStub, GatewayStub
from cw.rpc.ports import (
    ControllerPort,
    ExecutorPort,
    ExecutorSession,
    GatewayPort,
    GatewaySession,
)


class ControllerStub(Stub):
    """A controller's front door; satisfies `ControllerPort`."""

    def __init__(self, connection: KjConnection, capability: Any, *, max_messages: int) -> None:
        """Speak to the controller behind `capability`; at most `max_messages` told ones wait."""
        super().__init__(connection, capability)
        self._max_messages = max_messages

    async def join_gateway(
        self, hello: GatewayHello, gateway: GatewayPort
    ) -> tuple[GatewayWelcome, GatewaySession]:
        """See `ControllerPort.join_gateway`."""

        def fill(params: Any) -> None:
            gateway_hello_to_wire(hello, params.init("hello"))
            params.gateway = GatewayGate(gateway, self._connection)
            params.protocolVersion = schema.PROTOCOL_VERSION

        def read(results: Any) -> tuple[GatewayWelcome, GatewaySession]:
            check_version(results.protocolVersion)
            session = GatewaySessionStub(
                self._connection, results.session, max_messages=self._max_messages
            )
            return gateway_welcome_from_wire(results.welcome), session

        return await self._ask("joinGateway", fill, read)

    async def join_executor(
        self, hello: ExecutorHello, executor: ExecutorPort
    ) -> tuple[ExecutorWelcome, ExecutorSession]:
        """See `ControllerPort.join_executor`."""

        def fill(params: Any) -> None:
            executor_hello_to_wire(hello, params.init("hello"))
            params.executor = ExecutorGate(executor, self._connection)
            params.protocolVersion = schema.PROTOCOL_VERSION

        def read(results: Any) -> tuple[ExecutorWelcome, ExecutorSession]:
            check_version(results.protocolVersion)
            session = ExecutorSessionStub(
                self._connection, results.session, max_messages=self._max_messages
            )
            return executor_welcome_from_wire(results.welcome), session

        return await self._ask("joinExecutor", fill, read)


class ControllerGate(schema.control.Controller.Server):  # type: ignore[misc]
    """The door of a controller, on one connection."""

    def __init__(
        self, controller: ControllerPort, link: KjConnection, *, max_messages: int
    ) -> None:
        """Let the peer on `link` reach `controller`; at most `max_messages` told to it wait."""
        self.controller = controller
        self.link = link
        self._max_messages = max_messages

    async def joinGateway_context(self, ctx: Any) -> None:  # noqa: N802
        """Introduce the gateway, tell it what it has to know, then welcome it."""
        params = ctx.params
        version = agreed_version(params.protocolVersion)
        hello = checked(gateway_hello_from_wire)(params.hello)
        gateway = GatewayStub(self.link, params.gateway, max_messages=self._max_messages)
        await detached()
        welcome, session = await self.controller.join_gateway(hello, gateway)
        gateway.outbox.send_now()
        if not call_alive():
            self.link.close()  # It has joined and doesn't know it: let it go again.
            return
        gateway_welcome_to_wire(welcome, ctx.results.init("welcome"))
        ctx.results.session = GatewaySessionGate(session, self.link)
        ctx.results.protocolVersion = version

    async def joinExecutor_context(self, ctx: Any) -> None:  # noqa: N802
        """Introduce the executor, then welcome it."""
        params = ctx.params
        version = agreed_version(params.protocolVersion)
        hello = checked(executor_hello_from_wire)(params.hello)
        executor = ExecutorStub(self.link, params.executor, max_messages=self._max_messages)
        await detached()
        welcome, session = await self.controller.join_executor(hello, executor)
        if not call_alive():
            self.link.close()
            return
        executor_welcome_to_wire(welcome, ctx.results.init("welcome"))
        ctx.results.session = ExecutorSessionGate(session, self.link)
        ctx.results.protocolVersion = version
