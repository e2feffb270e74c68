"""Spread: on which executors each model is known.

The concept: a model that is known on an executor costs it a PREPARE, and costs the controller a
`Place`. So it is known on a bounded number of them (`places_per_model`), on those with the fewest
models, and on at least one of each kind of device. What the bound is for: losing executors leaves
others that need only a LOAD, and of several executors some have room.

=====================  ============================================================================
what happens           and what becomes of places
=====================  ============================================================================
a model comes          it gets its places where the fewest are; first where it is prepared already
an executor comes      it takes what it has prepared, what has too few places, and its share of the
                       places of the fullest executors, which drop theirs once the new one is READY
an executor goes       its models get places elsewhere, those that are waited for first
demand exceeds places  one more, where there is room; a surplus goes when it is cold again
=====================  ============================================================================

The cost of a coming or going is that of the places which change hands; a request costs nothing.

Chooses and counts. Neighbours: `registration.py` brings a new place up; `membership.py` maps
comings and goings to these steps.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from itertools import islice

import attrs

from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, Stage
from cw.core.dispatch import Dispatcher
from cw.core.placement import backlog_ns, is_roomy
from cw.core.profile import DeviceKey
from cw.core.residency import Residency
from cw.messages import ExecutorId, ModelId

EXECUTORS_LOOKED_AT = 8
"""To find one with room so many are compared, others each time: nearly as good as all."""
TRIMMED_AT_ONCE = 2
_PROGRESS = {
    stage: progress
    for progress, stage in enumerate(
        (
            Stage.FAILED,
            Stage.NEW,
            Stage.PREPARING,
            Stage.PREPARED,
            Stage.PROBING,
            Stage.READY,
        )
    )
}


@attrs.define(eq=False)
class Spread:
    """Where models are known. Instants are cluster time, ns."""

    books: Books
    dispatcher: Dispatcher
    _order: dict[DeviceKey, list[tuple[int, ExecutorId]]] = attrs.field(factory=dict)
    """Per kind of device its executors by (places counted, id): a sorted list, since moving one
    entry among thousands costs less than any tree would."""
    _counted: dict[ExecutorId, int] = attrs.field(factory=dict)
    _members: list[ExecutorBooks] = attrs.field(factory=list)
    """All executors, so that a few can be looked at in turn."""
    _turn: int = 0
    _places: int = 0
    _thin: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Models with fewer places than they should have."""
    _surplus: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Models with more."""
    _prepared: dict[ModelId, dict[ExecutorId, ExecutorBooks]] = attrs.field(factory=dict)
    """Where models were prepared when their executor joined; nobody may have added them yet."""

    # --- executors --------------------------------------------------------------------------------

    def join(self, executor: ExecutorBooks) -> None:
        """Count a new executor, which has no places yet."""
        insort(self._order.setdefault(executor.key, []), (0, executor.executor_id))
        self._counted[executor.executor_id] = 0
        self._members.append(executor)
        for model_id in executor.prepared:
            self._prepared.setdefault(model_id, {})[executor.executor_id] = executor

    def leave(self, executor: ExecutorBooks) -> None:
        """Leave out an executor that is lost, and its places."""
        executor_id = executor.executor_id
        count = self._counted.pop(executor_id)
        order = self._order[executor.key]
        del order[bisect_left(order, (count, executor_id))]
        if not order:
            del self._order[executor.key]
        self._places -= count
        self._members.remove(executor)
        for model_id in executor.prepared:
            self._forget_prepared(executor, model_id)

    def not_prepared(self, executor: ExecutorBooks, model_id: ModelId) -> None:
        """Note that an executor has a model prepared no more."""
        executor.prepared.discard(model_id)
        self._forget_prepared(executor, model_id)

    def _forget_prepared(self, executor: ExecutorBooks, model_id: ModelId) -> None:
        holders = self._prepared.get(model_id, {})
        holders.pop(executor.executor_id, None)
        if not holders:
            self._prepared.pop(model_id, None)

    # --- places -----------------------------------------------------------------------------------

    def count(self, place: Place) -> None:
        """Count a place that was entered into the books."""
        self._recount(place.executor, 1)
        self._judge(place.model)

    def drop(self, place: Place) -> None:
        """Have an executor forget a model of which nothing promised or sent is left there."""
        executor, model = place.executor, place.model
        model_id = model.model_id
        is_known = place.stage is not Stage.NEW or model_id in executor.prepared
        if is_known or place.residency is not Residency.COLD:
            self.dispatcher.unload(executor, model_id, forget=True)
        del executor.places[model_id]
        del model.places[executor.executor_id]
        for index in executor.cold_indexes:
            index.pop(model_id, None)
        self.not_prepared(executor, model_id)
        executor.resident.discard(model_id)
        self._recount(executor, -1)
        self._judge(model)
        self.books.dirty[executor.executor_id] = executor

    def forget(self, model: ModelBooks) -> None:
        """Leave out a model that is gone, its places dropped."""
        self._thin.pop(model.model_id, None)
        self._surplus.pop(model.model_id, None)

    def _recount(self, executor: ExecutorBooks, change: int) -> None:
        executor_id = executor.executor_id
        count = self._counted[executor_id]
        order = self._order[executor.key]
        del order[bisect_left(order, (count, executor_id))]
        insort(order, (count + change, executor_id))
        self._counted[executor_id] = count + change
        self._places += change

    def _judge(self, model: ModelBooks) -> None:
        """Note whether a model has too few places, or too many."""
        bound = self.books.settings.places_per_model
        count = _useful(model)
        for index, belongs in ((self._thin, count < bound), (self._surplus, count > bound)):
            if belongs:
                index[model.model_id] = model
            else:
                index.pop(model.model_id, None)

    # --- choices ----------------------------------------------------------------------------------

    def choose(self, model: ModelBooks) -> list[ExecutorBooks]:
        """Choose where a model should be known beside where it is, to reach the bound."""
        self._judge(model)
        chosen = dict(self._prepared.get(model.model_id, {}))
        for executor_id in model.places:
            chosen.pop(executor_id, None)
        kinds = {executor.key for executor in chosen.values()}
        kinds.update(place.executor.key for place in model.places.values())
        # It failed on such a device, and nothing shows yet that another would do better.
        hopeless = _kinds(model, Stage.FAILED, lacked_room=False) - _kinds(model, Stage.READY)
        for key, order in self._order.items():
            if key not in kinds:
                executor_id = order[0][1]
                chosen[executor_id] = self.books.executors[executor_id]
        bound = self.books.settings.places_per_model
        missing = min(bound - _useful(model) - len(chosen), 2 * bound - len(model.places))
        if missing > 0:
            fewest: list[tuple[int, ExecutorId]] = []
            for key, order in self._order.items():
                if key not in hopeless:
                    fewest += _first(order, missing, model.places.keys() | chosen.keys())
            for _, executor_id in sorted(fewest)[:missing]:
                chosen[executor_id] = self.books.executors[executor_id]
        return list(chosen.values())

    def choose_for(self, executor: ExecutorBooks) -> list[ModelBooks]:
        """Choose what a new executor should know: what it has, what is thin, and its share."""
        models = self.books.models
        chosen = {each: models[each] for each in sorted(executor.prepared) if each in models}
        is_first = len(self._order[executor.key]) == 1
        chosen.update(models if is_first else self._thin)
        share = self._places // len(self._members)
        others = (each for each in self._members if each is not executor)
        for other in sorted(others, key=lambda each: -self._counted[each.executor_id]):
            surplus = self._counted[other.executor_id] - share
            if surplus <= 0 or len(chosen) >= share:
                break
            # The youngest: what was not even begun goes at no cost.
            for model_id, place in reversed(other.places.items()):
                if not surplus or len(chosen) >= share:
                    break
                if model_id not in chosen and _is_idle(place):
                    chosen[model_id] = place.model
                    surplus -= 1
        return [model for model in chosen.values() if not model.removed]

    def choose_roomy(self, model: ModelBooks, now_ns: int) -> ExecutorBooks | None:
        """Choose where one more place of a model would help at once; None if nowhere."""
        if any(place.stage not in (Stage.READY, Stage.FAILED) for place in model.places.values()):
            return None  # One is on its way.
        best: ExecutorBooks | None = None
        least_ns = 0
        for _ in range(min(EXECUTORS_LOOKED_AT, len(self._members))):
            self._turn = (self._turn + 1) % len(self._members)
            executor = self._members[self._turn]
            if executor.executor_id in model.places or executor.bring_up:
                continue
            if is_roomy(executor, now_ns):
                waits_ns = backlog_ns(executor, now_ns)
                if best is None or waits_ns < least_ns:
                    best, least_ns = executor, waits_ns
        return best

    # --- what is too much -------------------------------------------------------------------------

    def trim(self, model: ModelBooks, keep: Place | None = None) -> None:
        """Drop places beyond the bound that can be spared; `keep` is not one of them."""
        bound = self.books.settings.places_per_model
        while _useful(model) > bound:
            progress = sorted(_PROGRESS[place.stage] for place in model.places.values())
            spared = [
                place
                for place in model.places.values()
                if place is not keep
                and _is_idle(place)
                # Only where as many as should be are left that are as far.
                and _PROGRESS[place.stage] <= progress[-bound - 1]
                and _has_twin(place)
            ]
            if not spared:
                return
            # What was not begun first, then from where the most are.
            self.drop(
                min(
                    spared,
                    key=lambda place: (
                        _PROGRESS[place.stage],
                        -self._counted[place.executor.executor_id],
                        place.executor.executor_id,
                    ),
                )
            )

    def trim_some(self) -> None:
        """Drop what has become superfluous of a few models, others each time."""
        for model_id in list(islice(self._surplus, TRIMMED_AT_ONCE)):
            model = self._surplus.pop(model_id)
            self.trim(model)
            self._judge(model)

    def validate(self) -> None:
        """Assert that every index is in step with the books; slow, for tests."""
        executors = self.books.executors
        counts = {each.executor_id: len(each.places) for each in executors.values()}
        assert self._counted == counts, f"places counted {self._counted}, there are {counts}"
        assert self._places == sum(counts.values()), "the count of all places is wrong"
        assert [*executors.values()] == self._members, "an executor is missed out, or lost"
        entries = sorted((counts[each.executor_id], each.executor_id) for each in self._members)
        assert sorted(entry for order in self._order.values() for entry in order) == entries
        for key, order in self._order.items():
            assert order == sorted(order), "the order by places is out of order"
            assert all(executors[executor_id].key == key for _, executor_id in order)
        for holders in self._prepared.values():
            assert holders.keys() <= counts.keys(), "a lost executor has something prepared"
        for model_id in self._thin.keys() | self._surplus.keys():
            assert model_id in self.books.models, f"model {model_id} is forgotten but not here"


def _useful(model: ModelBooks) -> int:
    return sum(place.stage is not Stage.FAILED for place in model.places.values())


def _kinds(model: ModelBooks, stage: Stage, *, lacked_room: bool = False) -> set[DeviceKey]:
    return {
        place.executor.key
        for place in model.places.values()
        if place.stage is stage and place.lacked_room is lacked_room
    }


def _is_idle(place: Place) -> bool:
    """Say whether a place can be given up: nothing is there but, at most, a prepared program."""
    # What failed stays, to tell why.
    is_useful = place.stage is not Stage.FAILED
    return is_useful and place.residency is Residency.COLD and not place.in_use


def _has_twin(place: Place) -> bool:
    """Say whether the model is known on another executor of the same kind."""
    return any(
        other is not place and other.executor.key == place.executor.key
        for other in place.model.places.values()
        if other.stage is not Stage.FAILED
    )


def _first(
    order: list[tuple[int, ExecutorId]], count: int, taken: Iterable[ExecutorId]
) -> list[tuple[int, ExecutorId]]:
    """List the `count` with the fewest places that are not `taken`."""
    without = set(taken)
    found: list[tuple[int, ExecutorId]] = []
    for entry in order:
        if len(found) == count:
            break
        if entry[1] not in without:
            found.append(entry)
    return found
