"""The controller of the simulated world: the very scheduler of production, and nothing else.

What `actors/controller.py` does over ports, over links: events in, commands out, one timer.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import attrs

from cw.core.commands import (
    AnnounceModel,
    Command,
    Decide,
    DropExecutor,
    SendAction,
    SendCancel,
)
from cw.core.events import (
    ActionDone,
    Event,
    ExecutorJoined,
    ExecutorLost,
    GatewayLost,
    RequestArrived,
    TimerFired,
)
from cw.core.requests import Request
from cw.core.residency import Residency
from cw.core.scheduler import Scheduler
from cw.messages import (
    ActionResult,
    AttemptFailed,
    Cancel,
    Decision,
    Descriptor,
    ExecutorId,
    GatewayId,
    ModelId,
    Promise,
    RequestId,
    Settled,
)
from cw.sim.checkers import Checkers
from cw.sim.executor import SimExecutor
from cw.sim.gateway import CONTROL_BYTES, SimGateway
from cw.sim.lives import describe
from cw.sim.network import Link

if TYPE_CHECKING:
    from cw.sim.world import World


Settlement = Settled | AttemptFailed | Cancel
"""What a gateway reports of a request after its arrival."""


@attrs.define(eq=False)
class SimController:
    """The one decider."""

    world: "World"
    core: Scheduler
    checkers: Checkers
    """They see what concerns this controller."""
    validate_every: int = 0
    """Have the scheduler check its own invariants after so many events; 0: never."""
    ready: set[ModelId] = attrs.field(factory=set)
    _gateways: dict[GatewayId, tuple[SimGateway, Link]] = attrs.field(factory=dict)
    _executors: dict[ExecutorId, SimExecutor] = attrs.field(factory=dict)
    _rings_ns: int | None = None
    """When the one alarm rings: at the instant at which the scheduler wants to be woken, or sooner,
    since an alarm is not moved when that instant is put off."""
    _events: int = 0

    # --- what comes in ----------------------------------------------------------------------------

    def arrive(self, gateway: SimGateway, descriptor: Descriptor) -> None:
        """Hear of a request from a gateway."""
        if gateway.gateway_id in self._gateways:
            event = RequestArrived(descriptor=descriptor)
            self.handle(event, arriving=descriptor.request_id)

    def report(self, gateway: SimGateway, reports: Sequence[Settlement]) -> None:
        """Hear from a gateway what became of requests."""
        if gateway.gateway_id in self._gateways:
            self.handle(*reports)

    def result(self, executor: SimExecutor, result: ActionResult) -> None:
        """Hear from an executor."""
        if executor.executor_id in self._executors:
            self.handle(ActionDone(executor_id=executor.executor_id, result=result))

    def handle(self, *events: Event, arriving: RequestId | None = None) -> None:
        """Have the scheduler decide, and carry it out."""
        now_ns = self.world.engine.now_ns
        commands = self.core.handle(*events, now_ns=now_ns)
        if commands:
            self._perform(commands, arriving, now_ns)
        if self.validate_every:
            before = self._events // self.validate_every
            self._events += len(events)
            if self._events // self.validate_every != before:
                self.core.validate()
        wake_ns = self.core.wake_at_ns
        if wake_ns is not None and (self._rings_ns is None or wake_ns < self._rings_ns):
            self._set_alarm(max(wake_ns, now_ns))

    def _set_alarm(self, instant_ns: int) -> None:
        self._rings_ns = instant_ns
        self.world.engine.at(instant_ns, self._ring, instant_ns)

    def _ring(self, set_for_ns: int) -> None:
        if self._rings_ns != set_for_ns:
            return  # an earlier one was set since
        self._rings_ns = None
        wake_ns = self.core.wake_at_ns
        if wake_ns is None:
            return
        if wake_ns <= set_for_ns:
            self.handle(TimerFired())
        else:
            self._set_alarm(wake_ns)

    # --- what goes out ----------------------------------------------------------------------------

    def _perform(
        self, commands: Sequence[Command], arriving: RequestId | None, now_ns: int
    ) -> None:
        """Carry out what was decided at once; each gateway is told in one message."""
        told: dict[GatewayId, list[Decision]] = {}
        for command in commands:
            if isinstance(command, Decide):
                decision = command.decision
                on = self._planned_on(decision)
                self.checkers.decided(decision, on=on, now_ns=now_ns)
                told.setdefault(command.gateway_id, []).append(decision)
            elif isinstance(command, SendAction):
                executor_id, action = command.executor_id, command.action
                self.checkers.sent(executor_id, action, now_ns=now_ns)
                executor = self._executors.get(executor_id)
                if executor is not None:
                    executor.to_executor.send(CONTROL_BYTES, executor.receive, action)
            else:
                self._perform_other(command)
        for gateway_id, decisions in told.items():
            if gateway_id in self._gateways:
                gateway, link = self._gateways[gateway_id]
                size_bytes = CONTROL_BYTES * len(decisions)
                link.send(size_bytes, gateway.decided, decisions, arriving)

    def _perform_other(self, command: SendCancel | DropExecutor | AnnounceModel) -> None:
        match command:
            case SendCancel(executor_id=executor_id, request_id=request_id, attempt=attempt):
                executor = self._executors.get(executor_id)
                if executor is not None:
                    link = executor.to_executor
                    link.send(CONTROL_BYTES, executor.cancel, request_id, attempt)
            case DropExecutor(executor_id=executor_id, reason=reason):
                if executor_id in self._executors:
                    self.checkers.dropped(executor_id, reason)
                    self.world.cut_off(self._executors[executor_id])
            case AnnounceModel(model_id=model_id, ready=ready):
                (self.ready.add if ready else self.ready.discard)(model_id)
            case _:
                assert_never(command)

    # --- what only the books know -----------------------------------------------------------------

    def _planned_on(self, decision: Decision) -> ExecutorId | None:
        """Say on which executor a promise that is just being told is planned."""
        if not isinstance(decision, Promise):
            return None
        request = self.core.books.requests.get(decision.request_id)
        return None if request is None else _place_of(request)

    def _work_on(self, executor_id: ExecutorId) -> list[RequestId]:
        """List the requests that are planned on an executor, or committed to it."""
        requests = self.core.books.requests.items()
        return [request_id for request_id, one in requests if _place_of(one) == executor_id]

    # --- joining and leaving ----------------------------------------------------------------------

    def join_gateway(self, gateway: SimGateway) -> None:
        """Take a gateway in."""
        self._gateways[gateway.gateway_id] = (gateway, self.world.network.link())
        for executor_id in self._executors:
            gateway.executor_joined(executor_id)

    def lose_gateway(self, gateway: SimGateway) -> None:
        """Notice that a gateway is gone."""
        del self._gateways[gateway.gateway_id]
        self.handle(GatewayLost(gateway_id=gateway.gateway_id))

    def join_executor(self, executor: SimExecutor) -> None:
        """Take an executor in."""
        self._executors[executor.executor_id] = executor
        for gateway, _ in self._gateways.values():
            gateway.executor_joined(executor.executor_id)
        residency = executor.residency
        self.handle(
            ExecutorJoined(
                executor_id=executor.executor_id,
                name=executor.name,
                device=describe(self.world),
                prepared=residency.known(Residency.COLD, Residency.WARM),
                resident=residency.known(Residency.WARM),
            )
        )

    def lose_executor(self, executor: SimExecutor) -> None:
        """Notice that an executor is gone."""
        if self._executors.pop(executor.executor_id, None) is None:
            return
        for gateway, link in self._gateways.values():
            link.send(CONTROL_BYTES, gateway.executor_lost, executor.executor_id)
        executor_id = executor.executor_id
        self.checkers.lost(executor_id, self._work_on(executor_id))
        self.handle(ExecutorLost(executor_id=executor.executor_id))


def _place_of(request: Request) -> ExecutorId | None:
    if request.batch is not None:
        return request.batch.place.executor.executor_id
    if request.committed is not None:
        return request.committed.cargo.place.executor.executor_id
    return None
