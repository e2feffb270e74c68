"""Placement: whose weights to LOAD, where, and whose to UNLOAD for them.

The concept: a LOAD is worth what it saves. A cold model is worth the requests in its queue that
can still be answered after the LOAD's end and one more round trip; loading for what is lost anyway
is how a loader collapses under overload (36 requests/s in place of 150 in simulation). A warm model
is worth another replica when its executors turn requests away and another has room. Pages are freed
least popular first, never of a model with promised or running work.

A model that was refused because it is cold is loaded for the next who ask, where its LOAD is in
nobody's way and those that make room for it are asked for less.

Knows nothing of how batches are planned. Neighbours: policies ask; `dispatch.py` carries out.
"""

from typing import Final

from cw.core import admission
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.residency import Residency
from cw.messages import ModelId
from cw.units import MS

LOAD_AHEAD_NS: Final = 3 * MS
"""Order a LOAD so long before its lane is free: later knows more, sooner keeps the lane busy."""
REPLICA_LOOK_NS: Final = 2 * MS
"""How often an executor looks for a model that wants a replica."""
SHORT_NS: Final = 10 * MS
"""How long ago a model must have been turned away at most, to want one."""
QUEUE_BONUS: Final = 5.0
"""A model that is waited for stays: as if it had been used e^5 times as much."""
MISSED_NS: Final = 1000 * MS
"""How long after a refusal for being cold a model is still worth loading for others to come."""
MISSED_GAIN: Final = 0.5
"""By how much more (as a logarithm) it must be asked for than what it would push out: pages that
change hands at every request serve nobody."""
BUSY_RATIO: Final = 0.6
"""A replica goes to an executor with less than this share of the others' backlog."""
MODELS_LOOKED_AT: Final = 256


def note_shortage(books: Books, model: ModelBooks, now_ns: int) -> None:
    """Remember that a model's executors had no room for it; wake those that could load it."""
    if not model.serving:
        for place in list(model.places.values())[: admission.PLACES_LOOKED_AT]:
            books.dirty[place.executor.executor_id] = place.executor
    elif len(model.serving) < len(model.places):
        books.short[model.model_id] = now_ns
        for place in list(model.places.values())[: admission.PLACES_LOOKED_AT]:
            books.dirty[place.executor.executor_id] = place.executor


def next_load(books: Books, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
    """Choose whose weights an executor should load now, if anyone's."""
    start_ns = executor.load_start_ns(now_ns)
    lead_ns = max(LOAD_AHEAD_NS, executor.pipe.delay_ns)
    if start_ns > now_ns + lead_ns or not (books.waiting or books.short or books.missed):
        return None
    place = (
        _most_wanted(books, executor, now_ns)
        or _replica(books, executor, now_ns)
        or _missed(books, executor, now_ns)
    )
    if place is None or not can_load(books, place, now_ns):
        return None
    return place


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
        other = executor.places.get(model_id)
        if other is None:
            return 0.0
        if other is place or other.in_use or other.stage is Stage.PROBING:
            return None
        if other.residency is not Residency.WARM:
            return None
        key = other.model.popularity.key
        return key + QUEUE_BONUS if other.model.queue else key

    return executor.eviction.choose(missing, key_of=key_of, pages_of=executor.pages.held)


def _most_wanted(books: Books, executor: ExecutorBooks, now_ns: int) -> Place | None:
    """Find the cold model with the most queued work that a LOAD would save; promised first."""
    best: Place | None = None
    best_worth = (0, 0)
    for looked_at, (model_id, model) in enumerate(books.waiting.items()):
        if looked_at >= MODELS_LOOKED_AT:
            break
        place = executor.places.get(model_id)
        if model.serving or place is None or place.stage is not Stage.READY:
            continue
        by_count = place.costs.by_count
        end_ns = (
            admission.cold_ready_ns(books, place, now_ns) + by_count[1] + executor.pipe.overhead_ns
        )
        promised = savable = 0
        for request in model.queue:
            promised += request.promised
            savable += request.due_ns >= end_ns
        worth = (promised, savable)
        if worth > best_worth:
            best, best_worth = place, worth
    return best


def _replica(books: Books, executor: ExecutorBooks, now_ns: int) -> Place | None:
    """Find a model that is short of executors and that this one has room for."""
    if now_ns < executor.replica_look_ns:
        return None
    executor.replica_look_ns = now_ns + REPLICA_LOOK_NS
    for model_id, noted_ns in list(books.short.items()):
        model = books.models.get(model_id)
        if model is None or now_ns - noted_ns > SHORT_NS:
            del books.short[model_id]
            continue
        place = executor.places.get(model_id)
        if place is None or place.stage is not Stage.READY or place.residency != Residency.COLD:
            continue
        if any(each.residency is Residency.LOADING for each in model.serving):
            continue
        others_ns = [_backlog_ns(each.executor, now_ns) for each in model.serving[:8]]
        if others_ns and _backlog_ns(executor, now_ns) < BUSY_RATIO * min(others_ns):
            del books.short[model_id]
            return place
    return None


def _missed(books: Books, executor: ExecutorBooks, now_ns: int) -> Place | None:
    """Find the most popular model that was refused for being cold, if it deserves its pages.

    No request waits for it: each had too little time for the LOAD. Without this it would stay cold
    for as long as all who ask are in such a hurry.
    """
    best: Place | None = None
    for model_id, noted_ns in list(books.missed.items()):
        model = books.models.get(model_id)
        if model is None or model.serving or now_ns - noted_ns > MISSED_NS:
            del books.missed[model_id]
            continue
        place = executor.places.get(model_id)
        if place is None or place.stage is not Stage.READY:
            continue
        if best is None or model.popularity.key > best.model.popularity.key:
            best = place
    if best is None:
        return None
    least_key = best.model.popularity.key - MISSED_GAIN
    victims = choose_victims(books, best)
    if victims is None:
        return None
    pushed_out = [books.models[victim] for victim in victims if victim in books.models]
    return best if all(model.popularity.key <= least_key for model in pushed_out) else None


def _backlog_ns(executor: ExecutorBooks, now_ns: int) -> int:
    start_ns = executor.start_ns(now_ns)
    executor.plan.walk(start_ns, executor.pipe.overhead_ns, now_ns)
    return (executor.plan.finishes[-1] if executor.plan.finishes else start_ns) - now_ns
