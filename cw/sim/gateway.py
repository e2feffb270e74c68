"""A gateway of the simulated world: what `actors/gateway.py` and its carrier do, without payloads.

It tells the controller of each arrival, carries inputs where it is told to, takes outputs of the
current attempt only, and answers at the deadline whatever it knows.
"""

from typing import TYPE_CHECKING, Final

import attrs

from cw.messages import (
    Abandon,
    ActionId,
    Assign,
    Attempt,
    AttemptFailed,
    Decision,
    Descriptor,
    ExecutorId,
    GatewayId,
    ModelId,
    Outcome,
    Promise,
    Refuse,
    RequestId,
    Settled,
    SettledAs,
    TenantId,
    request_id_for,
)
from cw.sim.journal import End, RequestRecord
from cw.sim.network import Link

if TYPE_CHECKING:
    from cw.sim.world import World

CONTROL_BYTES: Final = 128
"""A descriptor, a decision or a settlement on the wire, about."""


_FIRST: Final = Attempt(1)


@attrs.define(eq=False)
class Open:
    """A request between its arrival and its answer."""

    record: RequestRecord
    attempt: Attempt = _FIRST
    promised: bool = False
    executor_id: ExecutorId | None = None


@attrs.define(eq=False)
class SimGateway:
    """One gateway."""

    world: "World"
    gateway_id: GatewayId
    to_controller: Link
    to_executors: dict[ExecutorId, Link] = attrs.field(factory=dict)
    alive: bool = True
    _open: dict[RequestId, Open] = attrs.field(factory=dict)
    _sequence: int = 0

    def arrive(self, model: int, model_id: ModelId, slo_ns: int) -> None:
        """Take in a request."""
        now_ns = self.world.engine.now_ns
        self._sequence += 1
        record = RequestRecord(
            request_id=request_id_for(self.gateway_id, self._sequence),
            model=model,
            arrival_ns=now_ns,
            deadline_ns=now_ns + slo_ns,
        )
        self.world.journal.add(record)
        self.world.checkers.arrived(record)
        self._open[record.request_id] = Open(record)
        self.world.engine.at(record.deadline_ns, self._deadline, record.request_id)
        descriptor = Descriptor(
            request_id=record.request_id,
            model_id=model_id,
            arrival_ns=now_ns,
            deadline_ns=record.deadline_ns,
            tenant_id=TenantId(self.world.scenario.models[model].tenant),
        )
        self.to_controller.send(CONTROL_BYTES, self.world.controller.report, self, descriptor)

    def decided(self, decision: Decision, decided_at_arrival: bool) -> None:
        """Hear from the controller."""
        if not self.alive:
            return
        if isinstance(decision, Assign):
            self._carry(decision)
            return
        request = self._open.get(decision.request_id)
        if request is None or request.attempt != decision.attempt:
            return  # answered already, or of an attempt that is over
        record = request.record
        match decision:
            case Promise():
                self._promise(request, decision.predicted_finish_ns)
            case Refuse(refusal=refusal):
                record.decided_at_arrival = decided_at_arrival
                end = End.BROKEN if request.promised else End.REFUSED
                self._end(request, end, refusal.reason.value)
            case Abandon(failure=failure):
                end = End.BROKEN if request.promised else End.FAILED
                self._end(request, end, failure.kind.value)

    def _promise(self, request: Open, predicted_finish_ns: int) -> None:
        request.promised = True
        request.record.predicted_finish_ns = predicted_finish_ns
        if request.record.promised_ns is None:
            request.record.promised_ns = self.world.engine.now_ns

    def _carry(self, assign: Assign) -> None:
        """Bring the inputs of those requests that still wait."""
        slots: list[tuple[int, RequestId, Attempt]] = []
        link = self.to_executors.get(assign.executor_id)
        for place in assign.assignments:
            request = self._open.get(place.request_id)
            if request is None or place.attempt < request.attempt:
                continue
            request.attempt = place.attempt
            request.executor_id = assign.executor_id
            request.record.attempts = place.attempt
            self._promise(request, assign.predicted_finish_ns)
            slots.append((place.position, place.request_id, place.attempt))
        if not slots:
            return
        if link is None:
            for _, request_id, attempt in slots:
                self._fail(request_id, attempt, "the executor was lost")
            return
        executor = self.world.executors[assign.executor_id]
        for _, request_id, _ in slots:
            self._open[request_id].record.executors.append(executor.name)
        size_bytes = self.world.request_bytes * len(slots)
        link.send(size_bytes, executor.bring, assign.action_id, self, slots)

    def outputs(
        self,
        action_id: ActionId,
        outcome: Outcome,
        slots: list[tuple[RequestId, Attempt, bool]],
    ) -> None:
        """Take what an executor gave: per slot, whether there are outputs."""
        if not self.alive:
            return
        for request_id, attempt, ran in slots:
            if not ran:
                self._fail(request_id, attempt, f"action {action_id}: {outcome.value}")
                continue
            request = self._open.get(request_id)
            if request is None or request.attempt != attempt:
                continue
            # At the deadline itself the answer has been given: what comes then is too late.
            if self.world.engine.now_ns < request.record.deadline_ns:
                self._end(request, End.KEPT, "")
                self._settle(request, SettledAs.KEPT)

    def _fail(self, request_id: RequestId, attempt: Attempt, detail: str) -> None:
        request = self._open.get(request_id)
        if request is None or request.attempt != attempt:
            return
        request.executor_id = None
        report = AttemptFailed(request_id=request_id, attempt=attempt, detail=detail)
        self.to_controller.send(CONTROL_BYTES, self.world.controller.report, self, report)

    def executor_joined(self, executor_id: ExecutorId) -> None:
        """Connect to an executor."""
        self.to_executors[executor_id] = self.world.network.link()

    def executor_lost(self, executor_id: ExecutorId) -> None:
        """Give up what was asked of an executor."""
        self.to_executors.pop(executor_id, None)
        for request_id, request in list(self._open.items()):
            if request.executor_id == executor_id:
                self._fail(request_id, request.attempt, "the executor was lost")

    def _deadline(self, request_id: RequestId) -> None:
        request = self._open.get(request_id)
        if request is None or not self.alive:
            return
        if request.promised:
            self._end(request, End.BROKEN, "late")
        else:
            self._end(request, End.REFUSED, "overload")
        self._settle(request, SettledAs.LATE)

    def die(self) -> None:
        """Stop for good; its clients get nothing any more."""
        self.alive = False
        for request in list(self._open.values()):
            self._end(request, End.BROKEN if request.promised else End.FAILED, "gatewayLost")

    def _end(self, request: Open, end: End, reason: str) -> None:
        del self._open[request.record.request_id]
        now_ns = self.world.engine.now_ns
        self.world.journal.close(request.record, end, reason, now_ns=now_ns)
        self.world.checkers.answered(request.record)

    def _settle(self, request: Open, outcome: SettledAs) -> None:
        settled = Settled(
            request_id=request.record.request_id,
            attempt=request.attempt,
            outcome=outcome,
            finished_ns=self.world.engine.now_ns,
        )
        self.to_controller.send(CONTROL_BYTES, self.world.controller.report, self, settled)
