"""The scheduler: events in, commands out. The one object that decides for a whole cluster.

The concept: `handle(*events, now_ns=...)` is a pure step. It changes the books, asks the policy,
and returns what is to be done; the caller does it and feeds what comes of it back as events. The
same object runs in the controller's actor and in the simulator. This file only sequences; each
decision stands in its own:

============================  ======================================================================
an event                      and what it leads to
============================  ======================================================================
``RequestArrived``            `admission.closed`, then `Policy.arrive`: promised, held or refused
``ActionDone``                `timeline` and `profile` learn; riders RAN, or another attempt
``Settled``                   the request ends, kept or broken (`lifecycle`)
``AttemptFailed``             another attempt, if time allows
``Cancel``, ``GatewayLost``   the request ends
``ExecutorJoined``            `registration` brings up there what `spread` says
``ExecutorLost``              what was committed gets another attempt, what was planned a new place
``ModelAdded``                `registration` brings it up where `spread` says
``ModelRemoved``              the held are refused, the promised finish, then UNLOAD forget
============================  ======================================================================

After the events each executor that was touched is *advanced*: batches are committed while its lane
is soon free, then registration steps, then LOADs. Executors that were not touched cost nothing.

Knows no clock and draws no chance. Neighbours: all of `cw/core/` but the executor's side.
"""

import heapq
from collections.abc import Iterable
from typing import assert_never

from cw.config import SchedulerSettings
from cw.core import admission, audit, standing, views
from cw.core.best_effort import BestEffort
from cw.core.books import Books, ExecutorBooks, ModelBooks, Place, unknown_model
from cw.core.commands import Command
from cw.core.dispatch import Dispatcher
from cw.core.events import (
    ActionDone,
    Event,
    ExecutorJoined,
    ExecutorLost,
    GatewayLost,
    ModelAdded,
    ModelPinned,
    ModelRemoved,
    RequestArrived,
    TenantWeighed,
    TimerFired,
)
from cw.core.ledger import Tally
from cw.core.lifecycle import Lifecycle
from cw.core.membership import Membership
from cw.core.policies import make_policy
from cw.core.profile import MeasuredDurations, Profiles
from cw.core.registration import Registrar
from cw.core.requests import Request, RequestState
from cw.core.results import Results
from cw.core.timeline import NEVER_NS
from cw.messages import (
    NO_DEADLINE_NS,
    AttemptFailed,
    Cancel,
    ClusterStatus,
    Descriptor,
    Epoch,
    ExecutorId,
    Failure,
    FailureKind,
    ModelId,
    ModelStatus,
    RequestId,
    Settled,
    gateway_of,
)
from cw.units import US

LOOK_AGAIN_NS = 20 * US
"""Least time between two looks at one executor without an event: a timer that rings exactly when a
lane is `lead` from free must not ring for ever."""


class Scheduler:
    """Decides for a cluster. One owner; no method waits.

    Args:
        settings: Bounds and the policy's name.
        epoch: This reign's number, written into assignments.
        ticket_seed: A secret of this reign, from which tickets are derived.
        measured: What an earlier reign measured; its programs need no new profile.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        *,
        epoch: Epoch,
        ticket_seed: int,
        measured: Iterable[MeasuredDurations] = (),
    ) -> None:
        self.epoch = epoch
        self.books = Books(settings, Profiles(settings.profile_window, settings.profile_quantile))
        self.books.profiles.restore(measured)
        self.policy = make_policy(settings, self.books)
        key = (ticket_seed & ((1 << 256) - 1)).to_bytes(32, "big")
        self.dispatcher = Dispatcher(self.books, epoch, key)
        self.best_effort = BestEffort(self.books)
        self.lifecycle = Lifecycle(self.books, self.policy, self.dispatcher, self.best_effort)
        self.registrar = Registrar(self.books, self.dispatcher)
        self.results = Results(self.books, self.lifecycle, self.registrar)
        self.membership = Membership(
            self.books, self.dispatcher, self.lifecycle, self.registrar, self.results
        )
        self._wakes: list[tuple[int, ExecutorId]] = []

    @property
    def tally(self) -> Tally:
        """The counts of all requests so far."""
        return self.lifecycle.tally

    @property
    def wake_at_ns(self) -> int | None:
        """When to call `handle` even if nothing happens; cluster time."""
        wakes, executors = self._wakes, self.books.executors
        while wakes:
            executor = executors.get(wakes[0][1])
            if executor is not None and executor.wake_ns == wakes[0][0]:
                break
            heapq.heappop(wakes)
        wake_ns = min(self.lifecycle.next_alarm_ns, self.dispatcher.first_lost_ns)
        if wakes:
            wake_ns = min(wake_ns, wakes[0][0])
        return wake_ns if wake_ns < NEVER_NS else None

    def handle(self, *events: Event, now_ns: int) -> list[Command]:
        """Take what happened and say what to do.

        Args:
            events: In the order in which they happened.
            now_ns: Cluster time; never before that of the last call.
        """
        for event in events:
            self._take(event, now_ns)
        self.lifecycle.ring(now_ns)
        if now_ns >= self.dispatcher.first_lost_ns:
            self._drop_the_silent(now_ns)
        while self._wakes and self._wakes[0][0] <= now_ns:
            executor = self.books.executors.get(self._wakes[0][1])
            if executor is not None and executor.wake_ns == self._wakes[0][0]:
                executor.wake_ns = None
                self.books.dirty[executor.executor_id] = executor
            heapq.heappop(self._wakes)
        dirty, cramped = self.books.dirty, self.books.cramped
        while dirty or cramped:
            while cramped:
                self.registrar.extend(cramped.popitem()[1], now_ns=now_ns)
            if not dirty:
                break
            executor_id = next(iter(dirty))
            executor = dirty.pop(executor_id)
            if executor_id in self.books.executors:
                self._advance(executor, now_ns)
        if self.books.given_up:
            self.lifecycle.give_up(now_ns)
        while self.books.doubtful:
            self.registrar.doubt(self.books.doubtful.popitem()[1], now_ns=now_ns)
        while self.books.leaving:
            self.membership.forget_if_done(self.books.leaving.popitem()[1])
        self.lifecycle.tell_promises(now_ns)
        return self.dispatcher.take_commands()

    def _take(self, event: Event, now_ns: int) -> None:
        match event:
            case RequestArrived(descriptor=descriptor):
                self._arrive(descriptor, now_ns)
            case ActionDone(executor_id=executor_id, result=result):
                executor = self.books.executors.get(executor_id)
                if executor is not None:
                    fault = self.results.take(executor, result, now_ns)
                    if fault is not None:
                        self.membership.drop(executor, fault, now_ns)
            case Settled():
                request = self.books.requests.get(event.request_id)
                if request is not None:
                    self.lifecycle.settle(request, event.outcome, event.finished_ns, now_ns)
            case AttemptFailed(request_id=request_id, attempt=attempt, detail=detail):
                request = self.books.requests.get(request_id)
                if request is not None and request.attempt == attempt and request.committed:
                    self.results.attempt_failed(request, detail, now_ns)
            case Cancel(request_id=request_id):
                request = self.books.requests.get(request_id)
                if request is not None:
                    self.lifecycle.cancel(request, now_ns, "cancelled by its caller")
            case ExecutorJoined():
                self.membership.join(event)
            case ExecutorLost(executor_id=executor_id):
                executor = self.books.executors.get(executor_id)
                if executor is not None:
                    self.membership.lose(executor, now_ns)
            case GatewayLost(gateway_id=gateway_id):
                for request in self.books.open_of(gateway_id):
                    self.lifecycle.cancel(request, now_ns, "its gateway was lost")
            case ModelAdded(spec=spec):
                self.membership.add_model(ModelBooks(spec))
            case ModelRemoved(model_id=model_id):
                if model_id in self.best_effort.waiting:
                    self.lifecycle.refuse_removed(self.books.models[model_id], now_ns)
                self.membership.remove_model(model_id, now_ns)
            case TenantWeighed() | ModelPinned():
                standing.take(self.books, event)
            case TimerFired():
                pass
            case _:
                assert_never(event)

    # --- requests ---------------------------------------------------------------------------------

    def _arrive(self, descriptor: Descriptor, now_ns: int) -> None:
        if descriptor.request_id in self.books.requests:
            return
        model = self.books.models.get(descriptor.model_id)
        self.books.forget_stale_delivery(now_ns)
        is_best_effort = descriptor.deadline_ns == NO_DEADLINE_NS
        request = Request(
            request_id=descriptor.request_id,
            gateway_id=gateway_of(descriptor.request_id),
            model=model or unknown_model(),
            arrival_ns=descriptor.arrival_ns,
            deadline_ns=descriptor.deadline_ns,
            due_ns=descriptor.deadline_ns - self.books.allowance_ns,
            hold_until_ns=descriptor.deadline_ns,
            attempt=descriptor.attempt,
            tenant_id=descriptor.tenant_id,
            promised=descriptor.promised and not is_best_effort,
            is_best_effort=is_best_effort,
        )
        self.lifecycle.tally_of(request).arrived()
        if not is_best_effort:
            request.hold_until_ns = max(now_ns, self.policy.hold_until_ns(request))
        self.lifecycle.open(request, now_ns)
        if model is None or model.removed:
            failure = Failure(
                kind=FailureKind.UNKNOWN_MODEL,
                message=f"no model has the id {descriptor.model_id}; list the models",
            )
            self.lifecycle.abandon(request, failure, now_ns)
            return
        if is_best_effort:
            self.lifecycle.arrive_best_effort(
                request, None if model.serving else admission.closed(self.books, model), now_ns
            )
            return
        model.rate.count(now_ns=now_ns)
        model.popularity.use(now_ns=now_ns)
        if request.promised:
            self.lifecycle.place_promised(
                request, now_ns, force=True, kind=FailureKind.EXECUTOR_LOST
            )
            return
        refusal = None
        if not model.serving:
            refusal = admission.closed(self.books, model)
        refusal = refusal or self.policy.arrive(request, now_ns=now_ns)
        if refusal is not None:
            self.lifecycle.refuse_at_arrival(request, refusal, now_ns)
        elif request.state is RequestState.WAITING:
            self.lifecycle.hold(request)

    # --- executors --------------------------------------------------------------------------------

    def _advance(self, executor: ExecutorBooks, now_ns: int) -> None:
        """Commit what is due on one executor, and say when to look again."""
        if executor.freed or now_ns >= executor.due_ns:
            self._commit_due(executor, now_ns)
        look_ns = None
        if executor.bring_up:
            look_ns = self.registrar.advance(executor, now_ns=now_ns)
        if self.books.waiting or executor.has_cold:
            self._load(executor, now_ns)
        if self.best_effort.waiting:
            look_ns = _earlier(look_ns, self._fill_gap(executor, now_ns))
        self._set_wake(executor, look_ns, now_ns)

    def _commit_due(self, executor: ExecutorBooks, now_ns: int) -> None:
        """Fill the INFER lane for as long ahead as the policy wants."""
        ahead_ns = now_ns + self.policy.lead_ns(executor)
        while self._likely_free_ns(executor, now_ns) <= ahead_ns:
            batch = self.policy.next_batch(executor, now_ns=now_ns)
            if batch is None:
                break
            if self.best_effort.waiting:
                self.best_effort.fill(batch)
            self.dispatcher.infer(batch, now_ns)
            executor.freed = True
        if executor.freed and executor.waiting:
            self.policy.reconsider(executor, now_ns=now_ns)
        executor.freed = False

    def _load(self, executor: ExecutorBooks, now_ns: int) -> None:
        place: Place | None
        while (place := self.policy.next_load(executor, now_ns=now_ns)) is not None:
            if not self.dispatcher.load(place, now_ns):
                return
            self.policy.reconsider(executor, now_ns=now_ns)

    def _fill_gap(self, executor: ExecutorBooks, now_ns: int) -> int | None:
        """Run best-effort requests where nobody with an SLO wants the time; say when to look."""
        best_effort = self.best_effort
        if self._likely_free_ns(executor, now_ns) <= now_ns + self.policy.lead_ns(executor):
            batch = best_effort.next_batch(executor, now_ns)
            if batch is not None:
                self.dispatcher.infer(batch, now_ns)
        place = best_effort.next_load(executor, now_ns)
        if place is not None:
            self.dispatcher.load(place, now_ns)
        return best_effort.look_ns(executor, now_ns)

    @staticmethod
    def _likely_free_ns(executor: ExecutorBooks, now_ns: int) -> int:
        return executor.infer.likely_free_ns(now_ns=now_ns, return_ns=executor.pipe.return_ns)

    def _set_wake(self, executor: ExecutorBooks, look_ns: int | None, now_ns: int) -> None:
        """Say when to look at an executor again if nothing happens before."""
        if not executor.due_ns and executor.infer.outstanding:
            # Only a commit or a result can bring this forward, and both clear it.
            lead_ns = self.policy.lead_ns(executor)
            executor.due_ns = self._likely_free_ns(executor, now_ns) - lead_ns
        wake_ns = look_ns
        batches, load = executor.plan.batches, executor.load
        if batches or executor.waiting or self.books.waiting or self.best_effort.waiting:
            if executor.due_ns > now_ns:
                wake_ns = _earlier(wake_ns, executor.due_ns)
            else:  # It was asked for a batch in vain, so that time alone must make the difference.
                wake_ns = _earlier(wake_ns, self.policy.wake_at_ns(executor, now_ns=now_ns))
                if batches:
                    release_ns = min(batch.release_ns for batch in batches)
                    wake_ns = _earlier(wake_ns, release_ns - executor.pipe.delay_ns)
            if load.outstanding and load is not executor.infer:
                free_ns = load.free_ns(now_ns=now_ns, return_ns=executor.pipe.return_ns)
                due_ns = free_ns - self.policy.lead_ns(executor)
                if due_ns > now_ns:
                    wake_ns = _earlier(wake_ns, due_ns)
        if wake_ns is None:
            executor.wake_ns = None
            return
        wake_ns = max(wake_ns, now_ns + LOOK_AGAIN_NS)
        if wake_ns != executor.wake_ns:
            executor.wake_ns = wake_ns
            heapq.heappush(self._wakes, (wake_ns, executor.executor_id))

    def _drop_the_silent(self, now_ns: int) -> None:
        """Do without executors that never answered an action; the others are watched on."""
        self.dispatcher.first_lost_ns = NEVER_NS
        for executor in list(self.books.executors.values()):
            for lane in (executor.infer, executor.load):
                overdue = lane.overdue(now_ns=now_ns)
                if overdue is not None:
                    kind = type(overdue.action).__name__.upper()
                    reason = (
                        f"{executor.name} never answered {kind} {overdue.action.action_id}, "
                        f"expected at {overdue.end_ns} and given up at {now_ns}"
                    )
                    self.membership.drop(executor, reason, now_ns)
                    break
                if lane.front is not None:
                    self.dispatcher.watch(lane.front)

    # --- views ------------------------------------------------------------------------------------

    def validate(self) -> None:
        """Assert every invariant of the books; slow, for tests."""
        audit.validate(self.books, self.best_effort)
        self.registrar.spread.validate()

    def story(self, request_id: RequestId) -> list[str]:
        """Tell what became of a request, one line a step; empty if it is not remembered."""
        return self.lifecycle.story(request_id)

    def status(self, now_ns: int) -> ClusterStatus:
        """Show the whole cluster."""
        return views.cluster_status(self.books, self.lifecycle, self.epoch, now_ns)

    def measured(self) -> list[MeasuredDurations]:
        """Give away all measured durations, for the next reign."""
        return self.books.profiles.measured()

    def model_status(self, model_id: ModelId, now_ns: int) -> ModelStatus:
        """Show one model.

        Raises:
            UnknownModel: There is none of that id.
        """
        return views.model_status(self.books, model_id)


def _earlier(one_ns: int | None, other_ns: int | None) -> int | None:
    if one_ns is None or other_ns is None:
        return other_ns if one_ns is None else one_ns
    return min(one_ns, other_ns)
