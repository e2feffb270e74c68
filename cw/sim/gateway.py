"""A gateway of the simulated world: what `actors/gateway.py` and its carrier do, without payloads.

It tells the controller of each arrival, carries inputs where it is told to, takes outputs of the
current attempt only, and answers at the deadline whatever it knows.
"""

import heapq
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import attrs

from cw.messages import (
    NO_DEADLINE_NS,
    Abandon,
    ActionId,
    Assign,
    Attempt,
    AttemptFailed,
    Cancel,
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
    from cw.sim.controller import SimController
    from cw.sim.world import World

CONTROL_BYTES: Final = 128
"""A descriptor, a decision or a settlement on the wire, about."""

_LOST: Final = "the executor was lost"


@attrs.define(eq=False)
class SimGateway:
    """One gateway."""

    world: "World"
    gateway_id: GatewayId
    controller: "SimController"
    to_controller: Link
    to_executors: dict[ExecutorId, Link] = attrs.field(factory=dict)
    alive: bool = True
    _open: dict[RequestId, RequestRecord] = attrs.field(factory=dict)
    _deadlines: list[tuple[int, RequestId]] = attrs.field(factory=list)
    """A heap, also of requests that were answered before: one alarm serves them all."""
    _alarm_ns: int | None = None
    _sequence: int = 0

    @property
    def open_requests(self) -> int:
        """How many wait for their answer."""
        return len(self._open)

    # --- clients ----------------------------------------------------------------------------------

    def arrive(
        self,
        model: int,
        model_id: ModelId,
        slo_ns: int | None,
        *,
        tenant: int = 0,
        ask_next: Callable[[RequestRecord], None] | None = None,
    ) -> RequestRecord:
        """Take in a request.

        Args:
            model: Its model's index.
            model_id: Its model.
            slo_ns: From now until its deadline; None: best effort.
            tenant: Who asks.
            ask_next: Told of its end.
        """
        world = self.world
        now_ns = world.engine.now_ns
        self._sequence += 1
        request_id = request_id_for(self.gateway_id, self._sequence)
        record = RequestRecord(
            request_id=request_id,
            model=model,
            arrival_ns=now_ns,
            deadline_ns=NO_DEADLINE_NS if slo_ns is None else now_ns + slo_ns,
            tenant=tenant,
            ask_next=ask_next,
        )
        world.journal.add(record)
        self.controller.checkers.arrived(record)
        self._open[request_id] = record
        if not record.is_best_effort:
            heapq.heappush(self._deadlines, (record.deadline_ns, request_id))
            if self._alarm_ns is None or record.deadline_ns < self._alarm_ns:
                self._set_alarm(record.deadline_ns)
        descriptor = Descriptor(
            request_id=request_id,
            model_id=model_id,
            arrival_ns=now_ns,
            deadline_ns=record.deadline_ns,
            tenant_id=TenantId(tenant),
        )
        self.to_controller.send(CONTROL_BYTES, self.controller.arrive, self, descriptor)
        return record

    def cancel(self, request_id: RequestId) -> None:
        """Have the caller of a request hang up, unless it has been answered."""
        record = self._open.get(request_id)
        if record is None or not self.alive:
            return
        attempt = Attempt(record.attempts)
        link = self.to_executors.get(record.on) if record.on is not None else None
        if link is not None:
            executor = self.world.executors[record.on]  # type: ignore[index]
            link.send(CONTROL_BYTES, executor.cancel, request_id, attempt)
        self._end(record, End.FAILED, "cancelled")
        self._tell([Cancel(request_id=request_id, attempt=attempt)])

    # --- what the controller tells ----------------------------------------------------------------

    def decided(self, decisions: Sequence[Decision], arriving: RequestId | None) -> None:
        """Hear from the controller.

        Args:
            decisions: In their order.
            arriving: The request whose arrival they were made at, if it was one.
        """
        if not self.alive:
            return
        for decision in decisions:
            if isinstance(decision, Assign):
                self._carry(decision)
                continue
            record = self._open.get(decision.request_id)
            if record is None or record.attempts != decision.attempt:
                continue  # answered already, or of an attempt that is over
            if isinstance(decision, Promise):
                self._promise(record, decision.predicted_finish_ns)
            elif isinstance(decision, Refuse):
                record.decided_at_arrival = decision.request_id == arriving
                self._end(record, _unless_promised(record, End.REFUSED), _reason(decision))
            else:
                self._end(record, _unless_promised(record, End.FAILED), _reason(decision))

    def _promise(self, record: RequestRecord, predicted_finish_ns: int) -> None:
        record.predicted_finish_ns = predicted_finish_ns
        if record.promised_ns is None:
            record.promised_ns = self.world.engine.now_ns

    def _carry(self, assign: Assign) -> None:
        """Bring the inputs of those requests that still wait."""
        slots: list[tuple[int, RequestId, Attempt]] = []
        executor = self.world.executors[assign.executor_id]
        for place in assign.assignments:
            record = self._open.get(place.request_id)
            if record is None or place.attempt < record.attempts:
                continue
            record.attempts = place.attempt
            record.on = assign.executor_id
            record.executors = (*record.executors, executor.name)
            if not record.is_best_effort:
                self._promise(record, assign.predicted_finish_ns)
            slots.append((place.position, place.request_id, place.attempt))
        if not slots:
            return
        link = self.to_executors.get(assign.executor_id)
        if link is None:
            self._fail([(request_id, attempt) for _, request_id, attempt in slots], _LOST)
            return
        size_bytes = self.world.request_bytes * len(slots)
        link.send(size_bytes, executor.bring, assign.action_id, self, slots)

    # --- what executors tell ----------------------------------------------------------------------

    def outputs(
        self, action_id: ActionId, outcome: Outcome, slots: Sequence[tuple[RequestId, Attempt]]
    ) -> None:
        """Take what an executor gave for these requests: outputs, where `outcome` is OK."""
        if not self.alive:
            return
        if outcome is not Outcome.OK:
            self._fail(slots, f"action {action_id}: {outcome.value}")
            return
        now_ns = self.world.engine.now_ns
        settled: list[Settled | AttemptFailed | Cancel] = []
        for request_id, attempt in slots:
            record = self._open.get(request_id)
            # At the deadline itself the answer has been given: what comes then is too late.
            if record is None or record.attempts != attempt or now_ns >= record.deadline_ns:
                continue
            self._end(record, End.KEPT, "")
            settled.append(self._settled(record, SettledAs.KEPT))
        self._tell(settled)

    def _fail(self, slots: Sequence[tuple[RequestId, Attempt]], detail: str) -> None:
        failed: list[Settled | AttemptFailed | Cancel] = []
        for request_id, attempt in slots:
            record = self._open.get(request_id)
            if record is not None and record.attempts == attempt:
                record.on = None
                failed.append(AttemptFailed(request_id=request_id, attempt=attempt, detail=detail))
        self._tell(failed)

    def executor_joined(self, executor_id: ExecutorId) -> None:
        """Connect to an executor."""
        self.to_executors[executor_id] = self.world.network.link()

    def executor_lost(self, executor_id: ExecutorId) -> None:
        """Give up what was asked of an executor."""
        self.to_executors.pop(executor_id, None)
        lost = [
            (request_id, Attempt(record.attempts))
            for request_id, record in self._open.items()
            if record.on == executor_id
        ]
        self._fail(lost, _LOST)

    # --- ends -------------------------------------------------------------------------------------

    def _set_alarm(self, instant_ns: int) -> None:
        self._alarm_ns = instant_ns
        self.world.engine.at(instant_ns, self._ring, instant_ns)

    def _ring(self, set_for_ns: int) -> None:
        """Answer what is due, and forget what was answered before."""
        if self._alarm_ns != set_for_ns or not self.alive:
            return  # an earlier one was set since
        now_ns, deadlines, due = self.world.engine.now_ns, self._deadlines, self._open
        settled: list[Settled | AttemptFailed | Cancel] = []
        while deadlines and (deadlines[0][0] <= now_ns or deadlines[0][1] not in due):
            _, request_id = heapq.heappop(deadlines)
            record = due.get(request_id)
            if record is not None:
                promised = record.promised_ns is not None
                self._end(
                    record,
                    End.BROKEN if promised else End.REFUSED,
                    "late" if promised else "overload",
                )
                settled.append(self._settled(record, SettledAs.LATE))
        self._alarm_ns = None
        if deadlines:
            self._set_alarm(deadlines[0][0])
        self._tell(settled)

    def die(self) -> None:
        """Stop for good; its clients get nothing any more."""
        self.alive = False
        for record in list(self._open.values()):
            self._end(record, _unless_promised(record, End.FAILED), "gatewayLost")

    def _end(self, record: RequestRecord, end: End, reason: str) -> None:
        del self._open[record.request_id]
        self.world.journal.close(record, end, reason, now_ns=self.world.engine.now_ns)
        self.controller.checkers.answered(record)
        if record.ask_next is not None:
            record.ask_next(record)

    def _settled(self, record: RequestRecord, outcome: SettledAs) -> Settled:
        return Settled(
            request_id=record.request_id,
            attempt=Attempt(record.attempts),
            outcome=outcome,
            finished_ns=record.ended_ns,
        )

    def _tell(self, reports: list[Settled | AttemptFailed | Cancel]) -> None:
        if reports:
            size_bytes = CONTROL_BYTES * len(reports)
            self.to_controller.send(size_bytes, self.controller.report, self, reports)


def _unless_promised(record: RequestRecord, end: End) -> End:
    return end if record.promised_ns is None else End.BROKEN


def _reason(decision: Refuse | Abandon) -> str:
    if isinstance(decision, Refuse):
        return decision.refusal.reason.value
    return decision.failure.kind.value
