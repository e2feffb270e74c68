"""Placement: whose weights to LOAD, where, and whose to UNLOAD for them.

The concept: a LOAD is worth what it saves. A cold model is worth the requests in its queue that
can still be answered after the LOAD's end and one more round trip; loading for what is lost anyway
is how a loader collapses under overload (36 requests/s in place of 150 in simulation). A warm model
is worth another replica when its executors turn requests away and another has room. Pages are freed
least popular first, never of a model with promised or running work.

A model that was refused because it is cold is loaded for the next who ask, where its LOAD is in
nobody's way and those that make room for it are asked for less. A model that is new is loaded while
there are idle pages: its first request need not wait.

Who could load a model is noted with the executors when it is asked for (`wanted`, `short`,
`missed`), so that an executor whose LOAD lane is free looks only at what it could load. Of those
notes, out-of-date ones are left out when they are met.

Knows nothing of how batches are planned. Neighbours: policies ask; `dispatch.py` carries out.
"""

import math
from bisect import bisect_left
from itertools import islice
from typing import Final

from cw.core import admission, standing
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.requests import Request
from cw.core.residency import Residency
from cw.core.timeline import NEVER_NS
from cw.messages import ModelId
from cw.units import MS

LOAD_AHEAD_NS: Final = 3 * MS
"""Order a LOAD so long before its lane is free: later knows more, sooner keeps the lane busy."""
WANTED_AHEAD_RATIO: Final = 0.5
"""A LOAD that somebody waits for is ordered earlier, by up to this share of what its SLO leaves: a
request is promised once its LOAD is on its way, and refused if its hold ends before. With 4,000
Azure-like models on 6 GPUs that are 94 % busy, 10 of 25,600 requests are refused in place of 47; a
LOAD lane filled for the whole SLO would load for what is lost by then (114/s in place of 147)."""
WANTED_AHEAD_MAX_NS: Final = 45 * MS
"""Bound on that, since a LOAD lane that is full keeps out those in more of a hurry."""
SHORT_LOOK_NS: Final = 2 * MS
"""How often it is looked for room for a model that its executors turn away."""
SPARE_LOOK_NS: Final = 10 * MS
"""How often it is looked for idle pages for a model that is asked for."""
SPARE_REPLICAS_MAX: Final = 6
"""A model that is warm on so many executors is not loaded on more for idle pages' sake. A lane that
could run every model chooses worse: 64 V100s and 1,000 models at 1.1 of capacity reach 92.6, 93.2,
92.0, 90.2 and 88.8 % of the bound with 2, 6, 8, 10 and no limit; six V100s reach as much with 6."""
SHORT_NS: Final = 10 * MS
"""How long ago a model must have been turned away at most, to want a replica."""
QUEUE_BONUS: Final = 5.0
"""A model that is waited for stays: as if it had been used e^5 times as much."""
MISSED_NS: Final = 1000 * MS
"""How long after a refusal for being cold a model is still worth loading for others to come."""
MISSED_GAIN: Final = 0.5
"""By how much more (as a logarithm) it must be asked for than what it would push out: pages that
change hands at every request serve nobody."""
BUSY_RATIO: Final = 0.6
"""A replica goes to an executor with less than this share of the others' backlog."""
ROOMY_NS: Final = 10 * MS
"""An executor has room for one more model if what it promised is done so soon."""
MODELS_LOOKED_AT: Final = 256
HELD_LOOKED_AT: Final = 32
"""Of the models that are waited for, so many are counted in an executor's backlog."""
PLACES_WOKEN: Final = 2
"""Executors told at once that a cold model is waited for; the others find it when their LOAD lane
comes free."""
LOADING_RATIO: Final = 4
"""Of so many replicas one may be on its way, and one at least: demand that doubled overnight is met
in a few steps, and one that was a burst does not fill every executor."""


# --- what is asked for ----------------------------------------------------------------------------


def note_shortage(books: Books, model: ModelBooks, now_ns: int) -> None:
    """Remember that a model's executors had no room for it; wake those that could load it."""
    if not model.serving:
        _want(books, model, now_ns)
    elif now_ns - model.asked_ns >= SHORT_LOOK_NS:
        model.asked_ns = now_ns
        _want_replica(books, model, now_ns)


def note_spare_pages(books: Books, model: ModelBooks, now_ns: int) -> None:
    """Have a warm model loaded where pages and the LOAD lane lie idle: one more lane to choose.

    Such a replica costs nobody anything, and is the first to go when its pages are wanted.
    """
    if len(model.serving) >= SPARE_REPLICAS_MAX or now_ns - model.asked_ns < SPARE_LOOK_NS:
        return
    model.asked_ns = now_ns
    pages = model.spec.pages
    for place in _in_turn(model, [place for place in model.places.values() if _is_cold(place)]):
        executor = place.executor
        idle = not (executor.wanted or executor.load.outstanding or executor.device.shared_lanes)
        if idle and executor.pages.free >= pages:
            executor.short[model.model_id] = place
            books.dirty[executor.executor_id] = executor
            return


def _want(books: Books, model: ModelBooks, now_ns: int) -> None:
    """Note a cold model where it could be loaded; wake those who would have it warm first."""
    candidates = [place for place in model.places.values() if place.stage is Stage.READY]
    for place in candidates:
        place.executor.wanted[model.model_id] = place
    could_grow = len(model.places) < len(books.executors)
    if len(candidates) <= PLACES_WOKEN and not could_grow:
        for place in candidates:  # nothing to choose
            books.dirty[place.executor.executor_id] = place.executor
        return
    ends = sorted(
        (_warm_ns(books, place, now_ns), -place.executor.pages.free, place.executor.executor_id)
        for place in _in_turn(model, candidates)
    )
    for _, _, executor_id in ends[:PLACES_WOKEN]:
        books.dirty[executor_id] = books.executors[executor_id]
    if could_grow and model.queue and ends:
        best = model.places[ends[0][2]]
        load_ns = books.profiles.load_ns(best.executor.device, model.spec.image_bytes)
        # Others wait for these executors' LOAD lanes, too, and each will be loaded by one of them.
        before_ns = len(best.executor.wanted) * load_ns // len(candidates)
        if ends[0][0] + before_ns > model.queue[-1].due_ns:
            books.cramped[model.model_id] = model


def _want_replica(books: Books, model: ModelBooks, now_ns: int) -> None:
    """Note a warm model that is turned away where it would have room."""
    recent = model.serving[-admission.PLACES_LOOKED_AT :]
    loading = sum(place.residency is Residency.LOADING for place in recent)
    if loading > len(model.serving) // LOADING_RATIO:
        return
    cold = [place for place in model.places.values() if _is_cold(place)]
    could_grow = len(model.places) < len(books.executors)
    # Where nobody else could take it, no more need be known than whether all of them are busy.
    others_ns = NEVER_NS if cold else ROOMY_NS + 1 if could_grow else 0
    for place in admission.places_to_try(model):
        others_ns = min(others_ns, backlog_ns(place.executor, now_ns, enough_ns=others_ns))
    best: Place | None = None
    least_ns = int(BUSY_RATIO * others_ns)
    for place in _in_turn(model, cold):
        waits_ns = backlog_ns(place.executor, now_ns, enough_ns=least_ns)
        if waits_ns < least_ns:
            best, least_ns = place, waits_ns
    if best is not None:
        best.executor.short[model.model_id] = best
        books.dirty[best.executor.executor_id] = best.executor
    elif others_ns > ROOMY_NS and could_grow:
        books.cramped[model.model_id] = model


def _in_turn(model: ModelBooks, places: list[Place]) -> list[Place]:
    """Pick a few of many places, others each time."""
    count = admission.PLACES_LOOKED_AT
    if len(places) <= count:
        return places
    first = model.looked_at = (model.looked_at + count) % len(places)
    return (places[first:] + places[:first])[:count]


# --- what is loaded -------------------------------------------------------------------------------


def next_load(
    books: Books, executor: ExecutorBooks, *, now_ns: int, is_waited_for: bool = True
) -> Place | None:
    """Choose whose weights an executor should load now, if anyone's.

    Args:
        books: All.
        executor: Whose LOAD lane is soon free.
        now_ns: Cluster time.
        is_waited_for: Look at the models that requests wait for, too; else somebody else does.
    """
    if not (executor.wanted or executor.has_cold):
        return None
    waits_ns = executor.load_start_ns(now_ns) - now_ns
    if waits_ns > WANTED_AHEAD_MAX_NS:
        return None
    # What is ordered ahead for one resource keeps the INFERs behind it waiting: 64 models through
    # room for 16 on a CPU with a noise of 30 % kept 86 % of the bound without it, 72 % with it.
    if executor.device.shared_lanes and not _load_lane_is_due(executor, now_ns):
        return None
    place = _most_wanted(books, executor, now_ns) if is_waited_for else None
    if _load_lane_is_due(executor, now_ns):
        place = place or standing.next_pinned(books, executor)
        place = place or _replica(executor, now_ns) or _missed(books, executor, now_ns)
        place = place or _fresh(executor)
    elif place is not None and _leave_to_others(books, place, now_ns):
        return None
    if place is None or not can_load(books, place, now_ns):
        return None
    return place


def _leave_to_others(books: Books, place: Place, now_ns: int) -> bool:
    """Say whether another executor could load a model sooner; that one is woken."""
    start_ns = place.executor.load_start_ns(now_ns)
    cold = [each for each in place.model.places.values() if _is_cold(each)]
    for other in _in_turn(place.model, cold):
        if other.executor.load_start_ns(now_ns) + LOAD_AHEAD_NS < start_ns:
            books.dirty[other.executor.executor_id] = other.executor
            return True
    return False


def _load_lane_is_due(executor: ExecutorBooks, now_ns: int) -> bool:
    lead_ns = max(LOAD_AHEAD_NS, executor.pipe.delay_ns)
    return executor.load_start_ns(now_ns) <= now_ns + lead_ns


def is_roomy(executor: ExecutorBooks, now_ns: int) -> bool:
    """Say whether an executor could take one more model at once."""
    return (
        not executor.quiescing
        and _load_lane_is_due(executor, now_ns)
        and backlog_ns(executor, now_ns) <= ROOMY_NS
    )


def can_load(books: Books, place: Place, now_ns: int) -> bool:
    """Say whether a LOAD can go now: pages can be freed, and no promise suffers."""
    executor = place.executor
    if choose_victims(books, place) is None:
        return False
    if not executor.device.shared_lanes:
        return True
    load_ns = books.profiles.load_ns(executor.device, place.model.spec.image_bytes)
    start_ns = executor.start_ns(now_ns)
    return executor.plan.least_spare_ns(start_ns, executor.pipe.overhead_ns, now_ns) >= load_ns


def choose_victims(books: Books, place: Place) -> list[ModelId] | None:
    """Choose whose pages to free for a place's weights; None if that cannot be done."""
    executor = place.executor
    missing = place.model.spec.pages - executor.pages.free
    if missing <= 0:
        return []

    def key_of(model_id: ModelId) -> float | None:
        other = executor.places[model_id]
        if other is place or other.in_use or other.stage is Stage.PROBING:
            return None
        if other.unused and other.model.queue:
            return None  # else models that wait push each other out, and nobody is served
        if other.residency is not Residency.WARM:
            return None
        key = other.model.popularity.key
        replicas = len(other.model.serving)
        if replicas <= 1 and other.model.spec.name in books.pinned:
            return None
        if replicas > 1:
            key -= math.log(replicas)
        return key + QUEUE_BONUS if other.model.queue else key

    return executor.eviction.choose(missing, key_of=key_of, pages_of=executor.pages.held)


def _most_wanted(books: Books, executor: ExecutorBooks, now_ns: int) -> Place | None:
    """Find the cold model with the most queued work that a LOAD would save; promised first."""
    best: Place | None = None
    best_worth = (0, 0)
    is_due = _load_lane_is_due(executor, now_ns)
    load_start_ns, start_ns = executor.load_start_ns(now_ns), executor.start_ns(now_ns)
    waits_ns, overhead_ns = load_start_ns - now_ns, executor.pipe.overhead_ns
    round_trip_ns = executor.pipe.round_trip_ns
    loads_ns: dict[int, int] = {}  # by size: few sizes, many models
    spent: list[ModelId] = []
    for looked_at, (model_id, place) in enumerate(executor.wanted.items()):
        if looked_at >= MODELS_LOOKED_AT:
            break
        model = place.model
        queue = model.queue
        if model.serving or not queue or place.stage is not Stage.READY:
            spent.append(model_id)
            continue
        size = model.spec.image_bytes
        if size not in loads_ns:
            loads_ns[size] = books.profiles.load_ns(executor.device, size)
        # As `admission.cold_ready_ns` has it.
        ready_ns = max(load_start_ns + loads_ns[size] + round_trip_ns, start_ns)
        end_ns = ready_ns + place.costs.by_count[1] + overhead_ns
        last = queue[-1]
        if last.due_ns < end_ns:
            spent.append(model_id)
            continue
        savable = len(queue)
        if queue[0].due_ns < end_ns:
            savable -= bisect_left(queue, end_ns, key=_due_ns)
        left_ns = last.due_ns - last.arrival_ns - (end_ns - now_ns - waits_ns)
        if not is_due and waits_ns > WANTED_AHEAD_RATIO * left_ns:
            continue
        # What is open of a model that is nowhere warm is promised and waits.
        worth = (model.open, savable)
        if worth > best_worth:
            best, best_worth = place, worth
    for model_id in spent:
        del executor.wanted[model_id]
    return best


def _replica(executor: ExecutorBooks, now_ns: int) -> Place | None:
    """Find a model that is short of executors and that this one has room for."""
    while executor.short:
        place = executor.short.pop(next(iter(executor.short)))
        if _is_cold(place) and now_ns - place.model.asked_ns <= SHORT_NS:
            return place
    return None


def _missed(books: Books, executor: ExecutorBooks, now_ns: int) -> Place | None:
    """Find the most popular model that was refused for being cold, if it deserves its pages.

    No request waits for it: each had too little time for the LOAD. Without this it would stay cold
    for as long as all who ask are in such a hurry.
    """
    best: Place | None = None
    spent: list[ModelId] = []
    for looked_at, (model_id, place) in enumerate(executor.missed.items()):
        if looked_at >= MODELS_LOOKED_AT:
            break
        model = place.model
        if model.serving or now_ns - model.missed_ns > MISSED_NS or not _is_cold(place):
            spent.append(model_id)
        elif best is None or model.popularity.key > best.model.popularity.key:
            best = place
    for model_id in spent:
        del executor.missed[model_id]
    if best is None:
        return None
    least_key = best.model.popularity.key - MISSED_GAIN
    victims = choose_victims(books, best)
    if victims is None:
        return None
    pushed_out = [executor.places[victim].model for victim in victims]
    if all(model.popularity.key <= least_key for model in pushed_out):
        return best
    # If the most popular does not deserve its pages, none does, until it is asked for again.
    executor.missed.clear()
    return None


def _fresh(executor: ExecutorBooks) -> Place | None:
    """Find a model that was never warm, if its pages lie idle: its first request need not wait."""
    while executor.fresh:
        model_id, place = next(iter(executor.fresh.items()))
        if _is_cold(place) and not place.model.serving:
            if executor.pages.free < place.model.spec.pages:
                return None
            del executor.fresh[model_id]
            return place
        del executor.fresh[model_id]
    return None


def _is_cold(place: Place) -> bool:
    return place.stage is Stage.READY and place.residency is Residency.COLD


def _due_ns(request: Request) -> int:
    return request.due_ns


def _warm_ns(books: Books, place: Place, now_ns: int) -> int:
    """Say when a lone request could be done at a cold place, behind all that is promised there."""
    executor = place.executor
    ready_ns = max(
        admission.cold_ready_ns(books, place, now_ns), now_ns + backlog_ns(executor, now_ns)
    )
    return ready_ns + place.costs.by_count[1] + executor.pipe.overhead_ns


def backlog_ns(executor: ExecutorBooks, now_ns: int, *, enough_ns: int = NEVER_NS) -> int:
    """Say how long an executor has to do with what is promised and held, its part of it.

    Args:
        executor: Whose lane.
        now_ns: Cluster time.
        enough_ns: So much is as good as more: what else is held need not be counted.
    """
    start_ns = executor.start_ns(now_ns)
    executor.plan.walk(start_ns, executor.pipe.overhead_ns, now_ns)
    end_ns = executor.plan.finishes[-1] if executor.plan.finishes else start_ns
    busy_ns = end_ns - now_ns
    for place in islice(executor.waiting.values(), HELD_LOOKED_AT):
        costs, model = place.costs, place.model
        count = len(model.queue)
        if count <= costs.largest:  # nearly all
            busy_ns += costs.typical_by_count[count] // len(model.serving)
        else:
            batches = -(-count // costs.largest)
            in_each = -(-count // batches)
            busy_ns += batches * costs.typical_by_count[in_each] // len(model.serving)
        if busy_ns >= enough_ns:
            break
    return busy_ns
