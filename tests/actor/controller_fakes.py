"""Stand-ins around a controller: a scheduler that follows a script, and peers that take notes."""

from contextlib import asynccontextmanager

import attrs
import trio
import trio.testing

from cw.actors.controller import ControllerActor
from cw.config import LinkSettings
from cw.errors import OutboxFull, PeerDisconnected
from cw.messages import (
    ActionId,
    Attempt,
    Descriptor,
    DeviceDescription,
    Epoch,
    ExecutorHello,
    GatewayHello,
    Incarnation,
    Refusal,
    RefusalReason,
    Refuse,
    RequestId,
    Unload,
)
from cw.units import SECOND
from tests.actor.fakes import MODEL

DEVICE = DeviceDescription(
    kind="fake", name="fake", pages_total=4, shared_lanes=False, load_bytes_per_second=SECOND
)
HELLO = ExecutorHello(
    name="e1", incarnation=Incarnation(1), data_address="address-1", device=DEVICE
)


@attrs.define(eq=False)
class ScriptedScheduler:
    """Notes each step's events and time; answers with what the test has laid ready."""

    steps: list = attrs.Factory(list)
    commands: list = attrs.Factory(list)
    wakes_ns: list = attrs.Factory(list)
    """What each of the next steps will wish for."""
    wake_at_ns: int | None = None

    def handle(self, *events, now_ns):
        self.steps.append((now_ns, events))
        self.wake_at_ns = self.wakes_ns.pop(0) if self.wakes_ns else None
        commands, self.commands = self.commands, []
        return commands

    def events(self, *kinds):
        return [each for _, events in self.steps for each in events if isinstance(each, kinds)]


@attrs.define(eq=False)
class FakePeer:
    """A gateway or an executor, as the controller sees it."""

    told: list = attrs.Factory(list)
    is_full: bool = False
    closed: trio.Event = attrs.Factory(trio.Event)

    def tell(self, message):
        if self.closed.is_set():
            raise PeerDisconnected("gone")
        if self.is_full:
            raise OutboxFull("the peer does not read")
        self.told.append(message)

    async def wait_closed(self):
        await self.closed.wait()

    def close(self):
        self.closed.set()


@attrs.define(eq=False)
class Rig:
    """A running controller."""

    controller: ControllerActor
    core: ScriptedScheduler
    nursery: trio.Nursery

    async def order(self, *commands):
        """Have the scheduler order this in its next step, and let it take that step."""
        self.core.commands += commands
        self.controller.put()
        await self.settle()

    async def settle(self):
        """Let all that is due now happen."""
        await trio.testing.wait_all_tasks_blocked()

    async def join_executor(self, name="e1", address=None):
        peer = FakePeer()
        address = address or f"address-{name[1:]}"
        hello = attrs.evolve(HELLO, name=name, data_address=address)
        welcome, session = await self.controller.join_executor(hello, peer)
        await self.settle()
        return peer, welcome.executor_id, session

    async def join_gateway(self, name="g1", previous_id=None):
        peer = FakePeer()
        hello = GatewayHello(name=name, previous_id=previous_id)
        welcome, session = await self.controller.join_gateway(hello, peer)
        await self.settle()
        return peer, welcome.gateway_id, session


@asynccontextmanager
async def running_controller(*, models=()):
    core = ScriptedScheduler()
    controller = ControllerActor(core=core, epoch=Epoch(3), link=LinkSettings(), models=models)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(controller.run)
            yield Rig(controller, core, nursery)
            nursery.cancel_scope.cancel()


def unload(number):
    return Unload(action_id=ActionId(number), model_id=MODEL.model_id)


def refuse(number):
    refusal = Refusal(reason=RefusalReason.OVERLOAD)
    return Refuse(request_id=RequestId(number), attempt=Attempt(1), refusal=refusal)


def descriptor(number):
    return Descriptor(
        request_id=RequestId(number), model_id=MODEL.model_id, arrival_ns=0, deadline_ns=1
    )
