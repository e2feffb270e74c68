"""Results: what is learnt from an action's end, and what becomes of those who rode in it.

The concept: a result is the only sight of an executor's inside. It teaches the timeline, the
profiles and the pipe's delay; it says which riders ran; and where it contradicts the books (weights
not there, pages gone, model unknown) the books are wrong and are corrected, never defended.

==================  ============================================================================
outcome             consequence beside another attempt for the riders
==================  ============================================================================
OK                  riders that ran are RAN; LOADed weights are warm
TOO_LATE            none: the timeline learns the delay from the result's other times
INPUTS_LATE         none
NOT_RESIDENT        the weights are cold here; what was planned there finds another place
PAGES_EXHAUSTED     all idle weights are unloaded; if there are none, the executor is dropped
UNKNOWN_MODEL       the place is brought up anew
CANCELLED           none
INVALID             none (of a PREPARE: the place has FAILED)
HOST_MEMORY_FULL    the place has FAILED; the model gets one on another executor
STALE_EPOCH         the executor obeys another controller: dropped
DEVICE_FAULT        dropped
==================  ============================================================================

Neighbours: `scheduler.py` calls it; `lifecycle.py` and `registration.py` carry on from here.
"""

import attrs

from cw.core import ledger
from cw.core.books import Books, ExecutorBooks, Place, Stage
from cw.core.dispatch import Dispatcher
from cw.core.lifecycle import Lifecycle
from cw.core.profile import own_ns
from cw.core.registration import Registrar
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.core.timeline import Committed
from cw.core.work import Work
from cw.messages import ActionResult, FailureKind, Infer, Load, Outcome, Prepare


@attrs.define(eq=False)
class Results:
    """Takes results in. Instants are cluster time, ns."""

    books: Books
    lifecycle: Lifecycle
    registrar: Registrar

    @property
    def _dispatcher(self) -> Dispatcher:
        return self.registrar.dispatcher

    def take(self, executor: ExecutorBooks, result: ActionResult, now_ns: int) -> str | None:
        """Take one result in.

        Returns:
            Why the executor can't be used any more, or None.
        """
        # These leave the action outstanding: its riders are found again when the executor is lost.
        if result.outcome is Outcome.DEVICE_FAULT:
            return f"{executor.name}: its device failed: {result.detail or 'no detail'}"
        if result.outcome is Outcome.STALE_EPOCH:
            return f"{executor.name} obeys a later epoch than this controller's"
        committed = self._finish(executor, result)
        if committed is None:
            return None  # An UNLOAD's, or of an action that was given up.
        place = committed.cargo.place
        executor.pipe.learn_back(end_ns=result.end_ns, now_ns=now_ns)
        fault = None
        match committed.action:
            case Load():
                fault = self._on_load(place, result, now_ns)
            case Infer() if not committed.cargo.probe:
                self._on_infer(executor, committed, result, now_ns)
            case Prepare() | Infer():
                self.registrar.on_result(place, committed.action, result, now_ns=now_ns)
        if result.outcome is Outcome.NOT_RESIDENT:
            self._went_cold(place, now_ns)
        elif result.outcome is Outcome.UNKNOWN_MODEL:
            self._went_cold(place, now_ns)
            if place.stage is Stage.READY:
                self.registrar.again(place)
        if place.model.removed:
            self.books.leaving[place.model.model_id] = place.model
        return fault

    def _finish(self, executor: ExecutorBooks, result: ActionResult) -> Committed[Work] | None:
        committed = executor.infer.finish(
            result.action_id, start_ns=result.start_ns, end_ns=result.end_ns
        )
        if committed is None and executor.load is not executor.infer:
            committed = executor.load.finish(
                result.action_id, start_ns=result.start_ns, end_ns=result.end_ns
            )
        if committed is not None:
            committed.cargo.place.in_flight -= 1
            committed.cargo.place.model.in_flight -= 1
            executor.plan.changed()
            executor.freed, executor.due_ns = True, 0
            self.books.dirty[executor.executor_id] = executor
        return committed

    # --- INFER ------------------------------------------------------------------------------------

    def _on_infer(
        self,
        executor: ExecutorBooks,
        committed: Committed[Work],
        result: ActionResult,
        now_ns: int,
    ) -> None:
        work = committed.cargo
        ok = result.outcome is Outcome.OK
        if ok:
            self._learn(executor, committed, result)
        for request in work.late:
            self.lifecycle.count_late(request, self._cause(committed, result, request))
        ran, end_ns = result.ran, result.end_ns
        for position, rider in enumerate(work.requests):
            if rider is None:
                continue
            if ok and (position >= len(ran) or ran[position]):
                in_time = end_ns <= rider.deadline_ns  # as nearly all: there is no more to find out
                rider.cause = (
                    ledger.DELIVERED_LATE if in_time else self._cause(committed, result, rider)
                )
                rider.move(RequestState.RAN)
                rider.ended_ns = end_ns
                rider.note(now_ns, "ran, ended %.3f ms ago", (now_ns - end_ns) / 1e6)
                continue
            rider.cause = ledger.INPUTS_LATE if ok else self._cause(committed, result, rider)
            rider.move(RequestState.WAITING)
            rider.committed = None
            why = "its inputs came late" if ok else f"its action ended {result.outcome.value}"
            self.lifecycle.retry(rider, now_ns, why, kind=FailureKind.LATE)

    def _learn(
        self, executor: ExecutorBooks, committed: Committed[Work], result: ActionResult
    ) -> None:
        action = committed.action
        assert isinstance(action, Infer)
        place = committed.cargo.place
        self.books.profiles.learn_batch(
            place.costs,
            place.model.spec.program_sha256,
            action.batch_size,
            executor.key,
            own_ns(result),
        )
        executor.pipe.learn_ready(sent_ns=committed.sent_ns, ready_ns=result.ready_ns)
        # From when it could have started to its end, less its time on the device.
        could_ns = max(committed.free_ns, result.ready_ns)
        executor.pipe.learn_overhead(
            result.end_ns - min(could_ns, result.start_ns) - result.device_ns
        )
        self.lifecycle.tally.predicted(
            predicted_end_ns=committed.predicted_end_ns, end_ns=result.end_ns
        )

    @staticmethod
    def _cause(committed: Committed[Work], result: ActionResult, request: Request) -> str:
        return ledger.cause_of(
            result,
            expected_ns=committed.cargo.device_ns,
            planned_start_ns=committed.predicted_end_ns - committed.busy_ns,
            deadline_ns=request.deadline_ns,
        )

    def attempt_failed(self, request: Request, detail: str, now_ns: int) -> None:
        """A gateway got no output of the current attempt: make another if time allows."""
        self.lifecycle.withdraw(request)
        request.committed = None
        request.cause = request.cause or ledger.INPUTS_LATE
        self.lifecycle.retry(
            request, now_ns, f"attempt failed: {detail}", kind=FailureKind.EXECUTOR_LOST
        )

    # --- LOAD -------------------------------------------------------------------------------------

    def _on_load(self, place: Place, result: ActionResult, now_ns: int) -> str | None:
        executor = place.executor
        if result.outcome is Outcome.OK:
            duration_ns = result.end_ns - result.start_ns
            self.books.profiles.learn_load(executor.key, place.model.spec.image_bytes, duration_ns)
            place.residency, place.warm_ns = Residency.WARM, result.end_ns
            for batch in place.batches:
                batch.release_ns = result.end_ns
            return None
        self._went_cold(place, now_ns)
        if result.outcome is not Outcome.PAGES_EXHAUSTED:
            return None
        idle = [
            model_id
            for model_id in executor.pages.holders()
            if not (other := executor.places.get(model_id)) or not other.in_use
        ]
        for model_id in idle:
            self._dispatcher.unload(executor, model_id)
        if idle:
            return None
        return (
            f"{executor.name} has no pages for {place.model.spec.name} though by the books "
            f"{executor.pages.free} of {executor.pages.total} are free; it must join anew"
        )

    def _went_cold(self, place: Place, now_ns: int) -> None:
        """The weights are not there: what was planned here goes elsewhere or waits for a LOAD."""
        executor, model = place.executor, place.model
        executor.pages.release(model.model_id)
        executor.eviction.discard(model.model_id)
        place.residency = Residency.COLD
        place.stop_serving()
        homeless = [request for batch in place.batches for request in batch.requests]
        for request in homeless:
            self.lifecycle.withdraw(request)
        for request in homeless:
            self.lifecycle.place_promised(request, now_ns, kind=FailureKind.LATE)

    # --- loss -------------------------------------------------------------------------------------

    def executor_lost(self, executor: ExecutorBooks, now_ns: int) -> None:
        """Find new places for what an executor had promised; it is out of the books already."""
        committed: list[Request] = []
        for action in executor.infer.outstanding.values():
            committed += [request for request in action.cargo.requests if request is not None]
            for request in action.cargo.late:
                self.lifecycle.count_late(request, ledger.EXECUTOR_LOST)
        planned = [request for batch in executor.plan.batches for request in batch.requests]
        for request in committed + planned:
            self.lifecycle.withdraw(request)
            request.committed = None
        for request in committed:
            request.executor_lost = True
        lost = set(committed)
        for request in sorted(committed + planned, key=lambda each: (each.due_ns, each.request_id)):
            if request in lost:
                self.lifecycle.retry(
                    request,
                    now_ns,
                    f"{executor.name} was lost",
                    kind=FailureKind.EXECUTOR_LOST,
                )
            else:
                self.lifecycle.place_promised(request, now_ns, kind=FailureKind.EXECUTOR_LOST)
