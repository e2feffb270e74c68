"""Fitting: where a request can be promised, at what price, and whether that is worth it.

The concept: lane time is what is scarce, so each place in a plan has a *price*: the lane time that
each request costs there, counting those that are expected to follow it. Joining a batch costs its
growth; opening one costs its whole duration, shared by all who will ride in it. When the plan is
nearly empty any price will do, since an idle lane is worth nothing; the fuller it is, the cheaper a
place must be, since what is given away now is missing for the denser batch that comes next:

- *Never for lack of room.* A batch that has no room to grow to where its model's demand would take
  it is not opened. Otherwise a full plan admits a batch of 4 whenever a batch of 4 leaves it, and
  keeps that size for ever (half of what is possible, with one overloaded model).
- *Not others' room.* A new batch leaves the room into which planned batches are expected to grow.
- *Fuller is dearer.* From `FULL_RATIO` of the time to the deadline on, cheapness decides.
- *Late is better informed.* With more than `EARLY_RATIO` of that time already taken, a newcomer
  does not open a batch at once: it waits for company while it may be held.

Changes nothing. Neighbours: `default.py` asks, `plan.py` knows what is feasible.

Source: design/0005.
"""

import enum
from typing import Final

from cw.core import admission
from cw.core.books import ModelBooks, Place
from cw.core.plan import Fit

FULL_RATIO: Final = 0.9
"""Where price begins to matter. Lower values refuse rare models for nothing, higher ones let thin
batches crowd out dense ones. With durations that vary by 5 %, 0.9 gained 2 points of the bound over
0.8, and 0.95 as much again at the price of the first broken promises."""
EARLY_RATIO: Final = 0.3
"""From how full a plan on newcomers wait for company. 0.3-0.7 differ by 1 to 2 points at overload;
1 (never) costs up to 9."""
PRICE_TOLERANCE: Final = 1.15
"""How much dearer than at best for its model a place may be."""
REACH_RATIO: Final = 0.9
"""Batch sizes that take more than this share of the time to the deadline are not hoped for."""


class Urgency(enum.Enum):
    """How hard to try."""

    EAGER = "eager"
    """It can still wait: only what pays."""
    LAST = "last"
    """It will be refused otherwise."""
    MUST = "must"
    """It is promised: whatever hurts no other promise."""


def find(
    model: ModelBooks, due_ns: int, *, count: int, urgency: Urgency, now_ns: int
) -> Fit | None:
    """Find where requests of a model would end first, of all places that are worth it.

    Args:
        model: Whose requests.
        due_ns: When the most urgent of them is due.
        count: How many, in one new batch; only the most urgent one joins an existing batch.
        urgency: How hard to try.
        now_ns: Cluster time.
    """
    best: Fit | None = None
    for place in admission.places_to_try(model):
        fit = find_at(place, due_ns, count=count, urgency=urgency, now_ns=now_ns)
        if fit is not None and (best is None or fit.finish_ns < best.finish_ns):
            best = fit
    return best


def find_at(place: Place, due_ns: int, *, count: int, urgency: Urgency, now_ns: int) -> Fit | None:
    """Find the cheapest way at one place; arguments as for `find`."""
    executor = place.executor
    if executor.quiescing:
        return None
    plan, overhead_ns = executor.plan, executor.pipe.overhead_ns
    start_ns = executor.start_ns(now_ns)
    plan.walk(start_ns, overhead_ns, now_ns)
    joined: Fit | None = None
    for batch in place.batches:
        followers = place.expected_arrivals(plan.expected_start_ns(batch) - now_ns)
        fit = plan.fit_join(batch, due_ns, followers)
        if fit is None or not _is_worth(fit, due_ns, 1 + followers, urgency, now_ns):
            continue
        if fit.price_ns == 0:
            return fit
        joined = fit
        break
    last_ns = plan.expected_finishes[-1] if plan.batches else start_ns
    if urgency is Urgency.EAGER and last_ns - now_ns > EARLY_RATIO * (due_ns - now_ns):
        return joined  # `_may_open` would say no; most requests of an overload end here.
    # A new batch will probably run last, and newcomers join those before it first.
    alone_ns = max(now_ns, place.growing_until_ns) if place.batches else now_ns
    followers = place.expected_arrivals(last_ns - alone_ns)
    opened = plan.fit_new(place, overhead_ns, due_ns, count=count, followers=followers)
    if opened is None or not _may_open(opened, due_ns, count + followers, urgency, now_ns):
        return joined
    return joined if joined is not None and joined.price_ns <= opened.price_ns else opened


def _may_open(fit: Fit, due_ns: int, hoped: int, urgency: Urgency, now_ns: int) -> bool:
    if urgency is Urgency.MUST:
        return True
    early_ns = int(EARLY_RATIO * (due_ns - now_ns))
    if urgency is Urgency.EAGER and fit.finish_ns - now_ns > early_ns:
        return False
    return not fit.crowds and _is_worth(fit, due_ns, hoped, urgency, now_ns)


def _is_worth(fit: Fit, due_ns: int, hoped: int, urgency: Urgency, now_ns: int) -> bool:
    """Say whether a price is fair for how full the plan is.

    Args:
        fit: What is judged.
        due_ns: When the request is due.
        hoped: To how many its batch would grow if there were room.
        urgency: Promises are fitted at any price.
        now_ns: Cluster time.
    """
    if urgency is Urgency.MUST or fit.price_ns == 0:
        return True
    costs, overhead_ns = fit.place.costs, fit.place.executor.pipe.overhead_ns
    left_ns = max(1, due_ns - now_ns)
    least_ns = costs.least_price_ns(hoped, int(REACH_RATIO * left_ns), overhead_ns)
    if fit.price_ns > PRICE_TOLERANCE * least_ns:
        return False
    fullness = (fit.finish_ns - now_ns) / left_ns
    cheapness = costs.density_ns(overhead_ns) / fit.price_ns
    return fullness <= FULL_RATIO + (1.0 - FULL_RATIO) * min(1.0, cheapness)
