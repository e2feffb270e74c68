"""Late promises: what the reference policies share, so that each file holds only its own rules.

The concept: none of the policies that this one is compared with answers early. They queue what
comes, choose when a lane is about to be free, and refuse when time is up. Here a promise is made by
the assignment itself, so these policies break none by choice: what would end after its due time by
the estimates is never dispatched. (Their originals run such requests and count them as missed.)

What none of the originals has and all need here:

- *Rescue.* What was promised and lost its executor goes before everything else.
- *Turns.* Where both lanes are one resource, a wanted LOAD and an INFER take turns. If LOADs had to
  wait for an idle lane none would ever go under load, and if they went whenever they are wanted
  nothing else would.

Neighbours: `fcfs.py`, `nexus.py`, `symphony.py`, `shepherd.py` and `clockwork.py` are these
policies; `placement.py` chooses LOADs for those that say nothing about them.
"""

import abc
from collections.abc import Iterable

import attrs

from cw.core import admission, placement
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place
from cw.core.plan import PlannedBatch
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.messages import ExecutorId, Refusal, RequestId


@attrs.define(eq=False)
class LatePolicy(abc.ABC):
    """See the module's head."""

    books: Books
    _homeless: dict[RequestId, Request] = attrs.field(factory=dict)
    """Promised requests that lost their place."""
    _turn: dict[ExecutorId, Place] = attrs.field(factory=dict)
    """LOADs that a shared lane was left free for."""
    _just_loaded: set[ExecutorId] = attrs.field(factory=set)
    """Shared lanes whose next turn is an INFER's."""

    @abc.abstractmethod
    def choose(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose the next batch of those who wait: the policy itself."""

    def choose_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose whose weights to load; unless overridden, as the default policy does."""
        return placement.next_load(self.books, executor, now_ns=now_ns)

    # --- the protocol -----------------------------------------------------------------------------

    def hold_until_ns(self, request: Request) -> int:
        """Say when a request is refused: when the time is up."""
        return request.due_ns

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Queue it: there is no test at arrival but the queues' bounds."""
        refusal = admission.full(self.books, request.model)
        if refusal is None:
            self.books.enqueue(request)
            self.wake(request.model, now_ns)
        return refusal

    def decide(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Refuse it: its time is up, or the policy has given it up."""
        self.books.dequeue(request)
        placement.note_shortage(self.books, request.model, now_ns)
        end_ns = admission.earliest_end_ns(self.books, request.model, now_ns)
        return admission.refusal_for(self.books, request, end_ns, now_ns)

    def restore(self, request: Request, *, force: bool, now_ns: int) -> None:
        """Queue it again; it will go first wherever its model's weights are."""
        self.books.enqueue(request)
        self._homeless[request.request_id] = request
        self.wake(request.model, now_ns)

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """Nothing is planned ahead, so there is nothing to reconsider."""
        return

    def lead_ns(self, executor: ExecutorBooks) -> int:
        """Commit as late as the pipe allows."""
        return executor.pipe.lead_ns

    def wake_at_ns(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Nothing is put off on an idle lane."""
        return None

    def next_batch(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Rescue first, then leave a shared lane to a LOAD whose turn it is, then choose."""
        if executor.quiescing:
            return None
        if self._homeless and (batch := self._rescue(executor, now_ns)) is not None:
            return batch
        if executor.device.shared_lanes and self._is_loads_turn(executor, now_ns):
            return None
        batch = self.choose(executor, now_ns=now_ns)
        if batch is not None:
            self._just_loaded.discard(executor.executor_id)
        return batch

    def next_load(self, executor: ExecutorBooks, *, now_ns: int) -> Place | None:
        """Choose whose weights to load on an executor now, if anyone's."""
        if not executor.device.shared_lanes:
            return self.choose_load(executor, now_ns=now_ns)
        place = self._turn.pop(executor.executor_id, None)
        if place is not None and place.residency is Residency.COLD:
            self._just_loaded.add(executor.executor_id)
            return place
        if executor.infer.outstanding:
            return None  # It is asked for a turn when the lane is due.
        return self.choose_load(executor, now_ns=now_ns)

    # --- what the policies use --------------------------------------------------------------------

    def wake(self, model: ModelBooks, now_ns: int) -> None:
        """Have those executors look again that could serve a model and would not by themselves."""
        if not model.serving:
            placement.note_shortage(self.books, model, now_ns)
        for place in model.serving:
            executor = place.executor
            wake_ns = executor.wake_ns
            if executor.due_ns <= now_ns or wake_ns is None or wake_ns > executor.due_ns:
                self.books.dirty[executor.executor_id] = executor

    def load_lane_is_due(self, executor: ExecutorBooks, now_ns: int) -> bool:
        """Say whether to choose a LOAD now; of a shared lane only turns are asked for."""
        if executor.device.shared_lanes:
            return True
        return executor.load_start_ns(now_ns) < now_ns + self.lead_ns(executor)

    def waits(self, request: Request) -> bool:
        """Say whether a request that was queued still is; its end is not told to policies."""
        known = self.books.requests.get(request.request_id)
        return known is request and request.state is RequestState.WAITING

    def warm_places(self, executor: ExecutorBooks) -> Iterable[Place]:
        """List the models with somebody in their queue that can run on an executor now."""
        for model_id in self.books.waiting:
            place = executor.places.get(model_id)
            if place is not None and is_warm(place):
                yield place

    def commit(self, place: Place, requests: list[Request]) -> PlannedBatch:
        """Take requests out of their queue, as the batch that is dispatched next."""
        due_ns = min(request.due_ns for request in requests)
        batch = PlannedBatch(place, place.costs, due_ns, place.warm_ns)
        for request in requests:
            self.books.dequeue(request)
            batch.add(request)
            request.batch = batch
            request.move(RequestState.PLANNED)
            self.books.fresh.append(request)
        return batch

    # --- details ----------------------------------------------------------------------------------

    def _rescue(self, executor: ExecutorBooks, now_ns: int) -> PlannedBatch | None:
        """Run the most urgent of the promised that lost their place, with others of its model."""
        start_ns = executor.start_ns(now_ns)
        for request in sorted(self._homeless.values(), key=lambda each: each.due_ns):
            if not self.waits(request):
                del self._homeless[request.request_id]
                continue
            place = executor.places.get(request.model.model_id)
            if place is None or not is_warm(place):
                continue
            if start_ns + cost_ns(place, 1) > request.deadline_ns:
                continue
            promised = [each for each in request.model.queue if each.promised]
            count = min(len(promised), place.costs.largest)
            while count > 1 and start_ns + cost_ns(place, count) > promised[0].due_ns:
                count -= 1
            return self.commit(place, promised[:count])
        return None

    def _is_loads_turn(self, executor: ExecutorBooks, now_ns: int) -> bool:
        executor_id = executor.executor_id
        if executor_id in self._just_loaded:
            self._just_loaded.discard(executor_id)
            return False
        place = self.choose_load(executor, now_ns=now_ns)
        if place is None:
            return False
        self._turn[executor_id] = place
        return True


def is_warm(place: Place) -> bool:
    """Say whether a batch could run at a place as soon as its lane is free."""
    return place.serves and place.residency is Residency.WARM


def cost_ns(place: Place, count: int) -> int:
    """Say how long a batch of `count` is expected to hold its lane."""
    return place.costs.by_count[count] + place.executor.pipe.overhead_ns
