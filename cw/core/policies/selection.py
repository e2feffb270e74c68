"""Selection: which batch a lane runs next, of those that are promised and those that are held.

The concept: choose as late as the pipe allows, among all that could run, the set of batches that
serves most, and run one of them. The set is found by Moore and Hodgson's rule, on batches in place
of single jobs: go through them in due order; when one would be late, leave out the one that is
worth least for its time, until none is. Two things are added to the rule:

- *Promised batches are never left out*: they are constraints, the held ones make the best of what
  is left. A held batch runs only if every promise behind it still holds.
- *Replicas share*: a model that other executors serve, too, takes only its part of the time here,
  since the others will run the rest. Without this, many replicas each give up what another does.

What a held batch is (`renew`): as many as can ride from the most urgent on; less, when what would
be padding runs denser alone; or, when time is short, a larger batch without its most urgent, who
would hold it down to a size at which nobody else is served. Those left out wait on, as long as a
batch of one could still save them.

Of the set, the most urgent goes first, if there is time to spare. When time is short, and among the
promised, it is the batch with the least to gain by waiting, if those before it can spare the time:
a full one gains nothing, a thin one may still grow. A batch that nobody is owed goes before one
that is owed only if that can spare the time even when as much more comes as is reserved: what is
spent on a flood is missing when its victims' next requests arrive.

Neighbours: `default.py` asks, `plan.py` knows the promised, `shares.py` says what is worth most.

Source: Moore (1968) for the rule; design/0011 for what each part gains.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import islice
from operator import attrgetter
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

Worth = Callable[[Place, Request], tuple[float, bool]]
"""What one request like the given one is worth at a place, and whether it is owed device time."""
OWED_WORTH: Final = 1e9
"""What is owed is worth so many times as much as what is not: above any other ratio."""


NO_LIMIT_NS: Final = 1 << 62
_ORDER: Final = attrgetter("order")


@attrs.define(eq=False)
class Candidate:
    """A batch that could run next. Durations and instants in ns.

    A place has one for those who are held, which is renewed when it is out of date (`renew`).
    """

    place: Place
    head: Request
    """The most urgent of its requests."""
    due_ns: int = 0
    count: int = 0
    """Its requests; 0 if none of those who wait can be in time."""
    cost_ns: int = 0
    """Bound on how long it holds the lane."""
    share_ns: int = 0
    """How long it probably does, less what other replicas take over."""
    must: bool = False
    """It was promised."""
    batch: PlannedBatch | None = None
    """None: it is made of the queue's requests from `skip` on."""
    order: tuple[int, int] = (0, 0)
    """By due time, and then always the same."""
    skip: int = 0
    kept: bool = True
    latest_ns: int = 0
    """Until when it is the best of those who wait, if nobody comes or goes; 0: only at once."""
    revision: int = 0
    """Of the model, when it was renewed."""
    allowance_ns: int = 0
    """What `due_ns` was made with."""


def select(
    executor: ExecutorBooks,
    worth: Worth,
    *,
    cold: Sequence[Candidate] = (),
    reserved: float,
    allowance_ns: int,
    now_ns: int,
) -> Candidate | None:
    """Choose what runs next; None if nothing can start now.

    A promised batch that is late already (its executor stalled, or it was forced) gives way to
    those that can still be in time, so that one broken promise does not break the next.

    Args:
        executor: Whose lane is soon free.
        worth: What one request is worth.
        cold: Batches that need a LOAD first, on this lane; see `cold.py`.
        reserved: Which share of the lane is asked for by those who are owed all that they ask for.
        allowance_ns: Held requests are due so long before their deadlines, or earlier.
        now_ns: Cluster time.
    """
    start_ns = executor.start_ns(now_ns)
    candidates, late = _promised(executor, start_ns)
    if not executor.quiescing:
        candidates += _all_held(executor, start_ns, allowance_ns)
        candidates += cold
    candidates.sort(key=_ORDER)
    executor.pressed = not _all_in_time(candidates, start_ns)
    if executor.pressed:
        _leave_out(candidates, _densities(candidates, worth), start_ns)
        candidates = [each for each in candidates if each.kept]
    if not candidates:
        return late
    left_ns = _left_for_others(candidates, worth, reserved, start_ns) if reserved else NO_LIMIT_NS
    return _first_to_run(executor, candidates, worth, left_ns, start_ns, now_ns) or late


# --- what could run -------------------------------------------------------------------------------


def _promised(executor: ExecutorBooks, start_ns: int) -> tuple[list[Candidate], Candidate | None]:
    overhead_ns = executor.pipe.overhead_ns
    candidates, late = [], None
    for batch in executor.plan.batches:
        if batch.place.residency is Residency.COLD or batch.release_ns > start_ns:
            continue
        count, costs = len(batch.requests), batch.costs
        cost_ns = costs.by_count[count] + overhead_ns
        likely_ns = costs.typical_by_count[count] + overhead_ns
        candidate = Candidate(
            batch.place,
            batch.requests[0],
            batch.due_ns,
            count,
            cost_ns,
            likely_ns,
            True,
            batch,
            (batch.due_ns, batch.place.model.spec.model_id),
        )
        # An estimate that rose since must not give up what will probably still be in time.
        if start_ns + likely_ns > max(batch.due_ns, batch.deadline_ns):
            late = late or candidate
        else:
            candidates.append(candidate)
    return candidates, late


def _all_held(executor: ExecutorBooks, start_ns: int, allowance_ns: int) -> list[Candidate]:
    candidates = []
    overhead_ns = executor.pipe.overhead_ns
    from_ns = start_ns + overhead_ns
    for place in islice(executor.waiting.values(), CANDIDATES_MAX):
        if place.warm_ns > start_ns:
            continue
        offer = place.offer
        if offer is None:
            offer = place.offer = Candidate(place, place.model.queue[0])
        if (
            offer.revision != place.model.revision
            or offer.latest_ns < from_ns
            or offer.allowance_ns != allowance_ns
            or offer.cost_ns != place.costs.by_count[offer.count] + overhead_ns
        ):  # Else it is as it was at the last look.
            renew(offer, place, from_ns, overhead_ns, allowance_ns)
        if offer.count:
            offer.kept = True
            candidates.append(offer)
    return candidates


def renew(
    offer: Candidate, place: Place, from_ns: int, overhead_ns: int, allowance_ns: int
) -> None:
    """Make it the best batch of those who wait at its place, if that ran from `from_ns` on."""
    model, costs = place.model, place.costs
    queue, by_count = model.queue, costs.by_count
    head, count, skip, latest_ns = queue[0], len(queue), 0, 0
    due_ns = head.due_ns
    if not head.promised and due_ns + allowance_ns > head.deadline_ns:
        # Delivery was seen to take longer since the dues were noted: as if all started later.
        due_ns = head.deadline_ns - allowance_ns
    if count <= costs.largest and costs.runs_whole[count] and from_ns + by_count[count] <= due_ns:
        # As nearly always: all who wait ride in one batch.
        if costs.size_for[count] == count:
            latest_ns = due_ns - by_count[count]
    else:
        slip_ns = head.due_ns - due_ns
        skip, count = _best_part(place, from_ns + slip_ns)
        if count:
            head = queue[skip]
            due_ns = head.due_ns - slip_ns
    offer.head, offer.skip, offer.count = head, skip, count
    offer.due_ns, offer.must = due_ns, head.promised
    offer.order = due_ns, model.spec.model_id
    offer.cost_ns = by_count[count] + overhead_ns
    offer.share_ns = (costs.typical_by_count[count] + overhead_ns) // max(1, len(model.serving))
    offer.latest_ns, offer.revision, offer.allowance_ns = latest_ns, model.revision, allowance_ns


def _best_part(place: Place, from_ns: int) -> tuple[int, int]:
    """Choose who rides: how many of the most urgent are left out, and how many ride then.

    Returns:
        Both; the latter is 0 if nobody can be in time.
    """
    queue, costs = place.model.queue, place.costs
    by_count, skip = costs.by_count, 0
    if queue[0].promised:
        return 0, max(1, queue.largest_fit(by_count, from_ns))
    first_due_ns = from_ns + by_count[1]
    if queue[0].due_ns < first_due_ns:
        skip = _first_due(queue, first_due_ns)
        if skip == len(queue):
            return 0, 0
    count = queue.largest_fit(by_count, from_ns, skip=skip)
    if count and costs.size_for[count] != count:
        count = _without_padding(place, skip, count, from_ns)
    if count < min(len(queue) - skip, costs.largest):
        skip, count = _without_oldest(place, skip, count, from_ns)
    return skip, count


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
    # One model alone gives nobody else's batch a chance: all it can win is density.
    least = density if len(place.executor.waiting) == 1 else DROP_GAIN * density
    for size in costs.batch_sizes:
        if size <= count:
            continue
        first = _first_due(queue, from_ns + by_count[size])
        riders = min(len(queue) - first, size)
        if riders > 0 and riders / by_count[size] > least:
            best, least = (first, riders), riders / by_count[size]
    return best


# --- what is kept, and what goes first ------------------------------------------------------------


def _all_in_time(candidates: list[Candidate], start_ns: int) -> bool:
    """Say whether all candidates, in due order one after the other, are in time."""
    end_ns = start_ns
    for candidate in candidates:
        if end_ns + candidate.cost_ns > candidate.due_ns:
            return False
        end_ns += candidate.share_ns
    return True


def _densities(candidates: list[Candidate], worth: Worth) -> list[float]:
    """Say what each candidate is worth per ns of lane time."""
    densities = []
    for candidate in candidates:
        density = math.inf
        if not candidate.must:
            each, owed = worth(candidate.place, candidate.head)
            density = (each * OWED_WORTH if owed else each) * candidate.count / candidate.cost_ns
        densities.append(density)
    return densities


def _leave_out(candidates: list[Candidate], densities: list[float], start_ns: int) -> None:
    """Apply Moore and Hodgson's rule to candidates in due order."""
    end_ns, entered, optional = start_ns, 0, list[tuple[float, int]]()
    for index, candidate in enumerate(candidates):
        end_ns += candidate.share_ns
        if end_ns - candidate.share_ns + candidate.cost_ns <= candidate.due_ns:
            continue
        for other in range(entered, index + 1):
            if not candidates[other].must:
                heapq.heappush(optional, (densities[other], other))
        entered = index + 1
        while optional and end_ns - candidate.share_ns + candidate.cost_ns > candidate.due_ns:
            left_out = candidates[heapq.heappop(optional)[1]]
            left_out.kept = False
            end_ns -= left_out.share_ns
            if left_out is candidate:
                break


def _first_to_run(
    executor: ExecutorBooks,
    kept: list[Candidate],
    worth: Worth,
    left_ns: int,
    start_ns: int,
    now_ns: int,
) -> Candidate | None:
    best: Candidate | None = None
    least_gain, spare_ns, end_ns = 0, NO_LIMIT_NS, start_ns
    for candidate in kept:
        cost_ns = candidate.cost_ns
        slack_ns = candidate.due_ns - start_ns - cost_ns
        if spare_ns == NO_LIMIT_NS or (cost_ns <= spare_ns and slack_ns >= 0):
            barred = cost_ns > left_ns and not candidate.must
            if (barred and not worth(candidate.place, candidate.head)[1]) or not _is_harmless(
                executor, candidate, start_ns, now_ns
            ):
                continue  # what may not run now holds up nobody, or the lane would idle
            gain = _gain(candidate, slack_ns) if executor.pressed or candidate.must else 0
            if best is None or gain < least_gain:
                best, least_gain = candidate, gain
            if gain == 0:
                break
        end_ns += candidate.share_ns
        spare_ns = min(spare_ns, candidate.due_ns - end_ns)
        if spare_ns <= 0:
            break
    return best


def _left_for_others(kept: list[Candidate], worth: Worth, reserved: float, start_ns: int) -> int:
    """Say how long a batch may take that is not owed and runs before those that are."""
    left_ns, end_ns = NO_LIMIT_NS, start_ns
    for candidate in kept:
        if candidate.must or worth(candidate.place, candidate.head)[1]:
            end_ns += candidate.share_ns
            left_ns = min(left_ns, candidate.due_ns - end_ns)
    return left_ns if left_ns == NO_LIMIT_NS else int((1.0 - reserved) * left_ns)


def _is_harmless(executor: ExecutorBooks, candidate: Candidate, start_ns: int, now_ns: int) -> bool:
    """Say whether every promise still holds, by the bounds, if this one runs first."""
    plan, overhead_ns, cost_ns = executor.plan, executor.pipe.overhead_ns, candidate.cost_ns
    if candidate.batch is None:
        if not plan.batches or plan.least_spare_ns(start_ns + cost_ns, overhead_ns, now_ns) >= 0:
            return True
        delayed = plan.finishes
        plan.walk(start_ns, overhead_ns, now_ns)
    else:
        plan.walk(start_ns, overhead_ns, now_ns)
        delayed = [finish_ns + cost_ns for finish_ns in plan.finishes]
    for batch, finish_ns, late_ns in zip(plan.batches, plan.finishes, delayed, strict=True):
        if batch is candidate.batch:
            break
        if late_ns > max(batch.due_ns, finish_ns) and finish_ns <= batch.deadline_ns:
            return False
    return True


def _gain(candidate: Candidate, slack_ns: int) -> int:
    """Guess how many more would ride if the batch waited as long as it can."""
    place, count = candidate.place, candidate.count
    coming = place.expected_arrivals(slack_ns)
    return place.costs.densest(count, count + coming) - count if coming else 0
