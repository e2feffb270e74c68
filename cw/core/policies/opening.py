"""Opening: whether those who wait are promised a batch of their own now, and where.

The concept: a promise binds, so what is given away early is missing for the denser batch that comes
later. The evidence for a dense batch is company: how many of a model wait together already. How
much of it is asked for is a *price* that each executor finds by itself, as a thermostat does. Its
plan should be as full as it can be and still take in those who were held for as long as they may
be: then a newcomer's batch ends at ``1 - hold_ratio`` of its time. Is it fuller, the price rises;
is it emptier, it falls, to nothing on an executor with time to spare.

Besides the price, a new batch must

- fit: no promise may come to be late by it (`plan.py`), nor may it take the room into which the
  planned batches are expected to grow;
- have room itself to grow nearly as dense as its model's rate allows. Otherwise a full plan admits
  a batch of 4 whenever one of 4 leaves it, and keeps that size for ever;
- leave what is reserved for those who are owed it (`shares.py`), unless it is theirs.

Joining a batch that is planned already needs none of this but the first, where it costs no more
than padding; otherwise it must be worth the growth.

Changes nothing. Neighbours: `default.py` asks, `plan.py` knows what is feasible.

Source: design/0011.
"""

from typing import Final

import attrs

from cw.core import admission
from cw.core.books import ExecutorBooks, ModelBooks, Place
from cw.core.plan import Fit, PlannedBatch
from cw.core.requests import Request
from cw.core.shares import Shares

FREE_RATIO: Final = 0.3
"""A plan that is less full than this takes whatever fits: an idle lane is worth nothing."""
JOIN_RATIO: Final = 0.6
"""A plan that is less full than this lets batches grow, whatever the growth costs."""
FULL_RATIO_MIN: Final = 0.6
FULL_RATIO_RESERVE: Final = 0.03
"""How full a plan should be: ``1 - hold_ratio`` less this, and not less than the former."""
THIN_RATIO: Final = 0.8
"""How near to its best density a new batch must be able to grow."""
PRICE_STEP: Final = 1.0
"""How fast the price follows: by the whole of `best_worth` when a plan is overfull by its whole
length for as long as an SLO. 0.2 to 2 did equally well."""


@attrs.define(eq=False)
class Opening:
    """Judges openings by the shares and by the executors' prices. Instants in cluster time, ns."""

    shares: Shares
    hold_ratio: float

    @property
    def full_ratio(self) -> float:
        """How full a plan should be."""
        return max(FULL_RATIO_MIN, 1.0 - self.hold_ratio - FULL_RATIO_RESERVE)

    def join(self, model: ModelBooks, request: Request, due_ns: int, now_ns: int) -> Fit | None:
        """Find the planned batch in which a newcomer rides soonest, if it is worth its growth."""
        best: Fit | None = None
        for place in admission.places_to_try(model):
            plan = place.executor.plan
            for batch in place.batches:
                if len(batch.requests) >= batch.costs.largest:
                    continue
                start_ns = place.executor.start_ns(now_ns)
                plan.walk(start_ns, place.executor.pipe.overhead_ns, now_ns)
                fit = plan.fit_join(batch, due_ns)
                if fit is None or not self._is_worth(batch, fit, request, now_ns):
                    continue
                if best is None or fit.finish_ns < best.finish_ns:
                    best = fit
                break
        return best

    def _is_worth(self, batch: PlannedBatch, fit: Fit, request: Request, now_ns: int) -> bool:
        if fit.price_ns == 0:
            return True
        place, plan = fit.place, fit.place.executor.plan
        slo_ns = request.deadline_ns - request.arrival_ns
        if plan.expected_finishes[-1] - now_ns < JOIN_RATIO * slo_ns:
            return True
        by_count, riders = batch.costs.by_count, len(batch.requests)
        coming = place.expected_arrivals(plan.expected_start_ns(batch) - now_ns)
        count = batch.costs.densest(riders + 1, riders + 1 + coming)
        growth_ns = by_count[count] - by_count[riders]
        worth = self.shares.value(place, request) * (count - riders)
        executor = place.executor
        return worth >= executor.price * executor.best_worth * growth_ns

    def open(self, model: ModelBooks, due_ns: int, now_ns: int) -> tuple[Fit, int] | None:
        """Find where those who wait for a model are worth a batch of their own.

        Args:
            model: Somebody waits for it.
            due_ns: When the most urgent of them is due.
            now_ns: Cluster time.

        Returns:
            The place and how many ride in it; None if they had better wait, or nothing fits.
        """
        head = model.queue[0]
        found = self.room(model, due_ns, now_ns)
        if found is None:
            return None
        fit, count = found
        executor = fit.place.executor
        fullness = self.fullness(executor, head, fit.expected_cost_ns, now_ns)
        if fullness <= FREE_RATIO or self.shares.is_starved(head, now_ns):
            return found
        worth = self.shares.value(fit.place, head) * _evenly(fit.place, count)
        if worth < executor.price * executor.best_worth:
            return None
        best = _density_with_room(fit.place, count, head, now_ns)
        return found if 1.0 / fit.price_ns >= THIN_RATIO * best else None

    def room(self, model: ModelBooks, due_ns: int, now_ns: int) -> tuple[Fit, int] | None:
        """Find where a batch of those who wait would end first, at any price."""
        head = model.queue[0]
        best: tuple[Fit, int] | None = None
        reserved: float | None = None
        for place in admission.places_to_try(model):
            executor = place.executor
            if executor.quiescing or _is_growing(place):
                continue
            if reserved is None:
                owed = self.shares.reserved == 0.0 or self.shares.is_owed(head, now_ns)
                reserved = 0.0 if owed else self.shares.reserved
            found = self._room_at(place, model, due_ns, reserved, now_ns)
            if found is not None and (best is None or found[0].finish_ns < best[0].finish_ns):
                best = found
        return best

    def _room_at(
        self, place: Place, model: ModelBooks, due_ns: int, reserved: float, now_ns: int
    ) -> tuple[Fit, int] | None:
        executor, plan = place.executor, place.executor.plan
        start_ns, overhead_ns = executor.start_ns(now_ns), executor.pipe.overhead_ns
        plan.walk(start_ns, overhead_ns, now_ns)
        last_ns = plan.expected_finishes[-1] if plan.batches else start_ns
        if reserved:
            planned_ns = sum(
                batch.costs.typical_by_count[len(batch.requests)]
                for batch in plan.batches
                if self.shares.is_owed(batch.requests[0], now_ns)
            )
            last_ns += max(0, int(reserved * (due_ns - now_ns)) - planned_ns)
        followers = place.expected_arrivals(last_ns - now_ns)
        count = min(len(model.queue), place.costs.largest)
        while count:
            fit = plan.fit_new(place, overhead_ns, due_ns, count=count, followers=followers)
            if fit is not None and not fit.crowds and last_ns + fit.expected_cost_ns <= due_ns:
                return fit, count
            count = min(count - 1, place.costs.below(count))
        return None

    def fullness(
        self, executor: ExecutorBooks, request: Request, cost_ns: int, now_ns: int
    ) -> float:
        """Say at which part of its time a batch would end that a newcomer opens on an executor.

        Args:
            executor: Where.
            request: One like the newcomer.
            cost_ns: How long its batch would run.
            now_ns: Cluster time.
        """
        plan, start_ns = executor.plan, executor.start_ns(now_ns)
        plan.walk(start_ns, executor.pipe.overhead_ns, now_ns)
        last_ns = plan.expected_finishes[-1] if plan.batches else start_ns
        time_ns = request.due_ns - request.arrival_ns - executor.pipe.delay_ns
        return (last_ns + cost_ns - now_ns) / max(1, time_ns)

    def ran(self, place: Place, requests: list[Request], cost_ns: int, now_ns: int) -> None:
        """Move an executor's price after a choice, by how full its plan is then."""
        executor, head = place.executor, requests[0]
        by_count, overhead_ns = place.costs.by_count, executor.pipe.overhead_ns
        best = max(size / (by_count[size] + overhead_ns) for size in place.costs.batch_sizes)
        worth = self.shares.value(place, head) * best
        known = executor.best_worth
        executor.best_worth = known + 0.1 * (worth - known) if known else worth
        excess = self.fullness(executor, head, cost_ns, now_ns) - self.full_ratio
        step = PRICE_STEP * excess * cost_ns / max(1, head.deadline_ns - head.arrival_ns)
        executor.price = min(1.0, max(0.0, executor.price + step))


def _is_growing(place: Place) -> bool:
    """Say whether a batch is planned at a place that newcomers will fill first."""
    return any(len(batch.requests) < batch.costs.largest for batch in place.batches)


def _evenly(place: Place, count: int) -> float:
    """Give a batch's density (per ns) as if each size were captured: company must count at once."""
    costs = place.costs
    by_count, above, below = costs.by_count, costs.size_for[count], costs.below(count)
    overhead_ns = place.executor.pipe.overhead_ns
    if above == count or not below:
        return count / (by_count[count] + overhead_ns)
    rise = (by_count[above] - by_count[below]) * (count - below) / (above - below)
    even = count / (by_count[below] + rise + overhead_ns)
    return max(even, below / (by_count[below] + overhead_ns))


def _density_with_room(place: Place, count: int, head: Request, now_ns: int) -> float:
    """Say how dense (per ns) a batch would come to be by the time it starts, were there room."""
    executor, costs = place.executor, place.costs
    plan = executor.plan
    start_ns = plan.expected_finishes[-1] if plan.batches else now_ns
    count = costs.densest(count, count + place.expected_arrivals(start_ns - now_ns))
    time_ns = head.due_ns - head.arrival_ns - executor.pipe.delay_ns
    while costs.by_count[count] > time_ns and costs.below(count):
        count = costs.below(count)  # not even a newcomer could have that
    return count / (costs.by_count[count] + executor.pipe.overhead_ns)
