"""Controller actor: events in, commands out, one timer.

One task owns the scheduler. Ports put events into its inbox; it takes all that are there, hands
them to `core/scheduler.py` with one instant, carries out the commands and flushes what they told to
each peer as one message. It never waits for a peer: a peer whose outbox is full is cut off and
counts as lost. It must not know: how the scheduler decides, or what lies between it and its peers.

Neighbours: `gateway.py` and `executor.py` join through `ControllerPort`.
"""

import logging
from collections.abc import Sequence
from typing import assert_never
from weakref import WeakValueDictionary

import attrs
import trio

from cw.actors.alarm import Alarm
from cw.actors.catalog_keeper import CatalogKeeper
from cw.actors.clock import now_ns, trio_time
from cw.actors.controller_sessions import ControllerForExecutor, ControllerForGateway
from cw.actors.controller_standing import StandingOrders
from cw.actors.delegate import ExecutorDelegate, GatewayDelegate, Pulse
from cw.actors.version_desk import NoFiles, VersionDesk, VersionFiles
from cw.catalog.catalog import Catalog
from cw.config import LinkSettings
from cw.core.commands import (
    AnnounceModel,
    Command,
    Decide,
    DropExecutor,
    SendAction,
    SendCancel,
)
from cw.core.events import (
    Event,
    ExecutorJoined,
    ExecutorLost,
    GatewayLost,
    ModelAdded,
    ModelRemoved,
    TimerFired,
)
from cw.core.scheduler import Scheduler
from cw.core.versions import ModelVersions
from cw.errors import UnknownModel
from cw.messages import (
    CancelSlot,
    ClusterStatus,
    DirectoryChange,
    Epoch,
    ExecutorAddress,
    ExecutorHello,
    ExecutorId,
    ExecutorWelcome,
    GatewayHello,
    GatewayId,
    GatewayWelcome,
    ModelId,
    ModelSpec,
    ModelState,
    ModelStatus,
    Route,
    UsageBatch,
)
from cw.rpc.ports import ExecutorPort, ExecutorSession, GatewayPort, GatewaySession

logger = logging.getLogger(__name__)


@attrs.define(eq=False)
class ControllerActor:
    """The single decider of a cluster; implements `ControllerPort`.

    Args:
        core: The scheduler, which this actor alone touches.
        epoch: This reign; larger than any before it.
        link: Bounds on the peers' silence.
        models: What the catalog holds at the start: each the only version of its name.
        versions: The same where versions are kept: a record, and its versions in service.
        files: Where versions are kept.
    """

    core: Scheduler
    epoch: Epoch
    link: LinkSettings
    models: Sequence[ModelSpec] = ()
    versions: Sequence[tuple[ModelVersions, tuple[ModelSpec, ...]]] = ()
    files: VersionFiles = attrs.field(factory=NoFiles)
    catalog: Catalog | None = None
    """Of tenants; without one, everybody is the default tenant."""
    keeper: CatalogKeeper | None = attrs.field(default=None, init=False)
    desk: VersionDesk = attrs.field(init=False)
    """Which versions names stand for."""
    _events: list[Event] = attrs.field(factory=list, init=False)
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)
    _gateways: dict[GatewayId, GatewayDelegate] = attrs.field(factory=dict, init=False)
    _executors: dict[ExecutorId, ExecutorDelegate] = attrs.field(factory=dict, init=False)
    _pulses: WeakValueDictionary[str, Pulse] = attrs.field(factory=WeakValueDictionary, init=False)
    _spoken: dict[ExecutorId, ExecutorDelegate] = attrs.field(factory=dict, init=False)
    _next_gateway: int = attrs.field(default=1, init=False)
    _next_executor: int = attrs.field(default=1, init=False)
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _closed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def __attrs_post_init__(self) -> None:
        if self.catalog is not None:
            self.keeper = CatalogKeeper(self.catalog, StandingOrders(self))
        self.desk = VersionDesk(
            files=self.files,
            link=self.link,
            serve=self._serve,
            withdraw=self._withdraw,
            tell_route=self._tell_route,
        )

    async def run(self, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED) -> None:
        """Decide until cancelled."""
        for spec in self.models:
            alone = {spec.version: spec.model_id}
            record = ModelVersions(
                name=spec.name, ids=alone, current=spec.version, next_number=spec.version + 1
            )
            self.desk.restore(record, (spec,))
        for record, specs in self.versions:
            self.desk.restore(record, specs)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.desk.start(nursery)
                if self.keeper is not None:
                    await self.keeper.start()
                nursery.start_soon(self._watch_silence)
                task_status.started()
                await self._decide(nursery)
        finally:
            self._closed.set()
            for peer in self._peers():
                peer.port.close()

    async def _decide(self, nursery: trio.Nursery) -> None:
        alarm = await nursery.start(Alarm().run)
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            events, self._events = self._events, []
            # An alarm that rang too early, or for nothing, is harmless: TimerFired only means look.
            commands = self.core.handle(*(events or (TimerFired(),)), now_ns=now_ns())
            for command in commands:
                self._perform(command)
            for gateway in self._gateways.values():
                gateway.flush()
            for executor in self._spoken.values():
                executor.flush()
            self._spoken.clear()
            alarm.set(self.core.wake_at_ns, self._wake)

    def _perform(self, command: Command) -> None:
        match command:
            case SendAction(executor_id=executor_id, action=action):
                if executor := self._spoken_to(executor_id):
                    executor.actions.append(action)
            case Decide(gateway_id=gateway_id, decision=decision):
                if gateway_id in self._gateways:
                    self._gateways[gateway_id].decisions.append(decision)
            case SendCancel(executor_id=executor_id, request_id=request_id, attempt=attempt):
                if executor := self._spoken_to(executor_id):
                    cancel = CancelSlot(request_id=request_id, attempt=attempt)
                    executor.cancels.append(cancel)
            case DropExecutor(executor_id=executor_id, reason=reason):
                logger.warning("dropped executor=%d reason=%r", executor_id, reason)
                if executor_id in self._executors:
                    self._executors[executor_id].port.close()
            case AnnounceModel(model_id=model_id, ready=ready):
                logger.info("model id=%d ready=%s", model_id, ready)
                self._announced(model_id, ready)
            case _:
                assert_never(command)

    def _spoken_to(self, executor_id: ExecutorId) -> ExecutorDelegate | None:
        if executor := self._executors.get(executor_id):
            self._spoken[executor_id] = executor  # so that no others cost anything in this pass
        return executor

    def _peers(self) -> list[GatewayDelegate | ExecutorDelegate]:
        return [*self._gateways.values(), *self._executors.values()]

    def put(self, *events: Event) -> None:
        """Have the scheduler hear of these, all at one instant, as soon as the event loop turns."""
        # Bounded by what one pass of the event loop reads off the connections: the next pass takes
        # all of it, and the scheduler refuses what its own bounds can't hold.
        self._events.extend(events)
        self._wake.set()

    async def take_usage(self, batch: UsageBatch) -> int:
        """See `GatewaySession.meter`."""
        if self.catalog is None:
            return 0  # it stays where it is
        return await trio.to_thread.run_sync(self.catalog.add_usage, batch)

    # --- the catalog ------------------------------------------------------------------------------

    def _serve(self, spec: ModelSpec) -> None:
        for gateway in self._gateways.values():
            gateway.add_model(spec)
        self.put(ModelAdded(spec=spec))

    def _withdraw(self, model_id: ModelId) -> None:
        for gateway in self._gateways.values():
            gateway.models_removed.append(model_id)
        self.put(ModelRemoved(model_id=model_id))

    def tell_directory(self, change: DirectoryChange) -> None:
        """Tell all gateways of tenants, keys and models' owners."""
        for gateway in self._gateways.values():
            gateway.directory.append(change)
        self.put()  # flushes it

    def _tell_route(self, route: Route) -> None:
        for gateway in self._gateways.values():
            gateway.routes.append(route)
        self.put()  # flushes it

    def _announced(self, model_id: ModelId, is_ready: bool) -> None:
        if is_ready:
            self.desk.became_ready(model_id)
        elif self.desk.serves(model_id):
            status = self.core.model_status(model_id, now_ns=now_ns())
            why = status.detail if status.state is ModelState.FAILED else None
            self.desk.became_unready(model_id, why)

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """See `GatewaySession.model_status`."""
        if not self.desk.serves(model_id):
            raise UnknownModel(f"no model has the id {model_id}")
        await self._caught_up()
        return self.core.model_status(model_id, now_ns=now_ns())

    async def status(self) -> ClusterStatus:
        """See `GatewaySession.status`."""
        await self._caught_up()
        return self.core.status(now_ns=now_ns())

    async def _caught_up(self) -> None:
        """Let the scheduler hear first of what has happened: a model may just have been added."""
        while self._events:
            await trio.lowlevel.checkpoint()

    # --- joining ----------------------------------------------------------------------------------

    async def join_gateway(
        self, hello: GatewayHello, gateway: GatewayPort
    ) -> tuple[GatewayWelcome, GatewaySession]:
        """See `ControllerPort.join_gateway`."""
        gateway_id = hello.previous_id
        if gateway_id is not None:
            earlier = self._gateways.get(gateway_id)
            if earlier is not None and earlier.name == hello.name:
                # It hung up, and this end has not seen it yet.
                self._lose_gateway(gateway_id, earlier)
        if gateway_id is None or gateway_id in self._gateways:
            gateway_id = GatewayId(self._next_gateway)
        self._next_gateway = max(self._next_gateway, gateway_id + 1)
        delegate = GatewayDelegate(name=hello.name, port=gateway, pulse=Pulse(now_ns()))
        if self.keeper is not None:
            delegate.directory.append(self.keeper.whole)
        delegate.models_added.extend(self.desk.served)
        delegate.routes.extend(self.desk.routes)
        delegate.executors_joined.extend(
            ExecutorAddress(executor_id=executor_id, address=executor.address)
            for executor_id, executor in self._executors.items()
        )
        self._gateways[gateway_id] = delegate
        assert self._nursery is not None, "the controller must run before peers join"
        self._nursery.start_soon(self._mourn_gateway, gateway_id, delegate)
        self.put()  # flushes what the newcomer has to know
        logger.info("joined gateway=%d name=%s", gateway_id, hello.name)
        welcome = GatewayWelcome(epoch=self.epoch, gateway_id=gateway_id)
        return welcome, ControllerForGateway(self, delegate)

    async def join_executor(
        self, hello: ExecutorHello, executor: ExecutorPort
    ) -> tuple[ExecutorWelcome, ExecutorSession]:
        """See `ControllerPort.join_executor`."""
        for earlier_id, earlier in tuple(self._executors.items()):
            if earlier.name == hello.name:
                # The new life is proof that the earlier one is over.
                self._lose_executor(earlier_id, earlier)
        executor_id = ExecutorId(self._next_executor)
        self._next_executor += 1
        address = hello.data_address
        pulse = self._pulses.setdefault(address, Pulse(now_ns()))
        pulse.heard_ns = now_ns()
        delegate = ExecutorDelegate(
            name=hello.name, port=executor, pulse=pulse, address=address, epoch=self.epoch
        )
        self._executors[executor_id] = delegate
        for gateway in self._gateways.values():
            gateway.executors_joined.append(
                ExecutorAddress(executor_id=executor_id, address=address)
            )
        assert self._nursery is not None, "the controller must run before peers join"
        self._nursery.start_soon(self._mourn_executor, executor_id, delegate)
        self.put(
            ExecutorJoined(
                executor_id=executor_id,
                name=hello.name,
                device=hello.device,
                prepared=hello.prepared,
                resident=hello.resident,
            )
        )
        logger.info("joined executor=%d name=%s", executor_id, hello.name)
        welcome = ExecutorWelcome(epoch=self.epoch, executor_id=executor_id)
        return welcome, ControllerForExecutor(self, delegate, executor_id)

    async def _mourn_gateway(self, gateway_id: GatewayId, delegate: GatewayDelegate) -> None:
        await delegate.port.wait_closed()
        self._lose_gateway(gateway_id, delegate)

    def _lose_gateway(self, gateway_id: GatewayId, delegate: GatewayDelegate) -> None:
        if delegate.is_lost:
            return
        logger.warning("lost gateway=%d name=%s", gateway_id, delegate.name)
        delegate.is_lost = True
        delegate.port.close()
        del self._gateways[gateway_id]
        self.put(GatewayLost(gateway_id=gateway_id))

    async def _mourn_executor(self, executor_id: ExecutorId, delegate: ExecutorDelegate) -> None:
        await delegate.port.wait_closed()
        self._lose_executor(executor_id, delegate)

    def _lose_executor(self, executor_id: ExecutorId, delegate: ExecutorDelegate) -> None:
        if delegate.is_lost:
            return
        logger.warning("lost executor=%d name=%s", executor_id, delegate.name)
        delegate.is_lost = True
        delegate.port.close()
        del self._executors[executor_id]
        for gateway in self._gateways.values():
            gateway.executors_lost.append(executor_id)
        self.put(ExecutorLost(executor_id=executor_id))

    async def _watch_silence(self) -> None:
        """Cut off peers that are connected but say nothing: a stopped process keeps its socket.

        Seen at most `silence_ns + heartbeat_ns` after the last sign of life.
        """
        while True:
            due_ns = now_ns() + self.link.heartbeat_ns
            await trio.sleep_until(trio_time(due_ns))
            # A controller that was itself held up can't have heard anybody meanwhile.
            held_up_ns = now_ns() - due_ns
            for pulse in {id(peer.pulse): peer.pulse for peer in self._peers()}.values():
                pulse.heard_ns += held_up_ns
            for peer in self._peers():
                if now_ns() - peer.pulse.heard_ns > self.link.silence_ns:
                    logger.warning("silent peer=%s", peer.name)
                    peer.port.close()

    # --- Peer: the controller itself has no connection to lose ------------------------------------

    async def wait_closed(self) -> None:
        """Return once the controller has ended."""
        await self._closed.wait()

    def close(self) -> None:
        """A caller's way to hang up; nothing is held for one that has not joined."""
