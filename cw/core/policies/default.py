"""The default policy: promise early, batch late, never drop a promise.

The concept, in four rules (design/0005):

1. *A promise is a place in a plan.* A newcomer is promised at once when it fits into the plan of an
   executor without making any promised batch late: by joining a batch of its model, or with a batch
   of its own.
2. *Leave room to grow.* A new batch is planned at the size that it is expected to have when it
   starts, by its model's arrival rate. So under load the plan holds few batches that fill up, not
   many small ones.
3. *Hold what does not fit*, for a bounded share of its SLO: work that takes less than its estimate
   and batches that stay smaller than expected make room. Among the held, dense batches go first.
4. *Commit late*, and never let a lane idle while something can run on it.

Neighbours: `plan.py` fits, `admission.py` knows what is hopeless, `placement.py` chooses LOADs.
"""

from typing import Final

import attrs

from cw.core import admission, placement
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place
from cw.core.plan import Fit, PlannedBatch
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.messages import Refusal

ALPHA=1
POWER=1.0
TOL=1.15
REACH=.5
MODELS_LOOKED_AT: Final = 32
"""Models whose queues are reconsidered at once; more gain nothing in simulation."""


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
        if not model.queue and self._place(request, now_ns):
            return None
        refusal = admission.hopeless(self.books, request, now_ns) or admission.full(
            self.books, model
        )
        if refusal is None:
            self.books.enqueue(request)
            placement.note_shortage(self.books, model, now_ns)
        return refusal

    def decide(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Promise what fits now even into others' room to grow; refuse the rest."""
        for place in admission.places_to_try(request.model):
            if request.state is RequestState.WAITING:
                self._join_or_open(place, now_ns)
        if request.state is not RequestState.WAITING:
            return None
        self.books.dequeue(request)
        end_ns = self._planned_end_ns(request.model, now_ns)
        if end_ns is None:
            end_ns = admission.earliest_end_ns(self.books, request.model, now_ns)
        return admission.refusal_for(self.books, request, end_ns, now_ns)

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Find a place for a promised request that has none."""
        if self._place(request, now_ns, last=True):
            return
        places = [place for place in request.model.serving if not place.executor.quiescing]
        if force and places:
            self._force(request, min(places, key=lambda place: self._backlog_ns(place, now_ns)))
        else:
            self.books.enqueue(request)

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """See whether those who wait fit now, dense batches first."""
        for place in self._waiting_places(executor, now_ns):
            queue = place.model.queue
            while queue and self._join_or_open(place, now_ns):
                pass

    def next_batch(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose the first batch of the plan that can run, filled up with those who wait."""
        if not executor.plan.batches and not self._plan_densest(executor, now_ns):
            return None
        start_ns = executor.start_ns(now_ns)
        batch = self._first_ready(executor, start_ns, now_ns)
        if batch is None:
            return None
        executor.plan.take(batch)
        batch.place.batches.remove(batch)
        self._top_up(batch, start_ns, now_ns)
        return batch

    def next_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose whose weights to load: unserved demand that can still be saved."""
        return placement.next_load(self.books, executor, now_ns=now_ns)

    # --- fitting ------------------------------------------------------------------------------

    def _place(self, request: Request, now_ns: int, *, last: bool = False) -> bool:
        """Plan a request where it ends first; False if it fits nowhere."""
        best: Fit | None = None
        for place in admission.places_to_try(request.model):
            fit = self._fit(place, request.due_ns, now_ns, last=last)
            if fit is not None and (best is None or fit.finish_ns < best.finish_ns):
                best = fit
        if best is None:
            return False
        self._plan(best, [request])
        return True

    def _fit(
        self, place: Place, due_ns: int, now_ns: int, *, count: int = 1, last: bool = False
    ) -> Fit | None:
        """Find the cheapest way to run one more request of a place in time."""
        executor = place.executor
        if executor.quiescing:
            return None
        plan, overhead_ns = executor.plan, executor.pipe.overhead_ns
        start_ns = executor.start_ns(now_ns)
        plan.walk(start_ns, overhead_ns, now_ns)
        best: Fit | None = None
        for batch in place.batches:
            wait_ns = plan.expected_start_ns(batch) - now_ns
            fit = plan.fit_join(batch, due_ns, place.expected_arrivals(wait_ns))
            if fit is not None and self._is_worth(fit, due_ns, now_ns, 1, wait_ns):
                best = fit
                break
        # A new batch will probably run last, so it grows until then.
        wait_ns = (plan.expected_finishes[-1] if plan.batches else start_ns) - now_ns
        fit = plan.fit_new(
            place,
            overhead_ns,
            due_ns,
            count=count,
            followers=place.expected_arrivals(wait_ns),
        )
        if fit is None or fit.crowds or not self._is_worth(fit, due_ns, now_ns, count, wait_ns):
            return best
        if best is not None and (best.price_ns == 0 or best.price_ns <= fit.price_ns):
            return best
        return fit

    def _is_worth(self, fit: Fit, due_ns: int, now_ns: int, count: int, wait_ns: int) -> bool:
        """Say whether a fit is cheap enough for how full the plan is."""
        place = fit.place
        costs = place.costs
        by_count = costs.by_count
        budget_ns = (due_ns - now_ns) * REACH
        most = min(costs.largest, count + place.expected_arrivals(wait_ns))
        least_ns = by_count[count] / count
        for size in costs.batch_sizes:
            if size > most: size = most
            if by_count[size] <= budget_ns:
                least_ns = min(least_ns, by_count[size] / size)
        if fit.price_ns > TOL * least_ns:
            return False
        if ALPHA == 1: return True
        least_ns = by_count[costs.largest] / costs.largest
        cheapness = least_ns / fit.price_ns if fit.price_ns > least_ns else 1.0
        fullness = (fit.finish_ns - now_ns) / max(1, due_ns - now_ns)
        return fullness <= ALPHA + (1 - ALPHA) * cheapness**POWER

    def _plan(self, fit: Fit, requests: list[Request]) -> None:
        """Carry out a fit."""
        place, batch, plan = fit.place, fit.batch, fit.place.executor.plan
        predicted_ns = fit.finish_ns + self.books.settings.margin_ns
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
            request.predicted_ns = predicted_ns
            request.move(RequestState.PLANNED)
            self.books.fresh.append(request)
        self.books.dirty[place.executor.executor_id] = place.executor

    def _force(self, request: Request, place: Place) -> None:
        """Plan a request whoever is hurt."""
        plan = place.executor.plan
        for batch in place.batches:
            if len(batch.requests) < batch.costs.largest:
                fit = Fit(place, batch, 0, request.due_ns, 0.0, True)
                break
        else:
            fit = Fit(place, None, plan.force_index(request.due_ns), request.due_ns, 0.0, True)
        self._plan(fit, [request])

    # --- those who wait -----------------------------------------------------------------------

    def _waiting_places(self, executor: ExecutorBooks, now_ns: int) -> list[Place]:
        """List the places of an executor that could serve those who wait, dense batches first."""
        start_ns = executor.start_ns(now_ns)
        ranked = []
        for model_id, model in self.books.waiting.items():
            place = executor.places.get(model_id)
            if place is None or place not in model.serving:
                continue
            costs_ns = place.costs.by_count
            count = model.queue.largest_fit(costs_ns, max(start_ns, place.warm_ns)) or 1
            ranked.append((-count / costs_ns[count], model.queue[0].due_ns, model_id, place))
            if len(ranked) >= MODELS_LOOKED_AT:
                break
        ranked.sort()
        return [entry[-1] for entry in ranked]

    def _join_or_open(self, place: Place, now_ns: int) -> bool:
        """Plan the most urgent who wait at a place, alone or together."""
        queue = place.model.queue
        count = min(len(queue), place.costs.largest)
        while count:
            fit = self._fit(place, queue[0].due_ns, now_ns, count=count)
            if fit is not None:
                requests = queue.first(1 if fit.batch is not None else count)
                for request in requests:
                    self.books.dequeue(request)
                self._plan(fit, requests)
                return True
            count = place.costs.below(count)
        return False

    def _plan_densest(self, executor: ExecutorBooks, now_ns: int) -> bool:
        """Plan a batch of those who wait on an empty plan: an idle lane runs what is there."""
        if executor.quiescing:
            return False
        plan = executor.plan
        plan.walk(executor.start_ns(now_ns), executor.pipe.overhead_ns, now_ns)
        for place in self._waiting_places(executor, now_ns):
            queue, start_ns = place.model.queue, executor.start_ns(now_ns)
            count = queue.largest_fit(place.costs.by_count, max(start_ns, place.warm_ns))
            if not count:
                continue
            fit = plan.fit_new(
                place,
                executor.pipe.overhead_ns,
                queue[0].due_ns,
                count=count,
                followers=0,
            )
            if fit is not None:
                requests = queue.first(count)
                for request in requests:
                    self.books.dequeue(request)
                self._plan(fit, requests)
                return True
        return False

    def _top_up(self, batch: PlannedBatch, start_ns: int, now_ns: int) -> None:
        """Let those who wait for the same model ride along, if nobody is hurt."""
        executor, queue = batch.place.executor, batch.place.model.queue
        by_count, overhead_ns = batch.costs.by_count, executor.pipe.overhead_ns
        while queue and len(batch.requests) < batch.costs.largest:
            request, count = queue[0], len(batch.requests)
            end_ns = start_ns + by_count[count + 1] + overhead_ns
            spare_ns = executor.plan.least_spare_ns(
                start_ns + by_count[count] + overhead_ns, overhead_ns, now_ns
            )
            growth_ns = by_count[count + 1] - by_count[count]
            if end_ns > min(batch.due_ns, request.due_ns) or growth_ns > max(0, spare_ns):
                return
            self.books.dequeue(request)
            batch.add(request)
            request.batch = batch
            request.predicted_ns = end_ns + self.books.settings.margin_ns
            request.move(RequestState.PLANNED)
            self.books.fresh.append(request)

    # --- dispatching --------------------------------------------------------------------------

    def _first_ready(
        self, executor: ExecutorBooks, start_ns: int, now_ns: int
    ) -> PlannedBatch | None:
        """Find the first batch that can run and be in time, without hurting those before it.

        A batch that is late already (its executor stalled, or a promise was forced) gives way to
        those that still can be in time, so that one broken promise does not break the next.
        """
        plan, overhead_ns = executor.plan, executor.pipe.overhead_ns
        margin_ns = self.books.settings.margin_ns
        late: PlannedBatch | None = None
        waiting: list[PlannedBatch] = []
        for batch in plan.batches:
            cost_ns = batch.costs.by_count[len(batch.requests)] + overhead_ns
            if batch.place.residency is Residency.COLD or batch.release_ns > start_ns:
                waiting.append(batch)
            elif start_ns + cost_ns > batch.due_ns + margin_ns:
                late = late or batch
            elif self._can_wait(waiting, start_ns + cost_ns, overhead_ns):
                return batch
        return late

    @staticmethod
    def _can_wait(batches: list[PlannedBatch], start_ns: int, overhead_ns: int) -> bool:
        for batch in batches:
            cost_ns = batch.costs.by_count[len(batch.requests)] + overhead_ns
            start_ns = max(start_ns, batch.release_ns) + cost_ns
            if start_ns > batch.due_ns:
                return False
        return True

    def _backlog_ns(self, place: Place, now_ns: int) -> int:
        executor = place.executor
        executor.plan.walk(executor.start_ns(now_ns), executor.pipe.overhead_ns, now_ns)
        ends = executor.plan.finishes
        return ends[-1] if ends else executor.start_ns(now_ns)

    def _planned_end_ns(self, model: ModelBooks, now_ns: int) -> int | None:
        """Say when a lone request of this model would be done behind all that is promised."""
        ends = [
            self._backlog_ns(place, now_ns)
            + place.costs.by_count[1]
            + place.executor.pipe.overhead_ns
            for place in admission.places_to_try(model)
        ]
        return min(ends, default=None)
