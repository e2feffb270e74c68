"""Composing: who rides in a promised batch when it is committed.

The concept: until then its riders can still be chosen better. Two rules:

1. *Fill up* with those who are held, as far as every promise allows.
2. *Split off* riders whose padding costs more than a batch of their own: 9 requests in a batch of
   16 take nearly twice as long as 8, so the ninth goes into a later batch if that is in time.

Neighbours: `default.py` calls these in this order; `plan.py` knows what is feasible.

Source: design/0005.
"""

from cw.core.plan import Fit, PlannedBatch
from cw.core.requests import Request


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
