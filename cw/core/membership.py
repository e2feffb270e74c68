"""Membership: models and executors coming and going while requests flow.

The concept: nothing that was asked for is lost by a coming or going. A removed model takes nothing
new, answers what was asked before and only then is forgotten, at the executors as well. What a lost
executor had promised finds other places, most urgent first.

Neighbours: `scheduler.py` maps events to these steps; `registration.py` brings models up.
"""

import attrs

from cw.core import standing
from cw.core.books import Books, ExecutorBooks, ModelBooks
from cw.core.commands import AnnounceModel, DropExecutor
from cw.core.dispatch import Dispatcher
from cw.core.events import ExecutorJoined
from cw.core.lifecycle import Lifecycle
from cw.core.pages import PageBooks
from cw.core.registration import Registrar
from cw.core.results import Results
from cw.core.timeline import PipeDelay
from cw.messages import ModelId, ModelState


@attrs.define(eq=False)
class Membership:
    """Comings and goings. Instants are cluster time, ns."""

    books: Books
    dispatcher: Dispatcher
    lifecycle: Lifecycle
    registrar: Registrar
    results: Results
    _returning: dict[ModelId, ModelBooks] = attrs.field(factory=dict, init=False)
    """Added again while their earlier life still ends."""

    # --- models -----------------------------------------------------------------------------------

    def add_model(self, model: ModelBooks) -> None:
        """Bring a model up where it should be known; one of that id that is known already stays."""
        model_id = model.model_id
        known = self.books.models.get(model_id)
        if known is not None:
            if known.removed:
                self._returning[model_id] = model
            return
        if len(self.books.models) >= self.books.settings.max_models:
            model.state = ModelState.FAILED
            model.detail = (
                f"{len(self.books.models)} models are the bound (max_models); remove some, or "
                "raise it"
            )
            self.dispatcher.commands.append(AnnounceModel(model_id=model_id, ready=False))
        self.books.models[model_id] = model
        if model.state is not ModelState.FAILED:
            self.registrar.refill(model)
            self.registrar.judge(model)

    def remove_model(self, model_id: ModelId, now_ns: int) -> None:
        """Take nothing new, and forget it once those who asked before have their answers."""
        self._returning.pop(model_id, None)
        model = self.books.models.get(model_id)
        if model is None or model.removed:
            return
        model.removed = True
        if model.state is ModelState.READY:
            model.state = ModelState.REGISTERING  # which is what it will be if it returns
            self.dispatcher.commands.append(AnnounceModel(model_id=model_id, ready=False))
        self.forget_if_done(model)

    def forget_if_done(self, model: ModelBooks) -> None:
        """Forget a removed model once nothing promised or sent of it is left."""
        if not model.removed or model.open or model.in_flight or len(model.queue):
            return
        if self.books.models.get(model.model_id) is not model:
            return
        for place in list(model.places.values()):
            self.registrar.spread.drop(place)
        self.registrar.spread.forget(model)
        model.serving.clear()
        del self.books.models[model.model_id]
        returning = self._returning.pop(model.model_id, None)
        if returning is not None:
            self.add_model(returning)

    # --- executors --------------------------------------------------------------------------------

    def join(self, event: ExecutorJoined) -> None:
        """Bring up on a new executor what it has prepared, what is known on too few, its share."""
        if event.executor_id in self.books.executors:
            return
        settings = self.books.settings
        executor = ExecutorBooks(
            executor_id=event.executor_id,
            name=event.name,
            device=event.device,
            pages=PageBooks(event.device.pages_total),
            pipe=PipeDelay(settings.schedule_ahead_ns, settings.schedule_ahead_max_ns),
            prepared=set(event.prepared),
            resident=set(event.resident),
        )
        self.books.executors[event.executor_id] = executor
        spread = self.registrar.spread
        spread.join(executor)
        for model in spread.choose_for(executor):
            place = self.registrar.place_model(model, executor)
            spread.trim(model, place)
            self.registrar.judge(model)
        self.books.dirty[event.executor_id] = executor

    def drop(self, executor: ExecutorBooks, reason: str, now_ns: int) -> None:
        """Cut an executor off, and do without it from now on."""
        command = DropExecutor(executor_id=executor.executor_id, reason=reason)
        self.dispatcher.commands.append(command)
        self.lose(executor, now_ns)

    def lose(self, executor: ExecutorBooks, now_ns: int) -> None:
        """Find new places for what an executor had promised, most urgent first."""
        del self.books.executors[executor.executor_id]
        self.books.dirty.pop(executor.executor_id, None)
        self.registrar.spread.leave(executor)
        models = [place.model for place in executor.places.values()]
        for place in executor.places.values():
            place.stop_serving()
            del place.model.places[executor.executor_id]
            place.model.in_flight -= place.in_flight
        self.results.executor_lost(executor, now_ns)
        models.sort(key=lambda model: (not (model.open or model.queue), -model.popularity.key))
        for model in models:
            self.registrar.judge(model)
            if model.removed:
                self.forget_if_done(model)
            else:
                self.registrar.refill(model)
                standing.want_pinned(self.books, model)
