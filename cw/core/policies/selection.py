"""Selection: which batch a lane runs next, of those that are promised and those that are held.

The concept: choose as late as the pipe allows, among all that could run, the set of batches that
serves most, and run one of them. The set is found by Moore and Hodgson's rule, on batches in place
of single jobs: go through them in due order; when one would be late, leave out the one that is
worth least for its time, until none is. Two things are added to the rule:

- *Promised batches are never left out*: they are constraints, the held ones make the best of what
  is left. A held batch runs only if every promise behind it still holds.
- *Replicas share*: a model that other executors serve, too, takes only its part of the time here,
  since the others will run the rest. Without this, many replicas each give up what another does.

What a held batch is (`_held`): as many as can ride from the most urgent on; less, when what would
be padding runs denser alone; or, when time is short, a larger batch without its most urgent, who
would hold it down to a size at which nobody else is served. Those left out wait on, as long as a
batch of one could still save them.

Of the set, the batch with the least to gain by waiting goes first, if those before it can spare the
time: a full one gains nothing, a thin one may still grow.

Neighbours: `default.py` asks, `plan.py` knows the promised, `shares.py` says what is worth most.

Source: Moore (1968) for the rule; design/0011 for what each part gains.
"""

import heapq
from bisect import bisect_left
from collections.abc import Callable
from typing import Final

import attrs

from cw.core.books import ExecutorBooks, Place
from cw.core.plan import PlannedBatch
from cw.core.queues import ModelQueue
from cw.core.requests import Request
from cw.core.residency import Residency

CANDIDATES_MAX: Final = 64
"""Held batches looked at for one choice, those longest in a queue first."""
DROP_GAIN: Final = 1.15
"""By how much denser a batch must be for its most urgent to be left out."""

Worth = Callable[[Place, Request], float]
"""What one request of a place is worth, all of the same head's kind; in requests, not in time."""


@attrs.define(eq=False)
class Candidate:
    """A batch that could run next. Durations and instants in ns."""

    place: Place
    due_ns: int
    count: int
    cost_ns: int
    """Bound on how long it holds the lane."""
    share_ns: int
    """How long it probably does, less what other replicas take over."""
    worth: float
    """Per ns of lane time."""
    batch: PlannedBatch | None = None
    """None: it is made of the queue's requests from `skip` on."""
    skip: int = 0
    kept: bool = True

    @property
    def must(self) -> bool:
        """Whether it was promised."""
        return self.batch is not None or self.place.model.queue[self.skip].promised


def select(
    executor: ExecutorBooks, worth: Worth, *, allowance_ns: int, now_ns: int
) -> Candidate | None:
    """Choose what runs next; None if nothing can start now.

    A promised batch that is late already (its executor stalled, or it was forced) gives way to
    those that can still be in time, so that one broken promise does not break the next.

    Args:
        executor: Whose lane is soon free.
        worth: What one request is worth.
        allowance_ns: Held requests are due so long before their deadlines, or earlier.
        now_ns: Cluster time.
    """
    start_ns = executor.start_ns(now_ns)
    candidates, late = _promised(executor, start_ns)
    if not executor.quiescing:
        candidates += _all_held(executor, worth, start_ns, allowance_ns)
    candidates.sort(key=_by_due)
    executor.pressed = _leave_out(candidates, start_ns)
    kept = [each for each in candidates if each.kept]
    if kept:
        return _first_to_run(executor, kept, start_ns, now_ns)
    densest = max(candidates, key=lambda each: each.worth, default=None)
    if densest is not None and start_ns + densest.cost_ns <= densest.due_ns:
        return densest
    return late


def _by_due(candidate: Candidate) -> tuple[int, int]:
    return candidate.due_ns, candidate.place.model.spec.model_id


# --- what could run -------------------------------------------------------------------------------


def _promised(executor: ExecutorBooks, start_ns: int) -> tuple[list[Candidate], Candidate | None]:
    overhead_ns = executor.pipe.overhead_ns
    candidates, late = [], None
    for batch in executor.plan.batches:
        if batch.place.residency is Residency.COLD or batch.release_ns > start_ns:
            continue
        count, costs = len(batch.requests), batch.costs
        cost_ns = costs.by_count[count] + overhead_ns
        candidate = Candidate(
            batch.place,
            batch.due_ns,
            count,
            cost_ns,
            costs.typical_by_count[count] + overhead_ns,
            float("inf"),
            batch,
        )
        if start_ns + cost_ns > batch.due_ns and start_ns + cost_ns > batch.deadline_ns:
            late = late or candidate
        else:
            candidates.append(candidate)
    return candidates, late


def _all_held(
    executor: ExecutorBooks, worth: Worth, start_ns: int, allowance_ns: int
) -> list[Candidate]:
    candidates = []
    for looked_at, place in enumerate(executor.waiting.values()):
        if looked_at >= CANDIDATES_MAX:
            break
        if place.warm_ns > start_ns:
            continue
        candidate = _held(place, worth, start_ns, allowance_ns)
        if candidate is not None:
            candidates.append(candidate)
    return candidates


def _held(place: Place, worth: Worth, start_ns: int, allowance_ns: int) -> Candidate | None:
    executor, queue, costs = place.executor, place.model.queue, place.costs
    overhead_ns, by_count = executor.pipe.overhead_ns, costs.by_count
    # Delivery may be seen to take longer since the dues were noted: as if all started later.
    head = queue[0]
    slip_ns = 0 if head.promised else max(0, head.due_ns + allowance_ns - head.deadline_ns)
    from_ns = start_ns + overhead_ns + slip_ns
    skip = 0
    first_due_ns = from_ns + by_count[1]
    if head.due_ns < first_due_ns and not head.promised:
        skip = _first_due(queue, first_due_ns)
        if skip == len(queue):
            return None
    count = queue.largest_fit(by_count, from_ns, skip=skip)
    if queue[skip].promised:
        count = max(1, count)
    else:
        waiting = len(queue) - skip
        if count and costs.size_for[count] != count:
            count = _without_padding(place, skip, count, from_ns)
        if count < min(waiting, costs.largest):
            skip, count = _without_oldest(place, skip, count, from_ns)
        if not count:
            return None
    cost_ns = by_count[count] + overhead_ns
    share_ns = (costs.typical_by_count[count] + overhead_ns) // len(place.model.serving)
    due_ns = queue[skip].due_ns - slip_ns
    value = worth(place, queue[skip]) * count / cost_ns
    return Candidate(place, due_ns, count, cost_ns, share_ns, value, None, skip)


def _first_due(queue: ModelQueue, due_ns: int) -> int:
    return bisect_left(queue, due_ns, key=_due)


def _due(request: Request) -> int:
    return request.due_ns


def _without_padding(place: Place, skip: int, count: int, from_ns: int) -> int:
    """Take the captured size below if it is denser and those left behind can follow in time."""
    costs, queue = place.costs, place.model.queue
    by_count, below = costs.by_count, costs.below(count)
    if below and below * by_count[count] > count * by_count[below]:
        follow_ns = from_ns + by_count[below] + by_count[count - below]
        if follow_ns <= queue[skip + below].due_ns:
            return below
    return count


def _without_oldest(place: Place, skip: int, count: int, from_ns: int) -> tuple[int, int]:
    """Leave out the most urgent where that makes a batch much denser and time is short."""
    costs, queue = place.costs, place.model.queue
    by_count, waiting = costs.by_count, len(queue) - skip
    if count and not place.executor.pressed:
        rest = min(waiting - count, costs.largest)
        if from_ns + by_count[count] + by_count[rest] <= queue[skip + count].due_ns:
            return skip, count  # the rest can follow in time: nobody need be left out
    best = skip, count
    density = count / by_count[count] if count else 0.0
    least = DROP_GAIN * density
    for size in costs.batch_sizes:
        if size <= count:
            continue
        first = _first_due(queue, from_ns + by_count[size])
        riders = min(len(queue) - first, size)
        if riders > 0 and riders / by_count[size] > least:
            best, least = (first, riders), riders / by_count[size]
    return best


# --- what is kept, and what goes first ------------------------------------------------------------


def _leave_out(candidates: list[Candidate], start_ns: int) -> bool:
    """Apply Moore and Hodgson's rule to candidates in due order; say whether time was short."""
    end_ns, optional, pressed = start_ns, list[tuple[float, int]](), False
    for index, candidate in enumerate(candidates):
        end_ns += candidate.share_ns
        if not candidate.must:
            heapq.heappush(optional, (candidate.worth, index))
        while optional and end_ns - candidate.share_ns + candidate.cost_ns > candidate.due_ns:
            left_out = candidates[heapq.heappop(optional)[1]]
            left_out.kept, pressed = False, True
            end_ns -= left_out.share_ns
            if left_out is candidate:
                break
    return pressed


def _first_to_run(
    executor: ExecutorBooks, kept: list[Candidate], start_ns: int, now_ns: int
) -> Candidate | None:
    best: Candidate | None = None
    least_gain, spare_ns, end_ns = 0, 1 << 62, start_ns
    for candidate in kept:
        end_ns += candidate.share_ns
        in_time = start_ns + candidate.cost_ns <= candidate.due_ns
        may = candidate is kept[0] or (candidate.cost_ns <= spare_ns and in_time)
        if may and _is_harmless(executor, candidate, start_ns, now_ns):
            gain = _gain(candidate, candidate.due_ns - start_ns - candidate.cost_ns)
            if best is None or gain < least_gain:
                best, least_gain = candidate, gain
            if gain == 0:
                break
        spare_ns = min(spare_ns, candidate.due_ns - end_ns)
        if spare_ns <= 0:
            break
    return best


def _is_harmless(executor: ExecutorBooks, candidate: Candidate, start_ns: int, now_ns: int) -> bool:
    """Say whether every promise still holds, by the bounds, if this one runs first."""
    plan, overhead_ns, cost_ns = executor.plan, executor.pipe.overhead_ns, candidate.cost_ns
    if candidate.batch is None:
        if candidate.must or not plan.batches:
            return True
        return plan.least_spare_ns(start_ns + cost_ns, overhead_ns, now_ns) >= 0
    plan.walk(start_ns, overhead_ns, now_ns)
    for batch, finish_ns in zip(plan.batches, plan.finishes, strict=True):
        if batch is candidate.batch:
            break
        if finish_ns + cost_ns > batch.due_ns >= finish_ns:
            return False
    return True


def _gain(candidate: Candidate, slack_ns: int) -> int:
    """Guess how many more would ride if the batch waited as long as it can."""
    place, count = candidate.place, candidate.count
    coming = place.expected_arrivals(slack_ns)
    return place.costs.densest(count, count + coming) - count if coming else 0
