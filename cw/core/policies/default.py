"""The default policy: promise early, batch late, never drop a promise.

The concept, in five rules (design/0011):

1. *A promise is a place in a plan.* A newcomer is promised at once when it fits into the plan of an
   executor without making any promised batch late, and is worth what it takes there: by joining a
   batch of its model, or with others in a batch of their own (`opening.py`).
2. *Hold what may still be worth it*, for a bounded share of its SLO (`hold_ratio`): company that
   comes makes a dense batch. What finds no room at arrival will find none later: it is refused.
3. *Choose late* what runs, among all that is promised and held (`selection.py`), and who rides in
   it (`composing.py`). A lane never idles while something can run on it.
4. *Owed first.* Whoever asks for less than its share is served before all others (`shares.py`).
5. *Nothing early* with a `hold_ratio` of 1: everything is held until it is chosen for a lane, or is
   past hope.

Neighbours: `plan.py` knows what is feasible, `admission.py` what is hopeless, `placement.py`
chooses LOADs, and `cold.py` puts them among the batches where both share a lane.
"""

from functools import partial
from typing import Final

from cw.core import admission, placement
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place
from cw.core.plan import Fit, PlannedBatch
from cw.core.policies import composing, selection
from cw.core.policies.cold import cold_candidates
from cw.core.policies.opening import Opening
from cw.core.policies.selection import Candidate
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.core.shares import Shares
from cw.messages import ExecutorId, Refusal

SLACK_RATIO: Final = 0.75
"""How much of the time between a request's predicted end and its deadline the promise keeps for
others that are planned later. The rest makes the promised finish worth knowing; 1 would gain
0.5-1 % of goodput at overload, and 0.5 lose as much again."""
STARVED_WORTH: Final = 1e4
"""A starved model's requests are worth so many times as much: above any two models' ratio, and
below what is owed to another tenant."""
SHORT_RATIO: Final = 0.25
"""A model whose most urgent request has waited for this share of its SLO is short of executors."""


class DefaultPolicy:
    """See the module's head."""

    def __init__(self, books: Books) -> None:
        self.books: Final = books
        self.shares: Final = Shares(books)
        self.hold_ratio: Final = books.settings.hold_ratio
        self.is_early: Final = self.hold_ratio < 1.0
        """Whether batches are opened, and promised, before they are sent."""
        self.opening: Final = Opening(self.shares, self.hold_ratio)
        # Shared lanes that were given to a LOAD.
        self._turn: dict[ExecutorId, Place] = {}

    # --- requests ---------------------------------------------------------------------------------

    def hold_until_ns(self, request: Request) -> int:
        """Say until when a request may stay undecided: its hold, or while there is hope."""
        slo_ns = request.deadline_ns - request.arrival_ns
        until_ns = request.arrival_ns + int(self.hold_ratio * slo_ns)
        place = next(iter(request.model.serving or request.model.places.values()), None)
        if place is not None:
            pipe = place.executor.pipe
            alone_ns = pipe.delay_ns + pipe.overhead_ns + place.costs.by_count[1]
            until_ns = min(until_ns, request.due_ns - alone_ns)
        return until_ns

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Promise what fits and is worth it, refuse what is hopeless, hold the rest."""
        model, due_ns = request.model, self._due_ns(request)
        self.shares.arrived(request, now_ns)
        if not self.is_early and 0 < len(model.serving) < len(model.places):
            # Not so where batches are opened early: they would scatter, and stay thin.
            placement.note_spare_pages(self.books, model, now_ns)
        # Those who wait already come before this one.
        if not model.queue and self.is_early:
            joined = self.opening.join(model, request, due_ns, now_ns)
            if joined is not None:
                self._plan(joined, [request])
                return None
        refusal = admission.hopeless(self.books, request, now_ns) or admission.full(
            self.books, model
        )
        if refusal is not None:
            return refusal
        self.books.enqueue(request)
        if self.is_early and model.serving:
            self._open(model, now_ns)
            if request.state is not RequestState.WAITING:
                return None
            if self.hold_ratio == 0.0 or self._has_no_room(model, due_ns, now_ns):
                self.books.dequeue(request)
                placement.note_shortage(self.books, model, now_ns)
                return self._refusal(request, now_ns)
        self._wake(model, now_ns)
        return None

    def decide(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Its hold is over: promise it with those who wait with it, if that pays; or refuse."""
        model = request.model
        while self.is_early and request.state is RequestState.WAITING and self._open(model, now_ns):
            pass
        if request.state is not RequestState.WAITING:
            return None
        self.books.dequeue(request)
        placement.note_shortage(self.books, model, now_ns)
        return self._refusal(request, now_ns)

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Find a place for a promised request that has none."""
        fit = self._fit_promised(request, now_ns)
        if fit is not None:
            self._plan(fit, [request])
            return
        places = admission.places_to_try(request.model)
        if force and places:
            soonest = min(places, key=lambda place: backlog_end_ns(place, now_ns))
            self._force(request, soonest)
        else:
            self.books.enqueue(request)

    # --- executors --------------------------------------------------------------------------------

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """Find places for the promised that have none, and plan behind LOADs that are under way."""
        if not self.is_early and not self.books.promised_waiting:
            return
        for place in list(executor.waiting.values()):
            queue = place.model.queue
            while queue and queue[0].promised:
                fit = self._fit_promised(queue[0], now_ns)
                if fit is None:
                    break
                request = queue[0]
                self.books.dequeue(request)
                self._plan(fit, [request])
            if self.is_early and place.residency is Residency.LOADING:
                while queue and not queue[0].promised and self._open(place.model, now_ns):
                    pass

    def next_batch(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose what runs next and who rides in it."""
        cold = self._cold(executor, now_ns)
        if not executor.plan.batches and not executor.waiting and not cold:
            return None

        shares = self.shares

        def worth(place: Place, request: Request) -> tuple[float, bool]:
            value = shares.value(place, request) if shares.differ else 1.0
            if shares.is_starved(request, now_ns):
                value *= STARVED_WORTH
            return value, not shares.excessive or shares.is_owed(request, now_ns)

        allowance_ns = self.books.allowance_ns
        select = partial(
            selection.select,
            executor,
            worth,
            reserved=self.shares.reserved,
            allowance_ns=allowance_ns,
            now_ns=now_ns,
        )
        chosen = select(cold=cold)
        if chosen is not None and chosen in cold:
            if placement.choose_victims(self.books, chosen.place) is not None:
                self._turn[executor.executor_id] = chosen.place
                return None
            chosen = select(cold=[])
        if chosen is None:
            return None
        if chosen.batch is not None:
            batch = self._commit_planned(chosen.batch, now_ns)
        else:
            batch = self._commit_held(chosen, now_ns)
        cost_ns = batch.costs.by_count[len(batch.requests)] + executor.pipe.overhead_ns
        self.shares.used(batch.place, batch.requests, cost_ns, now_ns)
        if self.is_early:
            self.opening.ran(batch.place, batch.requests, cost_ns, now_ns)
        return batch

    def lead_ns(self, executor: ExecutorBooks) -> int:
        """Commit as late as the pipe allows, since what is committed can't be chosen better."""
        return executor.pipe.lead_ns

    def wake_at_ns(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Nothing changes by time alone: what can run on an idle lane runs at once."""
        return None

    def next_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose whose weights to load: unserved demand that can still be saved."""
        place = self._turn.pop(executor.executor_id, None)
        if place is not None and place.residency is Residency.COLD:
            return place
        is_chosen_here = self._takes_turns(executor)
        return placement.next_load(
            self.books, executor, now_ns=now_ns, is_waited_for=not is_chosen_here
        )

    def _takes_turns(self, executor: ExecutorBooks) -> bool:
        """Say whether LOADs stand among the batches: not of what was promised while cold."""
        return executor.device.shared_lanes and not self.is_early

    def _cold(self, executor: ExecutorBooks, now_ns: int) -> list[Candidate]:
        if not self._takes_turns(executor):
            return []
        return cold_candidates(
            self.books, executor, allowance_ns=self.books.allowance_ns, now_ns=now_ns
        )

    # --- promising --------------------------------------------------------------------------------

    def _due_ns(self, request: Request) -> int:
        """Say when a request that is not promised yet is due, by what delivery takes now."""
        return min(request.due_ns, request.deadline_ns - self.books.allowance_ns)

    def _open(self, model: ModelBooks, now_ns: int) -> bool:
        """Promise those who wait for a model a batch of their own, if they are worth it now."""
        found = self.opening.open(model, self._due_ns(model.queue[0]), now_ns)
        if found is None:
            return False
        fit, count = found
        requests = model.queue.first(count)
        for request in requests:
            self.books.dequeue(request)
        self._plan(fit, requests)
        return True

    def _has_no_room(self, model: ModelBooks, due_ns: int, now_ns: int) -> bool:
        """Say whether a newcomer that waits alone has no batch to hope for."""
        if len(model.queue) > 1 or any(place.batches for place in model.serving):
            return False
        return self.opening.room(model, due_ns, now_ns) is None

    def _fit_promised(self, request: Request, now_ns: int) -> Fit | None:
        """Find a place for a promised request that hurts no other promise, at any price."""
        best: Fit | None = None
        for place in admission.places_to_try(request.model):
            executor, plan = place.executor, place.executor.plan
            plan.walk(executor.start_ns(now_ns), executor.pipe.overhead_ns, now_ns)
            fits = [plan.fit_join(batch, request.due_ns) for batch in place.batches]
            overhead_ns = executor.pipe.overhead_ns
            fits.append(plan.fit_new(place, overhead_ns, request.due_ns, count=1, followers=0))
            for fit in fits:
                if fit is not None and (best is None or fit.finish_ns < best.finish_ns):
                    best = fit
        return best

    def _plan(self, fit: Fit, requests: list[Request]) -> None:
        """Carry out a fit for requests that stand in no place.

        What is told to the gateways is what is planned for from now on, so that it holds.
        """
        place, batch, plan = fit.place, fit.batch, fit.place.executor.plan
        allowance_ns = self.books.allowance_ns
        for request in requests:
            if not request.promised:
                due_ns = self._due_ns(request)
                slack_ns = max(0, due_ns - fit.finish_ns)
                request.due_ns = due_ns - int((1.0 - SLACK_RATIO) * slack_ns)
        if batch is None:
            due_ns = min(request.due_ns for request in requests)
            batch = PlannedBatch(place, place.costs, due_ns, place.warm_ns)
            plan.insert(fit.index, batch)
            place.batches.append(batch)
        else:
            plan.changed()
        for request in requests:
            batch.add(request)
            request.batch = batch
            request.predicted_ns = request.due_ns + allowance_ns
            request.move(RequestState.PLANNED)
            self.books.fresh.append(request)
        self.books.dirty[place.executor.executor_id] = place.executor

    def _force(self, request: Request, place: Place) -> None:
        """Plan a request whoever is hurt."""
        plan, due_ns = place.executor.plan, request.due_ns
        for batch in place.batches:
            if len(batch.requests) < batch.costs.largest:
                index = plan.batches.index(batch)
                self._plan(Fit(place, batch, index, due_ns, 0.0, True), [request])
                return
        index = plan.force_index(due_ns)
        self._plan(Fit(place, None, index, due_ns, 0.0, True), [request])

    # --- committing -------------------------------------------------------------------------------

    def _commit_planned(self, batch: PlannedBatch, now_ns: int) -> PlannedBatch:
        executor = batch.place.executor
        executor.plan.take(batch)
        batch.place.batches.remove(batch)
        batch.requests.sort(key=_urgency)
        start_ns = executor.start_ns(now_ns)
        for request in composing.fill_up(batch, start_ns, now_ns):
            self._ride(request, batch)
        batch.requests.sort(key=_urgency)
        fit = composing.split_off(batch, start_ns, now_ns)
        if fit is not None:
            self._leave_behind(batch, fit)
        return batch

    def _commit_held(self, chosen: Candidate, now_ns: int) -> PlannedBatch:
        place, queue = chosen.place, chosen.place.model.queue
        requests = queue.first(chosen.skip + chosen.count)[chosen.skip :]
        batch = PlannedBatch(place, place.costs, chosen.due_ns, place.warm_ns)
        for request in requests:
            self._ride(request, batch)
        return batch

    def _ride(self, request: Request, batch: PlannedBatch) -> None:
        self.books.dequeue(request)
        batch.add(request)
        request.batch = batch
        request.move(RequestState.PLANNED)
        self.books.fresh.append(request)

    def _leave_behind(self, batch: PlannedBatch, fit: Fit) -> None:
        """Move the last riders of a batch to another place in the plan."""
        size = batch.costs.below(len(batch.requests))
        left, batch.requests = batch.requests[size:], batch.requests[:size]
        batch.due_ns = batch.requests[0].due_ns
        for request in left:
            request.move(RequestState.WAITING)
        self._plan(fit, left)

    # --- refusing and waking ----------------------------------------------------------------------

    def _refusal(self, request: Request, now_ns: int) -> Refusal:
        model = request.model
        ends = [
            backlog_end_ns(place, now_ns)
            + place.costs.by_count[1]
            + place.executor.pipe.overhead_ns
            for place in admission.places_to_try(model)
        ]
        end_ns = min(ends, default=None)
        if end_ns is None:
            end_ns = admission.earliest_end_ns(self.books, model, now_ns)
        return admission.refusal_for(self.books, request, end_ns, now_ns)

    def _wake(self, model: ModelBooks, now_ns: int) -> None:
        """Have executors looked at that could run or load what has just come to wait."""
        serving = model.serving
        if not serving:
            placement.note_shortage(self.books, model, now_ns)
            return
        head = model.queue[0]
        if now_ns - head.arrival_ns > SHORT_RATIO * (head.deadline_ns - head.arrival_ns):
            placement.note_shortage(self.books, model, now_ns)
        for place in serving:
            executor = place.executor
            if executor.wake_ns is None or executor.wake_ns > executor.due_ns:
                self.books.dirty[executor.executor_id] = executor


def backlog_end_ns(place: Place, now_ns: int) -> int:
    """Say when all that is promised on a place's executor will be done."""
    executor = place.executor
    start_ns = executor.start_ns(now_ns)
    executor.plan.walk(start_ns, executor.pipe.overhead_ns, now_ns)
    return executor.plan.finishes[-1] if executor.plan.finishes else start_ns


def _urgency(request: Request) -> tuple[int, int]:
    return request.due_ns, request.request_id
