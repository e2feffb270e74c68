"""Composing: which planned batch runs now, and who rides in it.

The concept: until a batch is committed its riders can still be chosen better. Three rules:

1. *Run what has nothing to gain by waiting.* Any batch may go first if those before it can spare
   the time. The one that expects the fewest further riders goes; the others use the time to grow.
2. *Fill up* with those who are held, as far as every promise allows.
3. *Split off* riders whose padding costs more than a batch of their own: 9 requests in a batch of
   16 take nearly twice as long as 8, so the ninth goes into a later batch if that is in time.

Neighbours: `default.py` calls these in this order; `plan.py` knows what is feasible.

Source: design/0005.
"""

from cw.core.books import ExecutorBooks
from cw.core.plan import Fit, PlannedBatch
from cw.core.requests import Request
from cw.core.residency import Residency


def choose(executor: ExecutorBooks, now_ns: int) -> PlannedBatch | None:
    """Choose the batch to run next; None if none can start now.

    A batch that is late already (its executor stalled, or a promise was forced) gives way to those
    that can still be in time, so that one broken promise does not break the next.

    Args:
        executor: Whose plan.
        now_ns: Cluster time.
    """
    plan, overhead_ns = executor.plan, executor.pipe.overhead_ns
    start_ns = executor.start_ns(now_ns)
    plan.walk(start_ns, overhead_ns, now_ns)
    late: PlannedBatch | None = None
    best: PlannedBatch | None = None
    least_gain = 0
    spare_ns = 1 << 62
    for batch, finish_ns in zip(plan.batches, plan.finishes, strict=True):
        cost_ns = batch.costs.by_count[len(batch.requests)] + overhead_ns
        slack_ns = batch.due_ns - start_ns - cost_ns
        if batch.place.residency is Residency.COLD or batch.release_ns > start_ns:
            pass
        elif slack_ns < 0 and start_ns + cost_ns > batch.deadline_ns:
            late = late or batch
            continue
        elif cost_ns <= spare_ns:
            gain = _gain(batch, slack_ns)
            if best is None or gain < least_gain:
                best, least_gain = batch, gain
        spare_ns = min(spare_ns, batch.due_ns - finish_ns)
        if best is not None and (spare_ns <= 0 or least_gain == 0):
            break
    return best or late


def _gain(batch: PlannedBatch, slack_ns: int) -> int:
    """Guess how many more would ride if the batch waited as long as it can."""
    by_count, count = batch.costs.by_count, len(batch.requests)
    coming = min(batch.place.expected_arrivals(slack_ns), batch.costs.largest - count)
    if coming > 0 and by_count[count + coming] - by_count[count] > by_count[coming]:
        # They would rather open a batch of their own than make this one grow: only padding is free.
        return min(coming, batch.costs.size_for[count] - count)
    return max(0, coming)


def fill_up(batch: PlannedBatch, start_ns: int, now_ns: int) -> list[Request]:
    """List those of the model who wait and can ride along without hurting anyone.

    Args:
        batch: Out of its plan already.
        start_ns: When it will start.
        now_ns: Cluster time.
    """
    executor, queue = batch.place.executor, batch.place.model.queue
    if not queue:
        return []
    by_count, overhead_ns = batch.costs.by_count, executor.pipe.overhead_ns
    count = len(batch.requests)
    end_ns = start_ns + by_count[count] + overhead_ns
    spare_ns = max(0, executor.plan.least_spare_ns(end_ns, overhead_ns, now_ns))
    due_ns = batch.due_ns
    chosen: list[Request] = []
    for request in queue:
        if count + len(chosen) == batch.costs.largest:
            break
        growth_ns = by_count[count + len(chosen) + 1] - by_count[count]
        due_ns = min(due_ns, request.due_ns)
        if growth_ns > spare_ns or end_ns + growth_ns > due_ns:
            break
        chosen.append(request)
    return chosen


def split_off(batch: PlannedBatch, start_ns: int, now_ns: int) -> Fit | None:
    """Find a place for the last riders of a badly padded batch; they are those beyond `below`.

    Args:
        batch: Out of its plan already, its requests in deadline order.
        start_ns: When it will start.
        now_ns: Cluster time.

    Returns:
        Where they cost less, and nobody is hurt; None if there is no such place.
    """
    place, by_count = batch.place, batch.costs.by_count
    size = batch.costs.below(len(batch.requests))
    rest = len(batch.requests) - size
    if not size or batch.costs.size_for[len(batch.requests)] == len(batch.requests):
        return None
    executor, due_ns = place.executor, batch.requests[size].due_ns
    plan, overhead_ns = executor.plan, executor.pipe.overhead_ns
    plan.changed()
    plan.walk(start_ns + by_count[size] + overhead_ns, overhead_ns, now_ns)
    alone_ns = max(now_ns, place.growing_until_ns) if place.batches else now_ns
    last_ns = plan.expected_finishes[-1] if plan.batches else start_ns
    latest_ns = min(last_ns, due_ns - by_count[rest])
    followers = place.expected_arrivals(latest_ns - alone_ns)
    fit = plan.fit_new(place, overhead_ns, due_ns, count=rest, followers=followers)
    plan.changed()
    if fit is None or by_count[size] + rest * fit.price_ns >= by_count[len(batch.requests)]:
        return None
    return fit
