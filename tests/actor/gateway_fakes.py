"""Stand-ins around a gateway: a controller that says what it is told to, executors with a script.

Plain objects that satisfy the ports; nothing is mocked. All of it stands still under
`autojump_clock`.
"""

from contextlib import asynccontextmanager

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.gateway import GatewayActor
from cw.config import GatewaySettings, LinkSettings
from cw.errors import OutboxFull, PeerDisconnected
from cw.messages import (
    Abandon,
    ActionId,
    Assign,
    Assignment,
    Attempt,
    BatchOutputs,
    Cancel,
    Descriptor,
    Epoch,
    ExecutorAddress,
    ExecutorId,
    Failure,
    FailureKind,
    GatewayId,
    GatewayWelcome,
    InferCall,
    Notices,
    Outcome,
    Pong,
    Promise,
    Refusal,
    RefusalReason,
    Refuse,
    Settled,
    SlotOutputs,
    Tensor,
    Ticket,
)
from cw.units import MS, SECOND
from tests.actor.fakes import MODEL

EXECUTOR = ExecutorId(1)
OTHER = ExecutorId(2)


@attrs.define(eq=False)
class FakeController:
    """A controller whose clock is ahead; it decides what the test says. Also its own session."""

    epoch: Epoch = attrs.Factory(lambda: Epoch(1))
    ahead_ns: int = 5 * SECOND
    models: tuple = (MODEL,)
    executors: tuple = (EXECUTOR, OTHER)
    hellos: list = attrs.Factory(list)
    reports: list = attrs.Factory(list)
    gateway: object = None
    is_up: bool = True
    is_silent: bool = False
    is_full: bool = False
    new_id: int | None = None
    """The id to give instead of the one that the gateway had."""
    action_id: int = 0
    closed: trio.Event = attrs.Factory(trio.Event)
    _changed: trio.Event = attrs.Factory(trio.Event)

    @asynccontextmanager
    async def dial(self):
        await trio.lowlevel.checkpoint()
        if not self.is_up:
            raise PeerDisconnected("nothing listens")
        self.closed = trio.Event()
        yield self

    async def join_gateway(self, hello, gateway):
        await trio.lowlevel.checkpoint()
        if self.is_silent:
            await trio.sleep_forever()
        self.hellos.append(hello)
        self.gateway = gateway
        gateway_id = GatewayId(self.new_id or hello.previous_id or 7)
        gateway.tell(
            Notices(
                models_added=self.models,
                executors_joined=tuple(
                    ExecutorAddress(executor_id=each, address=f"executor-{each}")
                    for each in self.executors
                ),
            )
        )
        self._notify()
        return GatewayWelcome(epoch=self.epoch, gateway_id=gateway_id), self

    def tell(self, reports):
        if self.closed.is_set():
            raise PeerDisconnected("the controller is gone")
        if self.is_full:
            raise OutboxFull("the outbox is full")
        self.reports.extend(reports)
        self._notify()

    async def ping(self, sent_ns):
        if self.is_silent:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        return Pong(received_ns=self.now_ns(), replied_ns=self.now_ns())

    async def wait_closed(self):
        await self.closed.wait()

    def close(self):
        self.closed.set()

    def now_ns(self):
        return now_ns() + self.ahead_ns

    def go_down(self):
        self.is_up = False
        self.close()

    # --- what it was told ---

    async def until(self, found):
        while (value := found()) in (None, False):
            await self._changed.wait()
        return value

    def _notify(self):
        self._changed.set()
        self._changed = trio.Event()

    def told(self, kind):
        return [report for report in self.reports if isinstance(report, kind)]

    async def descriptor(self, number=1):
        """Wait for the so-manieth descriptor."""
        await self.until(lambda: len(self.told(Descriptor)) >= number)
        return self.told(Descriptor)[number - 1]

    def ends(self):
        """How requests ended, by what was told: (attempt, outcome) or (attempt, "cancel")."""
        return [
            (each.attempt, "cancel" if isinstance(each, Cancel) else each.outcome.value)
            for each in self.reports
            if isinstance(each, Cancel | Settled)
        ]

    # --- what it says ---

    def decide(self, *decisions):
        self.gateway.tell(Notices(decisions=decisions))

    def promise(self, descriptor, *, attempt=1, in_ns=20 * MS):
        self.decide(
            Promise(
                request_id=descriptor.request_id,
                attempt=Attempt(attempt),
                predicted_finish_ns=descriptor.arrival_ns + in_ns,
            )
        )

    def refuse(self, descriptor, *, attempt=1, earliest_finish_ns=None):
        refusal = Refusal(
            reason=RefusalReason.OVERLOAD, earliest_finish_ns=earliest_finish_ns, message="full"
        )
        self.decide(
            Refuse(request_id=descriptor.request_id, attempt=Attempt(attempt), refusal=refusal)
        )

    def abandon(self, descriptor, *, attempt=1):
        failure = Failure(kind=FailureKind.EXECUTOR_LOST, message="no time is left")
        self.decide(
            Abandon(request_id=descriptor.request_id, attempt=Attempt(attempt), failure=failure)
        )

    def assign(self, *descriptors, executor=EXECUTOR, attempt=1):
        """Assign requests to one batch."""
        self.action_id += 1
        self.decide(
            Assign(
                epoch=self.epoch,
                action_id=ActionId(self.action_id),
                ticket=Ticket(self.action_id),
                executor_id=executor,
                predicted_finish_ns=descriptors[0].arrival_ns + 20 * MS,
                assignments=tuple(
                    Assignment(
                        request_id=each.request_id, attempt=Attempt(attempt), position=position
                    )
                    for position, each in enumerate(descriptors)
                ),
            )
        )


@attrs.define(eq=False)
class FakeExecutor:
    """Answers each call after a while, each input reversed."""

    takes_ns: int = 10 * MS
    outcome: Outcome = Outcome.OK
    error: Exception | None = None
    """Raised by the next call, once."""
    is_up: bool = True
    dials: int = 0
    calls: list = attrs.Factory(list)
    cancels: list = attrs.Factory(list)
    _closed: trio.Event = attrs.Factory(trio.Event)

    @asynccontextmanager
    async def dial(self):
        await trio.lowlevel.checkpoint()
        self.dials += 1
        if not self.is_up:
            raise PeerDisconnected("nothing listens")
        self._closed = trio.Event()
        try:
            yield self
        finally:
            self.close()

    async def infer(self, inputs):
        self.calls.append(inputs)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        with trio.move_on_after(self.takes_ns / SECOND) as taking:
            await self._closed.wait()
        if not taking.cancelled_caught:
            raise PeerDisconnected("the connection broke")
        ran = self.outcome is Outcome.OK
        return BatchOutputs(
            outcome=self.outcome,
            device_ns=self.takes_ns,
            batch_size=len(inputs.slots),
            slots=tuple(
                SlotOutputs(
                    position=slot.position,
                    outputs=(bytes(slot.tensors[0])[::-1],) if ran else None,
                )
                for slot in inputs.slots
            ),
        )

    def tell(self, cancels):
        self.cancels.extend(cancels)

    async def wait_closed(self):
        await self._closed.wait()

    def close(self):
        self._closed.set()


@attrs.define(eq=False)
class Asked:
    """A client's call in progress."""

    answers: list = attrs.Factory(list)
    began_s: float = attrs.Factory(trio.current_time)
    took_ns: int | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    done: trio.Event = attrs.Factory(trio.Event)

    async def run(self, gateway, call):
        began_ns = now_ns()
        with self.scope:
            self.answers.append(await gateway.infer(call, arrival_ns=began_ns))
        self.took_ns = now_ns() - began_ns
        self.done.set()

    async def answer(self):
        await self.done.wait()
        (answer,) = self.answers
        given = [answer.outputs, answer.refusal, answer.failure]
        assert sum(each is not None for each in given) == 1
        return answer


@attrs.frozen
class Rig:
    """A running gateway with what is around it."""

    gateway: GatewayActor
    controller: FakeController
    executor: FakeExecutor
    other: FakeExecutor
    nursery: trio.Nursery

    def ask(self, data=b"abcd", *, slo_ns=100 * MS, model="m", name="x"):
        asked = Asked()
        tensor = Tensor(name=name, datatype="UINT8", shape=(4,), data=data)
        call = InferCall(model=model, inputs=(tensor,), slo_ns=slo_ns)
        self.nursery.start_soon(asked.run, self.gateway, call)
        return asked


@asynccontextmanager
async def running_gateway(*, controller=None, **settings):
    """Run a gateway that has joined; nothing may be left in its book when the block is left."""
    controller = controller or FakeController()
    executor, other = FakeExecutor(), FakeExecutor()
    by_address = {"executor-1": executor, "executor-2": other}
    gateway = GatewayActor(
        name="g1",
        settings=GatewaySettings(**settings),
        link=LinkSettings(),
        dial_controller=controller.dial,
        dial_executor=lambda address: by_address[address].dial(),
    )
    # The heartbeat would keep the virtual clock of a test that waits in vain going for ever.
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(gateway.run)
            yield Rig(gateway, controller, executor, other, nursery)
            await trio.sleep(0.2)  # past the last deadline of what a test leaves behind

            assert len(gateway.book) == 0
            assert gateway.book.full(gateway.settings.max_open_bytes) is None, (
                "payloads are counted"
            )
            nursery.cancel_scope.cancel()
