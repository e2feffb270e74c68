"""Clockwork's policy, as its public code has it, kept as the reference to beat.

The concept: nothing is promised before it is dispatched. Requests wait in their model's queue,
first in first out; when a lane is soon free, the *strategy* (model, batch size) with the earliest
latest start is taken, and raised to the largest full batch. A request is refused when its internal
deadline has passed. LOADs go to the model with the most demand that its present copies can't serve.

Quirks kept on purpose:

- A queue is in order of *arrival*, so mixed SLOs on one model block each other.
- Feasibility is per batch size: a head that a batch of 8 can't save may still ride in one of 2.
- Full batches of captured sizes only: no padding, and an idle lane never waits for a batch to grow.
- No test at arrival. The refusal comes `BUFFER_NS` before the deadline, or when that would leave
  less than `schedule_ahead` and the buffer, at arrival plus these: below such SLOs requests are run
  that are late when they start.
- A victim's pages are freed in least recently used order, whatever reloading costs.

Kinder than the original: it plans with `profile.py`'s longer windows.

Neighbours: `placement.py` is not used here, since the demand is counted otherwise.

Source: Clockwork (OSDI 2020) sections 5.3-5.4 and the "infer5" scheduler of its public code.
"""

from typing import Final

import attrs

from cw.core import admission, placement
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.plan import PlannedBatch
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.messages import Refusal
from cw.units import MS

BUFFER_NS: Final = 5 * MS
"""Aim so long before the SLO."""
NETWORK_NS: Final = 1 * MS
"""Assumed delay from the controller to an executor."""
LOAD_URGENCY_MAX_NS: Final = 25 * MS


@attrs.define(eq=False)
class ClockworkPolicy:
    """See the module's head."""

    books: Books

    def hold_until_ns(self, request: Request) -> int:
        """Say when the request times out: its internal deadline."""
        return self._internal_deadline_ns(request)

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Queue it: there is no test at arrival but the queues' bounds."""
        refusal = admission.full(self.books, request.model)
        if refusal is None:
            self.books.enqueue(request)
            self._wake(request.model)
        return refusal

    def decide(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Time it out."""
        self.books.dequeue(request)
        end_ns = admission.earliest_end_ns(self.books, request.model, now_ns)
        return admission.refusal_for(self.books, request, end_ns, now_ns)

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Queue it again; Clockwork makes no difference between promised and not."""
        self.books.enqueue(request)

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """Nothing is planned ahead, so there is nothing to reconsider."""

    def next_batch(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose the strategy with the earliest latest start, raised to the largest full batch."""
        if executor.quiescing:
            return None
        start_ns = max(executor.start_ns(now_ns), now_ns + NETWORK_NS)
        strategies = []
        for model_id, model in self.books.waiting.items():
            place = executor.places.get(model_id)
            if place is None or not place.serves:
                continue
            if place.residency is not Residency.WARM:
                continue
            fifo = sorted(model.queue, key=lambda request: (request.arrival_ns, request.request_id))
            for size in place.costs.batch_sizes:
                queue = self._feasible(fifo, place, size, start_ns)
                if queue:
                    latest_ns = self._internal_deadline_ns(queue[0]) - place.costs.by_count[size]
                    strategies.append((latest_ns, size, model_id, place, fifo))
        strategies.sort(key=lambda strategy: strategy[:3])
        for _, size, _, place, fifo in strategies:
            batch = self._largest_full(fifo, place, size, start_ns)
            if batch is not None:
                return batch
        return None

    def lead_ns(self, executor: ExecutorBooks) -> int:
        """Commit as late as the pipe allows."""
        return executor.pipe.lead_ns

    def wake_at_ns(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Nothing is put off on an idle lane."""
        return None

    def next_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose the model with the most demand that its present copies can't serve."""
        ahead_ns = self.books.settings.schedule_ahead_ns
        if executor.load_start_ns(now_ns) >= now_ns + max(ahead_ns, executor.pipe.lead_ns):
            return None
        best: Place | None = None
        best_priority = 0.0
        for model_id in self.books.waiting:
            place = executor.places.get(model_id)
            if place is None or place.stage is not Stage.READY:
                continue
            if place.residency is not Residency.COLD:
                continue
            priority = self._unserved(place, now_ns)
            if priority > best_priority:
                best, best_priority = place, priority
        if best is None or placement.choose_victims(self.books, best) is None:
            return None
        return best

    # --- details ----------------------------------------------------------------------------------

    def _internal_deadline_ns(self, request: Request) -> int:
        slo_ns = request.deadline_ns - request.arrival_ns
        aim_ns = slo_ns - BUFFER_NS if slo_ns > BUFFER_NS else slo_ns
        least_ns = self.books.settings.schedule_ahead_ns + BUFFER_NS
        return request.arrival_ns + max(aim_ns, least_ns)

    def _feasible(
        self, fifo: list[Request], place: Place, size: int, start_ns: int
    ) -> list[Request]:
        """List what a batch of this size can still save, oldest first."""
        end_ns = start_ns + place.costs.by_count[size]
        first = 0
        while first < len(fifo) and self._internal_deadline_ns(fifo[first]) < end_ns:
            first += 1
        return fifo[first:]

    def _largest_full(
        self, fifo: list[Request], place: Place, size: int, start_ns: int
    ) -> PlannedBatch | None:
        """Step up while the next size is full; None if not even `size` is."""
        sizes = place.costs.batch_sizes
        chosen: list[Request] = []
        for larger in sizes[sizes.index(size) :]:
            queue = self._feasible(fifo, place, larger, start_ns)
            if len(queue) < larger:
                break
            chosen = queue[:larger]
        if not chosen:
            return None
        due_ns = min(request.due_ns for request in chosen)
        batch = PlannedBatch(place, place.costs, due_ns, place.warm_ns)
        for request in chosen:
            self.books.dequeue(request)
            batch.add(request)
            request.batch = batch
            request.move(RequestState.PLANNED)
            self.books.fresh.append(request)
        return batch

    def _unserved(self, place: Place, now_ns: int) -> float:
        """Weigh a model's demand (GPU time, urgent requests more) less what its copies serve."""
        capacity_ns = 100 * MS
        cost_ns = place.costs.by_count[1]
        load_ns = self.books.profiles.load_ns(place.executor.device, place.model.spec.image_bytes)
        demand = 0.0
        ahead_ns = self.books.settings.schedule_ahead_ns
        for request in place.model.queue:
            slo_ns = request.deadline_ns - request.arrival_ns
            urgency_ns = slo_ns - (load_ns + cost_ns + BUFFER_NS + ahead_ns)
            urgency_ns = max(min(LOAD_URGENCY_MAX_NS, urgency_ns), ahead_ns + BUFFER_NS)
            if now_ns <= request.arrival_ns + urgency_ns:
                demand += cost_ns * capacity_ns / urgency_ns
        weights = [self._weight(copy.executor, capacity_ns, now_ns) for copy in place.model.serving]
        total = sum(weights)
        return demand - sum(demand * weight / total * min(1.0, weight) for weight in weights)

    @staticmethod
    def _weight(executor: ExecutorBooks, capacity_ns: int, now_ns: int) -> float:
        return capacity_ns / max(1 * MS, executor.start_ns(now_ns) - now_ns)

    def _wake(self, model: ModelBooks) -> None:
        for place in list(model.serving or model.places.values())[: admission.PLACES_LOOKED_AT]:
            self.books.dirty[place.executor.executor_id] = place.executor
