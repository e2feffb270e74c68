"""The audit: every invariant of the scheduler's books, asserted. Slow; for tests.

Neighbours: `Scheduler.validate` calls it, the stateful test and the simulator call that.
"""

from cw.core.best_effort import BestEffort
from cw.core.books import Books, ExecutorBooks, Place, Stage
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.messages import Infer, RequestId


def validate(books: Books, best_effort: BestEffort) -> None:
    """Assert all invariants.

    Raises:
        AssertionError: Which one does not hold, and of what.
    """
    seen: dict[RequestId, Request] = {}
    _waiting(books, seen)
    _best_effort(books, best_effort, seen)
    for executor in books.executors.values():
        _executor(executor, seen)
        _pages(books, executor)
    for request in books.requests.values():
        if request.state is RequestState.RAN:
            _once(seen, request)
    lost = set(books.requests) - set(seen)
    assert not lost, f"open requests in no place: {lost}"
    strangers = set(seen) - set(books.requests)
    assert not strangers, f"requests in a place that are not open: {strangers}"
    _models(books)


def _once(seen: dict[RequestId, Request], request: Request) -> None:
    assert request.request_id not in seen, f"in two places: {request.story()}"
    seen[request.request_id] = request


def _waiting(books: Books, seen: dict[RequestId, Request]) -> None:
    count = held = 0
    for model_id, model in books.models.items():
        assert (model_id in books.waiting) == bool(model.queue), "the index of queues is wrong"
        due = [request.due_ns for request in model.queue]
        assert due == sorted(due), "a queue is not in deadline order"
        for request in model.queue:
            assert request.state is RequestState.WAITING
            _once(seen, request)
            count += 1
            held += not request.promised
    assert count == books.waiting_count, "the count of the waiting is wrong"
    assert count - held == books.promised_waiting, "the count of the promised waiting is wrong"
    # What was promised is taken in whatever the bounds: its gateway's own bound holds for it.
    assert held <= books.settings.max_queue_total, "more are held than the bound allows"
    assert set(books.waiting) <= set(books.models), "a forgotten model has a queue"


def _best_effort(books: Books, best_effort: BestEffort, seen: dict[RequestId, Request]) -> None:
    count = 0
    for model_id, lines in best_effort.waiting.items():
        assert lines, f"model {model_id} has no line"
        for tenant_id, line in lines.items():
            assert line, f"model {model_id} has an empty line"
            for request in line.values():
                assert request.state is RequestState.WAITING
                assert request.is_best_effort
                assert not request.promised, "best effort was promised"
                assert (request.model.model_id, request.tenant_id) == (model_id, tenant_id)
                _once(seen, request)
                count += 1
    assert count == best_effort.count, "the count of best-effort requests is wrong"
    assert set(best_effort.waiting) <= set(books.models), "a forgotten model has a line"


def _executor(executor: ExecutorBooks, seen: dict[RequestId, Request]) -> None:
    planned = 0
    for batch in executor.plan.batches:
        assert batch.place.executor is executor
        assert batch in batch.place.batches
        assert 0 < len(batch.requests) <= batch.costs.largest, "a batch is empty or overfull"
        assert batch.due_ns == min(request.due_ns for request in batch.requests)
        for request in batch.requests:
            assert request.state is RequestState.PLANNED
            assert request.promised, "a plan holds a request that was not promised"
            assert request.batch is batch
            _once(seen, request)
        planned += 1
    assert planned == sum(len(place.batches) for place in executor.places.values())
    for committed in executor.infer.outstanding.values():
        action, riders = committed.action, committed.cargo.requests
        if not isinstance(action, Infer):
            continue
        assert len(riders) == len(action.slots) <= action.batch_size, "slots don't fit the batch"
        names = [slot.request_id for slot in action.slots]
        assert len(set(names)) == len(names), f"a request has two slots in one action: {names}"
        for rider, slot in zip(riders, action.slots, strict=True):
            if rider is not None:
                assert rider.state is RequestState.COMMITTED
                assert (rider.request_id, rider.attempt) == (slot.request_id, slot.attempt)
                _once(seen, rider)


def _pages(books: Books, executor: ExecutorBooks) -> None:
    executor.pages.validate()
    for model_id in executor.pages.holders():
        place = executor.places.get(model_id)
        assert place is not None, f"pages are held for model {model_id}, unknown here"
        assert place.residency is not Residency.COLD
    for place in executor.places.values():
        held = executor.pages.held(place.model.model_id)
        assert bool(held) == (place.residency is not Residency.COLD)
        assert held in (0, place.model.spec.pages)
        _place(books, place)


def _place(books: Books, place: Place) -> None:
    waits = place.serves and bool(place.model.queue)
    assert (place.model.model_id in place.executor.waiting) == waits, "an executor's index is wrong"
    serves = (
        place.stage is Stage.READY
        and place.residency is not Residency.COLD
        and not place.model.removed
    )
    if not place.model.removed:
        assert (place in place.model.serving) == serves, f"{place.model.spec.name}: serving?"
    if place.batches:
        assert place.residency is not Residency.COLD, "work is planned where no weights are"
    assert books.models.get(place.model.model_id) is place.model


def _models(books: Books) -> None:
    for model in books.models.values():
        opened = sum(each.promised for each in books.requests.values() if each.model is model)
        assert model.open == opened, f"{model.spec.name}: {model.open} counted, {opened} open"
        flying = sum(place.in_flight for place in model.places.values())
        assert model.in_flight == flying
