"""Lifecycle: how a request's attempts begin and end, and that it ends exactly once.

The concept: a request leaves the books by one of five doors, each of which counts it once: settled
by its gateway, refused, abandoned, cancelled, or gone with its gateway. Whatever becomes of an
attempt in between (its executor died, its inputs came late), the request either gets another
attempt or leaves by one of these doors.

Neighbours: `scheduler.py` maps events to these steps; policies find places.
"""

import enum
import heapq
from collections import deque
from typing import Final

import attrs

from cw.core import ledger, placement
from cw.core.best_effort import TRIES_MAX, BestEffort
from cw.core.books import Books, ModelBooks
from cw.core.commands import Decide, SendCancel
from cw.core.dispatch import Dispatcher
from cw.core.policies.policy import Policy
from cw.core.requests import Request, RequestState
from cw.core.timeline import NEVER_NS
from cw.messages import (
    Abandon,
    Attempt,
    Failure,
    FailureKind,
    Promise,
    Refusal,
    RefusalReason,
    Refuse,
    RequestId,
    SettledAs,
)
from cw.units import SECOND

STORIES_REMEMBERED: Final = 512
SETTLE_GRACE_NS: Final = 5 * SECOND
"""A gateway answers at the deadline. One that has not reported this long after never will."""
SWEEP_NS: Final = 1 * SECOND
"""Least time between two looks at all open requests for those whose gateway never settled them."""


@attrs.define(eq=False)
class Lifecycle:
    """Attempts and ends. Instants are cluster time, ns."""

    books: Books
    policy: Policy
    dispatcher: Dispatcher
    best_effort: BestEffort
    tally: ledger.Tally = attrs.field(factory=ledger.Tally)
    """Of requests with an SLO."""
    best_effort_tally: ledger.Tally = attrs.field(factory=ledger.Tally)
    _alarms: list[tuple[int, RequestId]] = attrs.field(factory=list)
    """When to look at those who wait: at the end of their hold, or at their deadline."""
    _sweep_ns: int = 0
    _stories: deque[Request] = attrs.field(factory=lambda: deque(maxlen=STORIES_REMEMBERED))

    # --- beginnings -------------------------------------------------------------------------------

    def open(self, request: Request, now_ns: int) -> None:
        """Take a new request into the books."""
        requests = self.books.requests
        assert request.request_id not in requests
        sweep_ns = request.deadline_ns + SETTLE_GRACE_NS
        if sweep_ns < self._sweep_ns or not requests:
            self._sweep_ns = sweep_ns
        requests[request.request_id] = request
        request.note(now_ns, "arrived, %.3f ms left", (request.deadline_ns - now_ns) / 1e6)
        if request.promised:
            request.model.open += 1

    def hold(self, request: Request) -> None:
        """Come back to a request that waits, when its hold ends or at its deadline."""
        until_ns = request.deadline_ns if request.promised else request.hold_until_ns
        heapq.heappush(self._alarms, (until_ns, request.request_id))

    def tell_promises(self, now_ns: int) -> None:
        """Tell gateways of what was planned in this step and not assigned in it, too."""
        fresh, self.books.fresh = self.books.fresh, []
        commands = self.dispatcher.commands
        for request in fresh:
            if not request.promised:
                request.promised = True
                request.model.open += 1
            if request.state is RequestState.PLANNED:
                assert request.batch is not None
                name = request.batch.place.executor.name
                request.note(now_ns, "promised, planned on %s", name)
                promise = Promise(
                    request_id=request.request_id,
                    attempt=request.attempt,
                    predicted_finish_ns=request.predicted_ns,
                )
                commands.append(Decide(gateway_id=request.gateway_id, decision=promise))

    # --- attempts ---------------------------------------------------------------------------------

    def withdraw(self, request: Request) -> None:
        """Take a request out of wherever it stands, leaving it WAITING in no queue."""
        match request.state:
            case RequestState.WAITING if request.is_best_effort:
                self.best_effort.take_out(request)
            case RequestState.WAITING:
                self.books.dequeue(request)
            case RequestState.PLANNED:
                batch = request.batch
                assert batch is not None
                batch.remove(request)
                plan = batch.place.executor.plan
                if batch.requests:
                    plan.changed()
                else:
                    plan.take(batch)
                    batch.place.batches.remove(batch)
                batch.place.executor.freed = True
                self.books.dirty[batch.place.executor.executor_id] = batch.place.executor
                request.batch = None
            case RequestState.COMMITTED:
                committed = request.committed
                assert committed is not None
                riders = committed.cargo.requests
                riders[riders.index(request)] = None
                executor_id = committed.cargo.place.executor.executor_id
                if executor_id in self.books.executors:
                    self.dispatcher.commands.append(
                        SendCancel(
                            executor_id=executor_id,
                            request_id=request.request_id,
                            attempt=request.attempt,
                        )
                    )
            case RequestState.RAN:
                pass
        if request.state is not RequestState.WAITING:
            request.move(RequestState.WAITING)

    def retry(self, request: Request, now_ns: int, why: str, *, kind: FailureKind) -> None:
        """Begin the next attempt of a request that stands in no place, if time allows."""
        request.attempt = Attempt(request.attempt + 1)
        request.note(now_ns, f"{why}; attempt {request.attempt}")
        if request.is_best_effort:
            self._wait_again(request, why, now_ns, kind=kind)
        else:
            self.place_promised(request, now_ns, kind=kind)

    def _wait_again(self, request: Request, why: str, now_ns: int, *, kind: FailureKind) -> None:
        """Put a best-effort request back into its line, unless it has failed too often."""
        if request.model.removed:
            message = "its model was removed while it ran; ask for another one"
            self.abandon(request, Failure(kind=FailureKind.UNKNOWN_MODEL, message=message), now_ns)
        elif request.tries >= TRIES_MAX:
            message = f"given up after {request.tries} attempts, the last of which failed: {why}"
            self.abandon(request, Failure(kind=kind, message=message), now_ns)
        else:
            self.best_effort.put_back(request)

    def place_promised(
        self, request: Request, now_ns: int, *, force: bool = False, kind: FailureKind
    ) -> None:
        """Find a place for a promised request that stands in none, or give it up."""
        places = [each for each in request.model.places.values() if each.costs.by_count]
        least_ns = min((each.costs.by_count[1] for each in places), default=None)
        if not force and (least_ns is None or now_ns + least_ns > request.deadline_ns):
            self.abandon(
                request,
                Failure(kind=kind, message="no time is left for another attempt"),
                now_ns,
            )
            return
        # What it was promised before may be out of reach; its deadline still counts.
        request.due_ns = request.deadline_ns - self.books.allowance_ns
        self.policy.restore(request, force=force, now_ns=now_ns)
        for place in places:
            self.books.dirty[place.executor.executor_id] = place.executor
        if request.state is RequestState.WAITING:
            self.hold(request)
            placement.note_shortage(self.books, request.model, now_ns)

    def ring(self, now_ns: int) -> None:
        """Decide about those whose time is up."""
        while self._alarms and self._alarms[0][0] <= now_ns:
            request = self.books.requests.get(heapq.heappop(self._alarms)[1])
            if request is None or request.state is not RequestState.WAITING:
                continue
            if request.promised:
                if now_ns >= request.deadline_ns:
                    self._give_no_room(request, now_ns)
                continue
            refusal = self.policy.decide(request, now_ns=now_ns)
            if refusal is not None:
                self._refuse(request, refusal, now_ns, at_arrival=False)
        if now_ns >= self._sweep_ns and self.books.requests:
            self._sweep(now_ns)

    def give_up(self, now_ns: int) -> None:
        """Decide now about those whom the policy gives up before their time."""
        given_up, self.books.given_up = self.books.given_up, []
        for request in given_up:
            is_open = self.books.requests.get(request.request_id) is request
            if is_open and request.state is RequestState.WAITING and not request.promised:
                refusal = self.policy.decide(request, now_ns=now_ns)
                if refusal is not None:
                    self._refuse(request, refusal, now_ns, at_arrival=False)

    def _give_no_room(self, request: Request, now_ns: int) -> None:
        """Abandon a promised request that still waits for another place at its deadline."""
        kind = FailureKind.EXECUTOR_LOST if request.executor_lost else FailureKind.LATE
        self.books.dequeue(request)
        self.abandon(request, Failure(kind=kind, message="no executor had room"), now_ns)

    def _sweep(self, now_ns: int) -> None:
        """End the requests that their gateways never settled."""
        requests = self.books.requests
        longest_ns = now_ns - SETTLE_GRACE_NS
        for request in [each for each in requests.values() if each.deadline_ns <= longest_ns]:
            self.withdraw(request)
            self._count_broken(request)
            self._close(request, now_ns, "its gateway never settled it")
        if requests:
            first_ns = min(request.deadline_ns for request in requests.values())
            self._sweep_ns = max(now_ns + SWEEP_NS, first_ns + SETTLE_GRACE_NS)

    @property
    def next_alarm_ns(self) -> int:
        """Say when `ring` wants to be called; `NEVER_NS` if no request is open."""
        alarms, requests = self._alarms, self.books.requests
        if not requests:
            alarms.clear()
            return NEVER_NS
        while alarms:
            request = requests.get(alarms[0][1])
            if request is not None and request.state is RequestState.WAITING:
                return min(alarms[0][0], self._sweep_ns)
            heapq.heappop(alarms)
        return self._sweep_ns

    # --- ends -------------------------------------------------------------------------------------

    def tally_of(self, request: Request) -> ledger.Tally:
        """Say where a request is counted."""
        return self.best_effort_tally if request.is_best_effort else self.tally

    def arrive_best_effort(self, request: Request, refusal: Refusal | None, now_ns: int) -> None:
        """Let an open best-effort request wait, or refuse it; `refusal` says that it can't be."""
        refusal = refusal or self.best_effort.take_in(request)
        if refusal is not None:
            self._refuse(request, refusal, now_ns, at_arrival=True)

    def refuse_removed(self, model: ModelBooks, now_ns: int) -> None:
        """Refuse the best-effort requests that wait for a model that was removed."""
        for request in self.best_effort.of_model(model.model_id):
            self.withdraw(request)
            message = f"model {model.spec.name} was removed"
            refusal = Refusal(reason=RefusalReason.NOT_READY, message=message)
            self._refuse(request, refusal, now_ns, at_arrival=False)

    def refuse_at_arrival(self, request: Request, refusal: Refusal, now_ns: int) -> None:
        """Refuse a request that stands in no place."""
        self._refuse(request, refusal, now_ns, at_arrival=True)

    def _refuse(self, request: Request, refusal: Refusal, now_ns: int, *, at_arrival: bool) -> None:
        self.tally_of(request).refuse(refusal.reason, at_arrival=at_arrival)
        decision = Refuse(request_id=request.request_id, attempt=request.attempt, refusal=refusal)
        self.dispatcher.commands.append(Decide(gateway_id=request.gateway_id, decision=decision))
        self._close(request, now_ns, "refused: %s", refusal.reason)

    def abandon(self, request: Request, failure: Failure, now_ns: int) -> None:
        """Give up a request that stands in no place."""
        if request.promised:
            self._count_broken(request)
        else:
            self.tally_of(request).fail(failure.kind)
        decision = Abandon(request_id=request.request_id, attempt=request.attempt, failure=failure)
        self.dispatcher.commands.append(Decide(gateway_id=request.gateway_id, decision=decision))
        self._close(request, now_ns, "abandoned: %s", failure.kind)

    def settle(self, request: Request, outcome: SettledAs, finished_ns: int, now_ns: int) -> None:
        """Its gateway answered it, finally, at `finished_ns`."""
        if outcome is SettledAs.KEPT and request.state is RequestState.RAN:  # nearly all
            self.books.learn_delivery(max(0, finished_ns - request.ended_ns), now_ns=now_ns)
            self.tally_of(request).keep()
            self._close(request, now_ns, "settled: %s", outcome)
            return
        committed = request.committed if request.state is RequestState.COMMITTED else None
        if outcome is SettledAs.KEPT:
            self._ran_already(request)
        self.withdraw(request)
        match outcome:
            case SettledAs.KEPT:
                self.tally_of(request).keep()
            case SettledAs.CANCELLED:
                self.tally_of(request).fail(FailureKind.CANCELLED)
            case SettledAs.LATE | SettledAs.FAILED if not request.promised:
                self.tally_of(request).fail(outcome.value)
            case _ if committed is not None and not request.cause:
                # Its action will tell why, or the loss of its executor.
                committed.cargo.late.append(request)
            case _:
                self._count_broken(request)
        self._close(request, now_ns, "settled: %s", outcome)

    def _ran_already(self, request: Request) -> None:
        """Note that outputs came before the action's result did: there is nothing to cancel."""
        if request.state is RequestState.COMMITTED:
            assert request.committed is not None
            riders = request.committed.cargo.requests
            riders[riders.index(request)] = None
            request.move(RequestState.RAN)

    def cancel(self, request: Request, now_ns: int, why: str) -> None:
        """Nobody waits for the answer any more."""
        self.withdraw(request)
        self.tally_of(request).fail(FailureKind.CANCELLED)
        self._close(request, now_ns, why)

    def count_late(self, request: Request, cause: str) -> None:
        """Count a broken promise of which the cause became known only now."""
        request.cause = request.cause or cause
        self._count_broken(request)

    def _count_broken(self, request: Request) -> None:
        lost = ledger.EXECUTOR_LOST if request.executor_lost else ""
        self.tally.break_promise(lost or request.cause or ledger.STARTED_LATE)

    def _close(
        self, request: Request, now_ns: int, what: str, detail: enum.Enum | None = None
    ) -> None:
        request.note(now_ns, what, detail)
        model = request.model
        del self.books.requests[request.request_id]
        if request.promised:
            model.open -= 1
        if model.removed:
            self.books.leaving[model.model_id] = model
        request.committed = None
        self._stories.append(request)

    def story(self, request_id: RequestId) -> list[str]:
        """Tell what became of a request, one line a step; of ended ones, the last are known."""
        request = self.books.requests.get(request_id)
        ended = (each for each in reversed(self._stories) if each.request_id == request_id)
        request = request or next(ended, None)
        return request.story() if request is not None else []
