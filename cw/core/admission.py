"""Admission: can this request still be answered in time, and if not, when could it have been?

The concept: a refusal is worth most at once, while the caller has time to go elsewhere. So the
earliest possible finish is computed from the same numbers that schedule: the lane's committed work,
the measured estimates, and the LOAD if the weights are not there. If even that is too late, the
request is hopeless on any future, and is refused with that instant.

Knows nothing of plans' contents: whether a possible request *fits* is the policy's to say.
Neighbours: policies ask `hopeless` first; `scheduler.py` asks `closed` before them.
"""

from typing import Final

from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.requests import Request
from cw.core.residency import Residency
from cw.messages import ModelState, Refusal, RefusalReason
from cw.units import format_ms

PLACES_LOOKED_AT: Final = 8
"""Of a model with many replicas only so many are compared for one request, in turn."""


def closed(books: Books, model: ModelBooks) -> Refusal | None:
    """Say why nothing can be asked of this model now, if so."""
    name = model.spec.name
    if model.state is ModelState.FAILED:
        return Refusal(
            reason=RefusalReason.NOT_READY,
            message=f"model {name} could not be prepared: {model.detail}; remove it, mend it, "
            "add it again",
        )
    if not books.executors:
        return Refusal(
            reason=RefusalReason.NO_EXECUTOR, message="no executor is alive; try again later"
        )
    if model.state is not ModelState.READY:
        return Refusal(
            reason=RefusalReason.NOT_READY,
            message=f"model {name} is still being prepared and measured; try again later",
        )
    if not any(place.stage is Stage.READY for place in model.places.values()):
        return Refusal(
            reason=RefusalReason.NO_EXECUTOR,
            message=f"no executor alive has model {name} ready; try again later",
        )
    return None


def full(books: Books, model: ModelBooks) -> Refusal | None:
    """Say that the queues' bounds are reached, if so."""
    settings = books.settings
    if len(model.queue) < settings.max_queue_per_model and (
        books.waiting_count < settings.max_queue_total
    ):
        return None
    return Refusal(
        reason=RefusalReason.OVERLOAD,
        message=f"{len(model.queue)} requests wait for {model.spec.name} and "
        f"{books.waiting_count} in all (bounds: {settings.max_queue_per_model} and "
        f"{settings.max_queue_total}); ask less, or elsewhere",
    )


def places_to_try(model: ModelBooks) -> list[Place]:
    """List the places that serve a model now; of many, a few, others each time."""
    serving = model.serving
    if len(serving) <= PLACES_LOOKED_AT:
        return serving
    model.turn = first = (model.turn + PLACES_LOOKED_AT) % len(serving)
    chosen = serving[first : first + PLACES_LOOKED_AT]
    return chosen + serving[: PLACES_LOOKED_AT - len(chosen)]


def earliest_end_ns(
    books: Books, model: ModelBooks, now_ns: int, *, soon_enough_ns: int = 0
) -> int | None:
    """Say when a lone request of this model could be done on a device; None if never.

    What is committed stands before it; what is only planned does not.

    Args:
        books: For what a LOAD takes.
        model: Asked for.
        now_ns: Cluster time.
        soon_enough_ns: The first place that is done by then will do: no need to look for a better.
    """
    first_ns: int | None = None
    for place in places_to_try(model):
        executor = place.executor
        start_ns = executor.start_ns(now_ns)
        if place.residency is not Residency.WARM:
            start_ns = max(start_ns, place.warm_ns)
        end_ns = start_ns + place.costs.by_count[1] + executor.pipe.overhead_ns
        if first_ns is None or end_ns < first_ns:
            first_ns = end_ns
            if end_ns <= soon_enough_ns:
                break
    if first_ns is not None:
        return first_ns
    ends = []
    for place in list(model.places.values())[:PLACES_LOOKED_AT]:
        if place.stage is Stage.READY:
            executor = place.executor
            ready_ns = cold_ready_ns(books, place, now_ns)
            ends.append(ready_ns + place.costs.by_count[1] + executor.pipe.overhead_ns)
    return min(ends, default=None)


def cold_ready_ns(books: Books, place: Place, now_ns: int) -> int:
    """Say when an INFER could start if the weights' LOAD were ordered now."""
    executor = place.executor
    load_ns = books.profiles.load_ns(executor.device, place.model.spec.image_bytes)
    warm_ns = executor.load_start_ns(now_ns) + load_ns + executor.pipe.round_trip_ns
    return max(warm_ns, executor.start_ns(now_ns))


def note_missed(books: Books, model: ModelBooks, now_ns: int) -> None:
    """Remember that a model was refused for being cold; wake one that could load it at once."""
    model.missed_ns = now_ns
    idle: ExecutorBooks | None = None
    for place in model.places.values():
        place.executor.missed[model.model_id] = place
        if idle is None and not place.executor.load.outstanding:
            idle = place.executor
    if idle is not None:
        books.dirty[idle.executor_id] = idle


def hopeless(books: Books, request: Request, now_ns: int) -> Refusal | None:
    """Refuse what cannot be done in time even if nothing else were asked.

    Returns:
        The refusal with the earliest finish, or None if there is hope.
    """
    model = request.model
    end_ns = earliest_end_ns(books, model, now_ns, soon_enough_ns=request.due_ns)
    if end_ns is not None and end_ns <= request.due_ns:
        return None
    return refusal_for(books, request, end_ns, now_ns)


def refusal_for(books: Books, request: Request, end_ns: int | None, now_ns: int) -> Refusal:
    """Word a refusal, with the reason that tells the caller what would help.

    Args:
        books: For the settings' margin.
        request: What is refused.
        end_ns: When it could have been done on a device; None if unknown.
        now_ns: Cluster time.
    """
    if end_ns is None:
        return Refusal(
            reason=RefusalReason.NO_EXECUTOR, message="no executor alive can run it; try later"
        )
    model = request.model
    books.doubtful[model.model_id] = model
    finish_ns = end_ns + books.allowance_ns
    needs_ns = finish_ns - request.arrival_ns
    slo_ns = request.deadline_ns - request.arrival_ns
    place = next(iter(model.serving or model.places.values()))
    alone_ns = place.executor.pipe.delay_ns + place.costs.by_count[1]
    if request.arrival_ns + alone_ns > request.due_ns:
        reason, why = RefusalReason.DEADLINE_TOO_SHORT, "even on an idle device"
    elif not model.serving:
        reason, why = RefusalReason.COLD, "its weights are not on a device"
        note_missed(books, model, now_ns)
    elif finish_ns <= request.deadline_ns:
        reason, why = RefusalReason.OVERLOAD, "the devices' time goes to fuller batches"
    else:
        reason, why = RefusalReason.OVERLOAD, "the devices are full of promises"
    return Refusal(
        reason=reason,
        earliest_finish_ns=finish_ns,
        message=f"{model.spec.name} could answer {format_ms(needs_ns)} after the arrival, "
        f"{format_ms(slo_ns)} were allowed: {why}",
    )
