"""The default policy: promise early, batch late, never drop a promise.

The concept, in four rules (design/0005):

1. *A promise is a place in a plan.* A newcomer is promised at once when it fits into the plan of an
   executor without making any promised batch late: by joining a batch of its model, or with a batch
   of its own.
2. *Leave room to grow.* A new batch is planned at the size that it is expected to have when it
   starts, by its model's arrival rate. So under load the plan holds few batches that fill up, not
   many small ones (`fitting.py`).
3. *Hold what does not fit*, for a bounded share of its SLO: work that takes less than its estimate
   makes room, and requests of one model that wait together are worth a batch.
4. *Commit late*, choose riders as late as that (`composing.py`), and never let a lane idle while
   something can run on it.

Neighbours: `plan.py` knows what is feasible, `admission.py` what is hopeless, `placement.py`
chooses LOADs.
"""

from typing import Final

import attrs

from cw.core import admission, placement
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place
from cw.core.plan import Fit, PlannedBatch
from cw.core.policies import composing
from cw.core.policies.fitting import Urgency, find, find_at
from cw.core.requests import Request, RequestState
from cw.messages import Refusal

MODELS_LOOKED_AT: Final = 32
"""Models whose queues are reconsidered at once; more gain nothing in simulation."""
SLACK_RATIO: Final = 0.75
"""How much of the time between a request's predicted end and its deadline the promise keeps for
others that are planned later. The rest makes the promised finish worth knowing; 1 would gain
0.5-1 % of goodput at overload, and 0.5 lose as much again."""


@attrs.define(eq=False)
class DefaultPolicy:
    """See the module's head."""

    books: Books

    def hold_until_ns(self, request: Request) -> int:
        """Say until when a request may stay undecided."""
        slo_ns = request.deadline_ns - request.arrival_ns
        return request.arrival_ns + int(self.books.settings.hold_ratio * slo_ns)

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Promise what fits, refuse what is hopeless, hold the rest."""
        model = request.model
        # Those who wait already would be asked in vain once more, and come before this one.
        if not model.queue and self._place(request, Urgency.EAGER, now_ns):
            return None
        refusal = admission.hopeless(self.books, request, now_ns) or admission.full(
            self.books, model
        )
        if refusal is None:
            self.books.enqueue(request)
            placement.note_shortage(self.books, model, now_ns)
        return refusal

    def decide(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Promise it with all who wait with it, if a batch of them is worth it; or refuse it."""
        model = request.model
        while request.state is RequestState.WAITING and self._place_first(
            model, None, Urgency.LAST, now_ns
        ):
            pass
        if request.state is not RequestState.WAITING:
            return None
        self.books.dequeue(request)
        end_ns = self._planned_end_ns(model, now_ns)
        if end_ns is None:
            end_ns = admission.earliest_end_ns(self.books, model, now_ns)
        return admission.refusal_for(self.books, request, end_ns, now_ns)

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Find a place for a promised request that has none."""
        if self._place(request, Urgency.MUST, now_ns):
            return
        places = admission.places_to_try(request.model)
        if force and places:
            self._force(request, min(places, key=lambda place: backlog_end_ns(place, now_ns)))
        else:
            self.books.enqueue(request)

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """See whether those who wait fit now, dense batches first."""
        for place in self._waiting_places(executor, now_ns):
            queue = place.model.queue
            while queue:
                urgency = Urgency.MUST if queue[0].promised else Urgency.EAGER
                if not self._place_first(place.model, place, urgency, now_ns):
                    break

    def next_batch(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose what runs next and who rides in it."""
        batch = composing.choose(executor, now_ns)
        if batch is None:
            if not self._plan_densest(executor, now_ns):
                return None
            batch = composing.choose(executor, now_ns)
            if batch is None:
                return None
        executor.plan.take(batch)
        batch.place.batches.remove(batch)
        batch.requests.sort(key=lambda rider: (rider.due_ns, rider.request_id))
        start_ns = executor.start_ns(now_ns)
        for request in composing.fill_up(batch, start_ns, now_ns):
            self.books.dequeue(request)
            batch.add(request)
            request.batch = batch
            request.move(RequestState.PLANNED)
            self.books.fresh.append(request)
        batch.requests.sort(key=lambda rider: (rider.due_ns, rider.request_id))
        fit = composing.split_off(batch, start_ns, now_ns)
        if fit is not None:
            self._leave_behind(batch, fit)
        return batch

    def lead_ns(self, executor: ExecutorBooks) -> int:
        """Commit as late as the pipe allows."""
        return executor.pipe.lead_ns

    def wake_at_ns(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Nothing is put off on an idle lane, so nothing need be looked at later."""
        return None

    def next_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose whose weights to load: unserved demand that can still be saved."""
        return placement.next_load(self.books, executor, now_ns=now_ns)

    # --- placing ----------------------------------------------------------------------------------

    def _place(self, request: Request, urgency: Urgency, now_ns: int) -> bool:
        """Plan one request that stands in no queue; False if nowhere is worth it."""
        fit = find(request.model, request.due_ns, count=1, urgency=urgency, now_ns=now_ns)
        if fit is None:
            return False
        self._plan(fit, [request])
        return True

    def _place_first(
        self, model: ModelBooks, place: Place | None, urgency: Urgency, now_ns: int
    ) -> bool:
        """Plan the most urgent of those who wait, with as many of them as one batch takes.

        Args:
            model: Whose queue; somebody waits in it.
            place: Only there; None for wherever they end first.
            urgency: How hard to try.
            now_ns: Cluster time.
        """
        queue = model.queue
        due_ns = queue[0].due_ns
        counts = {min(size, len(queue)): None for size in reversed(model.spec.batch_sizes)}
        for count in counts if urgency is Urgency.LAST else list(counts)[:1]:
            if place is not None:
                fit = find_at(place, due_ns, count=count, urgency=urgency, now_ns=now_ns)
            else:
                fit = find(model, due_ns, count=count, urgency=urgency, now_ns=now_ns)
            if fit is not None:
                requests = queue.first(1 if fit.batch is not None else count)
                for request in requests:
                    self.books.dequeue(request)
                self._plan(fit, requests)
                return True
        return False

    def _plan(self, fit: Fit, requests: list[Request]) -> None:
        """Carry out a fit for requests that stand in no place.

        What is told to the gateways is what is planned for from now on, so that it holds.
        """
        place, batch, plan = fit.place, fit.batch, fit.place.executor.plan
        allowance_ns = self.books.allowance_ns
        for request in requests:
            if not request.promised:
                slack_ns = max(0, request.due_ns - fit.finish_ns)
                request.due_ns -= int((1.0 - SLACK_RATIO) * slack_ns)
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

    def _leave_behind(self, batch: PlannedBatch, fit: Fit) -> None:
        """Move the last riders of a batch to another place in the plan."""
        size = batch.costs.below(len(batch.requests))
        left, batch.requests = batch.requests[size:], batch.requests[:size]
        batch.due_ns = batch.requests[0].due_ns
        for request in left:
            request.move(RequestState.WAITING)
        self._plan(fit, left)

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

    # --- those who wait ---------------------------------------------------------------------------

    def _waiting_places(self, executor: ExecutorBooks, now_ns: int) -> list[Place]:
        """List the places of an executor that could serve those who wait, dense batches first."""
        start_ns = executor.start_ns(now_ns)
        ranked = []
        for model_id, model in self.books.waiting.items():
            place = executor.places.get(model_id)
            if place is None or not place.serves:
                continue
            costs_ns = place.costs.by_count
            count = model.queue.largest_fit(costs_ns, max(start_ns, place.warm_ns)) or 1
            ranked.append((-count / costs_ns[count], model.queue[0].due_ns, model_id, place))
            if len(ranked) >= MODELS_LOOKED_AT:
                break
        ranked.sort(key=lambda entry: entry[:3])
        return [entry[-1] for entry in ranked]

    def _plan_densest(self, executor: ExecutorBooks, now_ns: int) -> bool:
        """Plan a batch of those who wait on a lane with nothing to run: it never idles."""
        if executor.quiescing:
            return False
        start_ns = executor.start_ns(now_ns)
        plan, overhead_ns = executor.plan, executor.pipe.overhead_ns
        for place in self._waiting_places(executor, now_ns):
            queue = place.model.queue
            count = queue.largest_fit(place.costs.by_count, max(start_ns, place.warm_ns))
            if not count:
                continue
            plan.walk(start_ns, overhead_ns, now_ns)
            due_ns = queue[0].due_ns
            fit = plan.fit_new(place, overhead_ns, due_ns, count=count, followers=0)
            if fit is not None:
                requests = queue.first(count)
                for request in requests:
                    self.books.dequeue(request)
                self._plan(fit, requests)
                return True
        return False

    def _planned_end_ns(self, model: ModelBooks, now_ns: int) -> int | None:
        """Say when a lone request of this model would be done behind all that is promised."""
        ends = [
            backlog_end_ns(place, now_ns)
            + place.costs.by_count[1]
            + place.executor.pipe.overhead_ns
            for place in admission.places_to_try(model)
        ]
        return min(ends, default=None)


def backlog_end_ns(place: Place, now_ns: int) -> int:
    """Say when all that is promised on a place's executor will be done."""
    executor = place.executor
    start_ns = executor.start_ns(now_ns)
    executor.plan.walk(start_ns, executor.pipe.overhead_ns, now_ns)
    return executor.plan.finishes[-1] if executor.plan.finishes else start_ns
