"""The controller of the simulated world: the very scheduler of production, and nothing else.

What `actors/controller.py` does over ports, over links: events in, commands out, one timer.
"""

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
    Decision,
    Descriptor,
    ExecutorId,
    GatewayId,
    GatewayReport,
    ModelId,
    Promise,
    RequestId,
)
from cw.sim.executor import SimExecutor
from cw.sim.gateway import CONTROL_BYTES, SimGateway
from cw.sim.lives import describe
from cw.sim.network import Link

if TYPE_CHECKING:
    from cw.sim.world import World


@attrs.define(eq=False)
class SimController:
    """The one decider."""

    world: "World"
    core: Scheduler
    validate_every: int = 0
    """Have the scheduler check its own invariants after so many events; 0: never."""
    ready: set[ModelId] = attrs.field(factory=set)
    _gateways: dict[GatewayId, tuple[SimGateway, Link]] = attrs.field(factory=dict)
    _executors: dict[ExecutorId, SimExecutor] = attrs.field(factory=dict)
    _alarm_ns: int | None = None
    _events: int = 0

    # --- what comes in ----------------------------------------------------------------------------

    def report(self, gateway: SimGateway, report: GatewayReport) -> None:
        """Hear from a gateway."""
        if gateway.gateway_id not in self._gateways:
            return
        if isinstance(report, Descriptor):
            self.handle(RequestArrived(descriptor=report), arriving=report.request_id)
        else:
            self.handle(report)

    def result(self, executor: SimExecutor, result: ActionResult) -> None:
        """Hear from an executor."""
        if executor.executor_id in self._executors:
            self.handle(ActionDone(executor_id=executor.executor_id, result=result))

    def handle(self, *events: Event, arriving: RequestId | None = None) -> None:
        """Have the scheduler decide, and carry it out."""
        now_ns = self.world.engine.now_ns
        for command in self.core.handle(*events, now_ns=now_ns):
            self._perform(command, arriving)
        self._events += len(events)
        if self.validate_every and self._events % self.validate_every == 0:
            self.core.validate()
        self._set_alarm()

    def _set_alarm(self) -> None:
        wake_ns = self.core.wake_at_ns
        if wake_ns is not None:
            wake_ns = max(wake_ns, self.world.engine.now_ns)
        if wake_ns != self._alarm_ns:
            self._alarm_ns = wake_ns
            if wake_ns is not None:
                self.world.engine.at(wake_ns, self._ring, wake_ns)

    def _ring(self, set_for_ns: int) -> None:
        if self._alarm_ns == set_for_ns:  # else it was set anew since
            self._alarm_ns = None
            self.handle(TimerFired())

    # --- what goes out ----------------------------------------------------------------------------

    def _perform(self, command: Command, arriving: RequestId | None) -> None:
        match command:
            case SendAction(executor_id=executor_id, action=action):
                self.world.checkers.sent(executor_id, action, now_ns=self.world.engine.now_ns)
                executor = self._executors.get(executor_id)
                if executor is not None:
                    executor.to_executor.send(CONTROL_BYTES, executor.receive, action)
            case SendCancel(executor_id=executor_id, request_id=request_id, attempt=attempt):
                executor = self._executors.get(executor_id)
                if executor is not None:
                    link = executor.to_executor
                    link.send(CONTROL_BYTES, executor.cancel, request_id, attempt)
            case Decide(gateway_id=gateway_id, decision=decision):
                self.world.checkers.decided(
                    decision, on=self._planned_on(decision), now_ns=self.world.engine.now_ns
                )
                if gateway_id in self._gateways:
                    gateway, link = self._gateways[gateway_id]
                    at_arrival = getattr(decision, "request_id", None) == arriving
                    link.send(CONTROL_BYTES, gateway.decided, decision, at_arrival)
            case DropExecutor(executor_id=executor_id, reason=reason):
                if executor_id in self._executors:
                    self.world.checkers.dropped(executor_id, reason)
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
        self.world.checkers.lost(executor_id, self._work_on(executor_id))
        self.handle(ExecutorLost(executor_id=executor.executor_id))


def _place_of(request: Request) -> ExecutorId | None:
    if request.batch is not None:
        return request.batch.place.executor.executor_id
    if request.committed is not None:
        return request.committed.cargo.place.executor.executor_id
    return None
