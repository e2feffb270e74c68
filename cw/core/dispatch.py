"""Dispatch: turning choices into actions, windows and messages, and the books that go with them.

The concept: here is the one place where actions are made. It numbers them, gives them windows and
tickets, commits them to their lane's timeline, and collects the commands of one step. It chooses
nothing: policies and `registration.py` did.

A window starts now, since a lane runs its actions in the order of sending anyway and an early end
before it should not be wasted. It ends at the last start at which all riders are still in time, but
not so late that waiting for inputs could cost other promises: a lane waits until `latest`.

Neighbours: `scheduler.py` and `registration.py` call it; `timeline.py` and `pages.py` remember.
"""

import hashlib
import struct
from typing import Final

import attrs

from cw.core import placement
from cw.core.books import Books, ExecutorBooks, Place
from cw.core.commands import Command, Decide, SendAction
from cw.core.plan import PlannedBatch
from cw.core.requests import Request, RequestState
from cw.core.residency import Residency
from cw.core.timeline import NEVER_NS, Committed, Lane
from cw.core.work import Work
from cw.messages import (
    NO_DEADLINE_NS,
    Action,
    ActionId,
    Assign,
    Assignment,
    Epoch,
    GatewayId,
    Infer,
    Load,
    ModelId,
    Prepare,
    Slot,
    Ticket,
    Unload,
    Window,
)
from cw.units import SECOND

TICKETS_PER_HASH: Final = hashlib.blake2b().digest_size // 8
PATIENCE_NS: Final = 10 * SECOND
"""Windows of actions that nobody waits for by the millisecond: PREPARE, LOAD, probes."""

KEPT_NS: Final = 5 * SECOND
"""Executors keep outputs until the last deadline, and those of best effort for so long."""


@attrs.define(eq=False)
class Dispatcher:
    """Makes actions; collects commands until the step ends."""

    books: Books
    epoch: Epoch
    _ticket_key: bytes
    _next_action: int = 1
    commands: list[Command] = attrs.field(factory=list)
    first_lost_ns: int = NEVER_NS
    """When an executor may first count as silent, by the actions that were sent."""
    _ticket_block: int = -1
    _tickets: tuple[int, ...] = ()

    def take_commands(self) -> list[Command]:
        """Hand over what was collected."""
        commands, self.commands = self.commands, []
        return commands

    def infer(self, batch: PlannedBatch, now_ns: int) -> None:
        """Send a batch and tell its gateways; its requests are PLANNED and in no plan any more."""
        place, riders = batch.place, batch.requests
        place.unused = False
        executor, count = place.executor, len(riders)
        device_ns = batch.costs.by_count[count]
        busy_ns = device_ns + executor.pipe.overhead_ns
        allowance_ns = self.books.allowance_ns
        start_ns = executor.start_ns(now_ns)
        last_end_ns = batch.deadline_ns - allowance_ns
        if batch.deadline_ns == NO_DEADLINE_NS:
            # All of it is best effort: the lane may be wanted, and waits for no late inputs.
            last_end_ns = start_ns + busy_ns
        action_id = self._name()
        action = Infer(
            action_id=action_id,
            model_id=place.model.spec.model_id,
            batch_size=batch.costs.size_for[count],
            slots=tuple(
                [
                    Slot(
                        request_id=rider.request_id,
                        attempt=rider.attempt,
                        deadline_ns=start_ns + busy_ns + KEPT_NS
                        if rider.is_best_effort
                        else rider.deadline_ns,
                        tenant_id=rider.tenant_id,
                    )
                    for rider in riders
                ]
            ),
            ticket=self._ticket(action_id),
            planned_start_ns=_start_ns(place, start_ns),
            expected_ns=device_ns,
            window=Window(
                earliest_ns=now_ns,
                latest_ns=self._latest_ns(executor, start_ns, last_end_ns, busy_ns, now_ns),
            ),
        )
        work = Work(place, list(riders), [], device_ns)
        likely_ns = batch.costs.typical_by_count[count] + busy_ns - device_ns
        committed = self._commit(
            executor, executor.infer, action, busy_ns, work, now_ns, likely_ns=likely_ns
        )
        self._assign(committed, action, riders, committed.end_ns + allowance_ns, now_ns)

    def _latest_ns(
        self, executor: ExecutorBooks, start_ns: int, last_end_ns: int, busy_ns: int, now_ns: int
    ) -> int:
        """Say until when a batch may start, from `start_ns` on, that must end at `last_end_ns`."""
        settings = self.books.settings
        last_start_ns, wait_ns = last_end_ns - busy_ns, settings.schedule_ahead_max_ns
        # Those who come later are promised time that this lane may spend waiting: not too much.
        patience_ns = (last_end_ns - now_ns) // 4
        if patience_ns > wait_ns and last_start_ns > start_ns + wait_ns:
            overhead_ns = executor.pipe.overhead_ns
            spare_ns = executor.plan.least_spare_ns(start_ns + busy_ns, overhead_ns, now_ns)
            wait_ns = max(wait_ns, min(spare_ns, patience_ns))
        return max(start_ns + settings.schedule_ahead_ns, min(last_start_ns, start_ns + wait_ns))

    def _assign(
        self,
        committed: Committed[Work],
        action: Infer,
        riders: list[Request],
        finish_ns: int,
        now_ns: int,
    ) -> None:
        shares: dict[GatewayId, list[Assignment]] = {}
        for position, rider in enumerate(riders):
            rider.move(RequestState.COMMITTED)
            rider.batch, rider.committed, rider.predicted_ns = None, committed, finish_ns
            rider.note(now_ns, "assigned to action %d", action.action_id)
            assignment = Assignment(
                request_id=rider.request_id, attempt=rider.attempt, position=position
            )
            share = shares.get(rider.gateway_id)
            if share is None:
                shares[rider.gateway_id] = [assignment]
            else:
                share.append(assignment)
        executor_id = committed.cargo.place.executor.executor_id
        for gateway_id, assignments in shares.items():
            assign = Assign(
                epoch=self.epoch,
                action_id=action.action_id,
                ticket=action.ticket,
                executor_id=executor_id,
                predicted_finish_ns=finish_ns,
                assignments=tuple(assignments),
            )
            self.commands.append(Decide(gateway_id=gateway_id, decision=assign))

    def probe(self, place: Place, batch_size: int, now_ns: int) -> None:
        """Send an INFER without requests, to be measured."""
        executor = place.executor
        device_ns = place.costs.by_count[batch_size]
        action_id = self._name()
        action = Infer(
            action_id=action_id,
            model_id=place.model.model_id,
            batch_size=batch_size,
            slots=(),
            ticket=self._ticket(action_id),
            planned_start_ns=_start_ns(place, executor.start_ns(now_ns)),
            expected_ns=device_ns,
            window=Window(earliest_ns=now_ns, latest_ns=now_ns + PATIENCE_NS),
        )
        work = Work(place, device_ns=device_ns, probe=True)
        busy_ns = device_ns + executor.pipe.overhead_ns
        self._commit(executor, executor.infer, action, busy_ns, work, now_ns)

    def prepare(self, place: Place, expected_ns: int, now_ns: int) -> None:
        """Send a PREPARE."""
        executor = place.executor
        action = Prepare(
            action_id=self._name(),
            model=place.model.spec,
            planned_start_ns=executor.start_ns(now_ns),
            expected_ns=expected_ns,
            window=Window(earliest_ns=now_ns, latest_ns=now_ns + PATIENCE_NS),
        )
        work = Work(place, device_ns=expected_ns)
        self._commit(executor, executor.infer, action, expected_ns, work, now_ns)

    def load(self, place: Place, now_ns: int) -> bool:
        """Send a LOAD, and before it the UNLOADs that it needs; False if pages can't be freed."""
        executor, spec = place.executor, place.model.spec
        victims = placement.choose_victims(self.books, place)
        if victims is None:
            return False
        for model_id in victims:
            victim = executor.places[model_id].model
            self.unload(executor, model_id)
            if victim.queue and not victim.serving:
                placement.note_shortage(self.books, victim, now_ns)  # they wait for weights again
        executor.pages.claim(spec.model_id, spec.pages)
        executor.eviction.add(spec.model_id, place.model.popularity.key)
        load_ns = self.books.profiles.load_ns(executor.device, spec.image_bytes)
        action = Load(
            action_id=self._name(),
            model_id=spec.model_id,
            planned_start_ns=executor.load_start_ns(now_ns),
            expected_ns=load_ns,
            window=Window(earliest_ns=now_ns, latest_ns=now_ns + PATIENCE_NS),
        )
        work = Work(place, device_ns=load_ns)
        likely_ns = self.books.profiles.typical_load_ns(executor.device, spec.image_bytes)
        committed = self._commit(
            executor, executor.load, action, load_ns, work, now_ns, likely_ns=likely_ns
        )
        place.residency, place.warm_ns, place.unused = Residency.LOADING, committed.end_ns, True
        place.serve_if_ready()
        return True

    def unload(self, executor: ExecutorBooks, model_id: ModelId, *, forget: bool = False) -> None:
        """Send an UNLOAD; the books are clear at once, since orders are carried out in order."""
        executor.pages.release(model_id)
        executor.eviction.discard(model_id)
        place = executor.places.get(model_id)
        if place is not None:
            place.residency = Residency.COLD
            place.stop_serving()
        action = Unload(action_id=self._name(), model_id=model_id, forget=forget)
        self.commands.append(SendAction(executor_id=executor.executor_id, action=action))

    def _commit(
        self,
        executor: ExecutorBooks,
        lane: Lane[Work],
        action: Prepare | Load | Infer,
        busy_ns: int,
        work: Work,
        now_ns: int,
        likely_ns: int = 0,
    ) -> Committed[Work]:
        ready_ns = now_ns + executor.pipe.delay_ns
        if isinstance(action, Infer) and work.place.residency is Residency.LOADING:
            ready_ns = max(ready_ns, work.place.warm_ns)
        committed: Committed[Work] = Committed(  # subscripting the class costs more than making one
            action=action,
            sent_ns=now_ns,
            ready_ns=ready_ns,
            start_ns=action.planned_start_ns,
            busy_ns=busy_ns,
            latest_ns=action.window.latest_ns,
            cargo=work,
            likely_ns=likely_ns,
        )
        lane.commit(committed)
        self.watch(committed)
        executor.due_ns = 0
        executor.plan.changed()
        work.place.in_flight += 1
        work.place.model.in_flight += 1
        self._send(executor, action)
        return committed

    def watch(self, committed: Committed[Work]) -> None:
        """See to it that an executor that never answers this is noticed."""
        self.first_lost_ns = min(self.first_lost_ns, committed.lost_at_ns)

    def _send(self, executor: ExecutorBooks, action: Action) -> None:
        self.commands.append(SendAction(executor_id=executor.executor_id, action=action))

    def _name(self) -> ActionId:
        action_id = ActionId(self._next_action)
        self._next_action += 1
        return action_id

    def _ticket(self, action_id: ActionId) -> Ticket:
        # A keyed hash: whoever saw all tickets so far still can't tell the next one. One hash makes
        # the tickets of several actions.
        block, index = divmod(action_id, TICKETS_PER_HASH)
        if block != self._ticket_block:
            digest = hashlib.blake2b(block.to_bytes(8, "big"), key=self._ticket_key).digest()
            self._ticket_block = block
            self._tickets = struct.unpack(f">{TICKETS_PER_HASH}Q", digest)
        return Ticket(self._tickets[index])


def _start_ns(place: Place, start_ns: int) -> int:
    """Predict an INFER's start: when its lane is free, and its LOAD has ended."""
    return max(start_ns, place.warm_ns) if place.residency is Residency.LOADING else start_ns
