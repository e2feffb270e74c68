"""The ports within one process: for tests of actors, and for clusters of one process.

A `MemoryNetwork` joins real actors by address. Messages are handed over by reference, in order in
each direction, after a delay that is drawn from a seed. A link can be cut or stalled on demand, as
a peer's death and its SIGSTOP look over a socket. What differs from Cap'n Proto: nothing is
copied, and a failed assertion of the actor ends the caller, too, since both are one process.

All of it stands still under `trio.testing.MockClock`, so that autojump works.
"""

import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Generic, TypeVar

from cw.errors import PeerDisconnected
from cw.messages import (
    ActionResult,
    Answer,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    CatalogAnswer,
    CatalogOrder,
    ClusterStatus,
    ExecutorHello,
    ExecutorWelcome,
    GatewayHello,
    GatewayReport,
    GatewayWelcome,
    InferCall,
    ModelId,
    ModelSpec,
    ModelStatus,
    Notices,
    Orders,
    Pong,
    RouteOrder,
    UploadOffer,
    UsageBatch,
    VersionStatus,
)
from cw.rpc.kj_errors import open_plain_nursery
from cw.rpc.memory_link import Direction, End, Link
from cw.rpc.ports import (
    AdminPort,
    ControllerPort,
    ExecutorPort,
    ExecutorSession,
    GatewayPort,
    GatewaySession,
    InferencePort,
    ServingPort,
    TenantPort,
    UploadPort,
)
from cw.rpc.weights import notices_weight, orders_weight

ActorT = TypeVar("ActorT")


class _Port(Generic[ActorT]):
    """An actor at the other end of a link."""

    def __init__(self, end: End, actor: ActorT) -> None:
        self._end: Final = end
        self._actor: Final = actor

    async def wait_closed(self) -> None:
        """See `Peer.wait_closed`."""
        await self._end.wait_closed()

    def close(self) -> None:
        """See `Peer.close`."""
        self._end.close()


class MemoryGateway(_Port[GatewayPort]):
    """Satisfies `GatewayPort`."""

    def tell(self, notices: Notices) -> None:
        """See `GatewayPort.tell`."""
        self._end.tell(lambda: self._actor.tell(notices), notices_weight(notices))


class MemoryGatewaySession(_Port[GatewaySession]):
    """Satisfies `GatewaySession`."""

    def tell(self, reports: Sequence[GatewayReport]) -> None:
        """See `GatewaySession.tell`."""
        told = tuple(reports)  # The caller's list may change while this is on its way.
        self._end.tell(lambda: self._actor.tell(told), len(told))

    async def ping(self, sent_ns: int) -> Pong:
        """See `GatewaySession.ping`."""
        return await self._end.ask(lambda: self._actor.ping(sent_ns))

    async def meter(self, batch: UsageBatch) -> int:
        """See `GatewaySession.meter`."""
        return await self._end.ask(lambda: self._actor.meter(batch))

    async def add_model(self, spec: ModelSpec, *, hold: bool = False) -> ModelSpec:
        """See `GatewaySession.add_model`."""
        return await self._end.ask(lambda: self._actor.add_model(spec, hold=hold))

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `GatewaySession.versions`."""
        return await self._end.ask(lambda: self._actor.versions(name))

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `GatewaySession.route_model`."""
        return await self._end.ask(lambda: self._actor.route_model(order))

    async def remove_model(self, model_id: ModelId) -> None:
        """See `GatewaySession.remove_model`."""
        await self._end.ask(lambda: self._actor.remove_model(model_id))

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """See `GatewaySession.model_status`."""
        return await self._end.ask(lambda: self._actor.model_status(model_id))

    async def status(self) -> ClusterStatus:
        """See `GatewaySession.status`."""
        return await self._end.ask(self._actor.status)

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        return await self._end.ask(lambda: self._actor.catalog(order))


class MemoryExecutor(_Port[ExecutorPort]):
    """Satisfies `ExecutorPort`."""

    def tell(self, orders: Orders) -> None:
        """See `ExecutorPort.tell`."""
        self._end.tell(lambda: self._actor.tell(orders), orders_weight(orders))


class MemoryExecutorSession(_Port[ExecutorSession]):
    """Satisfies `ExecutorSession`."""

    def tell(self, results: Sequence[ActionResult]) -> None:
        """See `ExecutorSession.tell`."""
        told = tuple(results)
        self._end.tell(lambda: self._actor.tell(told), len(told))

    async def ping(self, sent_ns: int) -> Pong:
        """See `ExecutorSession.ping`."""
        return await self._end.ask(lambda: self._actor.ping(sent_ns))

    async def meter(self, batch: UsageBatch) -> int:
        """See `ExecutorSession.meter`."""
        return await self._end.ask(lambda: self._actor.meter(batch))


class MemoryController(_Port[ControllerPort]):
    """Satisfies `ControllerPort`."""

    async def join_gateway(
        self, hello: GatewayHello, gateway: GatewayPort
    ) -> tuple[GatewayWelcome, GatewaySession]:
        """See `ControllerPort.join_gateway`."""
        seen = MemoryGateway(self._end.reversed(), gateway)
        welcome, session = await self._end.ask(lambda: self._actor.join_gateway(hello, seen))
        return welcome, MemoryGatewaySession(self._end, session)

    async def join_executor(
        self, hello: ExecutorHello, executor: ExecutorPort
    ) -> tuple[ExecutorWelcome, ExecutorSession]:
        """See `ControllerPort.join_executor`."""
        seen = MemoryExecutor(self._end.reversed(), executor)
        welcome, session = await self._end.ask(lambda: self._actor.join_executor(hello, seen))
        return welcome, MemoryExecutorSession(self._end, session)


class MemoryInference(_Port[InferencePort]):
    """Satisfies `InferencePort`."""

    async def infer(self, inputs: BatchInputs) -> BatchOutputs:
        """See `InferencePort.infer`."""
        return await self._end.ask(lambda: self._actor.infer(inputs))

    def tell(self, cancels: Sequence[CancelSlot]) -> None:
        """See `InferencePort.tell`."""
        told = tuple(cancels)
        self._end.tell(lambda: self._actor.tell(told), len(told))


class MemoryServing(_Port[ServingPort]):
    """Satisfies `ServingPort`."""

    async def login(self, key: str) -> TenantPort:
        """See `ServingPort.login`."""
        return MemoryTenant(self._end, await self._end.ask(lambda: self._actor.login(key)))

    async def admin(self, key: str) -> AdminPort:
        """See `ServingPort.admin`."""
        return MemoryAdmin(self._end, await self._end.ask(lambda: self._actor.admin(key)))


class MemoryTenant(_Port[TenantPort]):
    """Satisfies `TenantPort`."""

    async def infer(self, call: InferCall) -> Answer:
        """See `TenantPort.infer`."""
        return await self._end.ask(lambda: self._actor.infer(call))

    async def models(self) -> Sequence[ModelStatus]:
        """See `TenantPort.models`."""
        return await self._end.ask(self._actor.models)

    async def model_status(self, name: str, version: int = 0) -> ModelStatus:
        """See `TenantPort.model_status`."""
        return await self._end.ask(lambda: self._actor.model_status(name, version))

    async def status(self) -> ClusterStatus:
        """See `TenantPort.status`."""
        return await self._end.ask(self._actor.status)

    async def wait_ended(self) -> None:
        """See `TenantPort.wait_ended`."""
        await self._end.ask(self._actor.wait_ended)


class MemoryAdmin(_Port[AdminPort]):
    """Satisfies `AdminPort`."""

    async def begin_upload(self, offer: UploadOffer) -> UploadPort:
        """See `AdminPort.begin_upload`."""
        return MemoryUpload(self._end, await self._end.ask(lambda: self._actor.begin_upload(offer)))

    async def resume_upload(self, token: str) -> UploadPort:
        """See `AdminPort.resume_upload`."""
        return MemoryUpload(
            self._end, await self._end.ask(lambda: self._actor.resume_upload(token))
        )

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `AdminPort.versions`."""
        return await self._end.ask(lambda: self._actor.versions(name))

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `AdminPort.route_model`."""
        return await self._end.ask(lambda: self._actor.route_model(order))

    async def allow_program(self, program_sha256: str) -> None:
        """See `AdminPort.allow_program`."""
        await self._end.ask(lambda: self._actor.allow_program(program_sha256))

    async def remove_model(self, name: str) -> None:
        """See `AdminPort.remove_model`."""
        await self._end.ask(lambda: self._actor.remove_model(name))

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        return await self._end.ask(lambda: self._actor.catalog(order))


class MemoryUpload(_Port[UploadPort]):
    """Satisfies `UploadPort`."""

    @property
    def token(self) -> str:
        """See `UploadPort.token`."""
        return self._actor.token

    async def progress(self) -> Mapping[str, int]:
        """See `UploadPort.progress`."""
        return await self._end.ask(self._actor.progress)

    async def write(self, file: str, data: bytes, *, offset: int, crc32: int) -> None:
        """See `UploadPort.write`."""
        await self._end.ask(lambda: self._actor.write(file, data, offset=offset, crc32=crc32))

    async def commit(self, *, hold: bool = False) -> ModelSpec:
        """See `UploadPort.commit`."""
        return await self._end.ask(lambda: self._actor.commit(hold=hold))

    async def discard(self) -> None:
        """See `UploadPort.discard`."""
        await self._end.ask(self._actor.discard)


class MemoryNetwork:
    """Actors by address, and the links between them.

    Use it within one Trio run. `connect_controller` and its siblings are what actors dial with.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        delay_ns: tuple[int, int] = (0, 0),
        is_instant: bool = False,
        max_messages: int = 65536,
    ) -> None:
        """Make a network without actors.

        Args:
            seed: Of the delays: the same seed and the same order of messages give the same ones.
            delay_ns: Least and most that anything travels for, each way.
            is_instant: Nothing is on its way at all: no task is woken up to hand a message over.
            max_messages: How many told messages may be on their way through one port.
        """
        self._random: Final = random.Random(seed)
        self._delay_ns: Final = delay_ns
        self._is_instant: Final = is_instant
        self._max_messages: Final = max_messages
        self._actors: dict[str, Any] = {}
        self._links: dict[str, list[Link]] = {}

    def serve(self, address: str, actor: ControllerPort | InferencePort | ServingPort) -> None:
        """Have whoever dials `address` reach `actor`; instead of an earlier one, if any."""
        self._actors[address] = actor

    def withdraw(self, address: str) -> None:
        """Serve nobody at `address` any more, and cut the links to it: its process died."""
        self._actors.pop(address, None)
        self.cut(address)

    def cut(self, address: str) -> None:
        """Cut all links to `address`; dialling it again makes a new one."""
        for link in self._links.pop(address, []):
            link.cut()

    def stall(self, address: str) -> None:
        """Let nothing more through on the links to `address`, which stay open: it was stopped."""
        for link in self._links.get(address, []):
            link.there.stall()
            link.back.stall()

    @asynccontextmanager
    async def connect_controller(self, address: str) -> AsyncIterator[ControllerPort]:
        """Dial a controller; see `client.connect_controller`."""
        async with self._dialled(address) as end:
            yield MemoryController(end, self._actors[address])

    @asynccontextmanager
    async def connect_executor(self, address: str) -> AsyncIterator[InferencePort]:
        """Dial an executor's data side; see `client.connect_executor`."""
        async with self._dialled(address) as end:
            yield MemoryInference(end, self._actors[address])

    @asynccontextmanager
    async def connect_serving(self, address: str) -> AsyncIterator[ServingPort]:
        """Dial a gateway's front door; see `client.connect_serving`."""
        async with self._dialled(address) as end:
            yield MemoryServing(end, self._actors[address])

    @asynccontextmanager
    async def _dialled(self, address: str) -> AsyncIterator[End]:
        if address not in self._actors:
            raise PeerDisconnected(f"cannot connect to {address}: nobody serves it")
        there, back = (Direction(self._draw_ns, is_instant=self._is_instant) for _ in range(2))
        link = Link(peer=address, there=there, back=back, max_messages=self._max_messages)
        links = self._links.setdefault(address, [])
        links.append(link)
        try:
            async with open_plain_nursery() as nursery:
                nursery.start_soon(there.run)
                nursery.start_soon(back.run)
                nursery.start_soon(link.execute_last_wills)
                try:
                    yield End(link, there, back)
                finally:
                    link.cut()
                    await link.execute_last_wills()
                    nursery.cancel_scope.cancel()
        finally:
            if link in links:
                links.remove(link)

    def _draw_ns(self) -> int:
        return self._random.randint(*self._delay_ns)
