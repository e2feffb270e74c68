"""Standing orders: what the administrator has settled for good, whoever asks for what.

Tenants' weights, by which `shares.py` shares out device time; and pins: models that stay resident
somewhere. A pinned model is loaded before it is asked for, others giving way; its last replica is
never chosen to be unloaded. Which executor holds it stays the scheduler's choice.

Neighbours: `scheduler.py` hands the events over, `placement.py` loads and spares.
"""

from collections.abc import Iterable

from cw.core.books import Books, ExecutorBooks, ModelBooks, Place
from cw.core.events import ModelPinned, TenantWeighed
from cw.messages import Quota


def take(books: Books, event: TenantWeighed | ModelPinned) -> None:
    """Note an order, and see that it is followed."""
    if isinstance(event, TenantWeighed):
        if event.weight == Quota().weight:
            books.tenant_weights.pop(event.tenant_id, None)
        else:
            books.tenant_weights[event.tenant_id] = event.weight
    elif event.pinned:
        books.pinned.add(event.name)
        for model in books.models.values():
            want_pinned(books, model)
    else:
        books.pinned.discard(event.name)


def want_pinned(books: Books, model: ModelBooks) -> None:
    """Have a pinned model loaded if it is nowhere resident; no-op for all others."""
    if model.spec.name not in books.pinned or model.serving or model.removed:
        return
    for place in model.places.values():
        if place.is_cold:
            place.executor.pinned[model.model_id] = place
            books.dirty[place.executor.executor_id] = place.executor


def next_pinned(books: Books, executor: ExecutorBooks) -> Place | None:
    """Choose a pinned model that an executor should load; it stays noted until it is resident."""
    for model_id, place in list(executor.pinned.items()):
        model = place.model
        if model.spec.name in books.pinned and place.is_cold and not model.serving:
            return place
        del executor.pinned[model_id]
    return None


def pin_shortage(books: Books, name: str) -> tuple[int, int] | None:
    """Say why a model can't be pinned beside those that are, or None if it can.

    Largest first, each where most is free: if that fits, the loads that follow will find room.

    Returns:
        Pages that it needs, and the most that an executor would have left for it.
    """
    free = [executor.pages.total for executor in books.executors.values()]
    if not free:
        return None
    needed = max(_pages_of(books, (name,)), default=0)
    for pages in sorted(_pages_of(books, books.pinned - {name}), reverse=True):
        most = max(range(len(free)), key=free.__getitem__)
        free[most] -= pages
    return (needed, max(0, *free)) if needed > max(free) else None


def _pages_of(books: Books, names: Iterable[str]) -> list[int]:
    """Say what each model of these names takes while it is resident."""
    wanted = frozenset(names)
    return [model.spec.pages for model in books.models.values() if model.spec.name in wanted]
