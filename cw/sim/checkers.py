"""Checkers: the invariants of a cluster, each watched by one small class.

They see what the world shows them, independently of how the scheduler or an executor keeps its own
books, and raise `InvariantBroken` at the first contradiction.
"""

from typing import TYPE_CHECKING, Final

import attrs

from cw.messages import (
    Abandon,
    Action,
    ActionId,
    Assign,
    Attempt,
    Decision,
    ExecutorId,
    Infer,
    ModelId,
    Promise,
    Refuse,
    RequestId,
    Unload,
)
from cw.sim.journal import End, Journal, RequestRecord
from cw.units import MS

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane

_EXCUSE_NS: Final = 100 * MS
"""A disturbance excuses a promise that was made until this long after its end: by then its trace is
in what the controller has measured."""


class InvariantBroken(AssertionError):
    """Something happened that must never happen. A bug: the message says what, and to whom."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InvariantBroken(message)


class Checker:
    """Watches; every method is a thing that it may see."""

    def decided(self, decision: Decision) -> None:
        """The controller decided about requests."""

    def sent(self, executor_id: ExecutorId, action: Action) -> None:
        """The controller sent an action."""

    def answered(self, record: RequestRecord) -> None:
        """A gateway gave a request its answer."""

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """A lane started an action; `now_ns` is on the executor's clock."""

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """A lane's action ended."""

    def pages_claimed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """An executor gave pages to a model."""

    def pages_freed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """An executor took pages back."""

    def finish(self, journal: Journal) -> None:
        """The run is over."""


class OneAnswer(Checker):
    """Every request gets one answer: no gateway gives two, and none is forgotten."""

    def __init__(self) -> None:
        self._answered: set[RequestId] = set()

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        _require(record.request_id not in self._answered, f"a second answer to {record}")
        self._answered.add(record.request_id)

    def finish(self, journal: Journal) -> None:
        """See `Checker`."""
        open_ones = [record for record in journal.requests.values() if record.end is None]
        _require(not open_ones, f"{len(open_ones)} requests without an answer: {open_ones[:3]}")


class DecisionsStand(Checker):
    """A final decision is the last word on a request, and a promised one is never refused."""

    def __init__(self) -> None:
        self._promised: set[RequestId] = set()
        self._final: dict[RequestId, Decision] = {}
        self._attempts: dict[RequestId, Attempt] = {}

    def decided(self, decision: Decision) -> None:
        """See `Checker`."""
        if isinstance(decision, Assign):
            for place in decision.assignments:
                self._still_open(place.request_id, decision)
                last = self._attempts.get(place.request_id, Attempt(0))
                _require(
                    place.attempt > last,
                    f"attempt {place.attempt} of {place.request_id} was assigned after {last}",
                )
                self._attempts[place.request_id] = place.attempt
                self._promised.add(place.request_id)
            return
        self._still_open(decision.request_id, decision)
        match decision:
            case Promise(request_id=request_id):
                self._promised.add(request_id)
            case Refuse(request_id=request_id):
                _require(request_id not in self._promised, f"refused after its promise: {decision}")
                self._final[request_id] = decision
            case Abandon(request_id=request_id):
                self._final[request_id] = decision

    def _still_open(self, request_id: RequestId, decision: Decision) -> None:
        final = self._final.get(request_id)
        _require(final is None, f"{decision} after {final}")


class LanesAreSerial(Checker):
    """No two actions run at once on one lane; executors that share lanes have one."""

    def __init__(self) -> None:
        self._running: dict[tuple[ExecutorId, str], ActionId] = {}

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del now_ns
        key = (executor.executor_id, lane.name)
        action_id = pending.action.action_id
        _require(
            key not in self._running,
            f"{executor.name}: action {action_id} started on lane {lane.name} beside "
            f"{self._running.get(key)}",
        )
        self._running[key] = action_id

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """See `Checker`."""
        ended = self._running.pop((executor.executor_id, lane.name), None)
        action_id = pending.action.action_id
        _require(ended == action_id, f"{executor.name}: {action_id} ended while {ended} ran")


class WindowsHold(Checker):
    """Nothing starts outside of its window, and no action is sent with an impossible batch."""

    def sent(self, executor_id: ExecutorId, action: Action) -> None:
        """See `Checker`."""
        if isinstance(action, Infer):
            _require(
                len(action.slots) <= action.batch_size,
                f"executor {executor_id}: {len(action.slots)} slots in a batch of "
                f"{action.batch_size}",
            )

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del lane
        action = pending.action
        if not isinstance(action, Unload):
            window = action.window
            _require(
                window.earliest_ns <= now_ns <= window.latest_ns,
                f"{executor.name}: action {action.action_id} started at {now_ns}, outside of "
                f"{window}",
            )


class PagesSuffice(Checker):
    """No page has two owners, none is made up, and what runs is resident."""

    def __init__(self) -> None:
        self._owners: dict[ExecutorId, dict[int, ModelId]] = {}

    def pages_claimed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        owners = self._owners.setdefault(executor.executor_id, {})
        total = executor.world.profile.pages_total
        for page in pages:
            _require(
                page not in owners and 0 <= page < total,
                f"{executor.name}: page {page} of {total} given to model {model_id} belongs to "
                f"{owners.get(page)}",
            )
            owners[page] = model_id

    def pages_freed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        for page in pages:
            owner = self._owners[executor.executor_id].pop(page, None)
            _require(
                owner == model_id,
                f"{executor.name}: page {page} taken from model {model_id} belongs to {owner}",
            )

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del lane, now_ns
        if isinstance(pending.action, Infer):
            owned = self._owners.get(executor.executor_id, {})
            _require(
                pending.model_id in owned.values(),
                f"{executor.name}: {pending.action} started without its weights",
            )


class PromisesHold(Checker):
    """A promise is broken for a cause outside of the plan only, never by choice."""

    def finish(self, journal: Journal) -> None:
        """See `Checker`."""
        for record in journal.requests.values():
            if record.end is End.BROKEN:
                made_ns = record.promised_ns
                assert made_ns is not None, f"broken, but never promised: {record}"
                excused = any(
                    disturbance.at_ns <= record.ended_ns
                    and made_ns <= disturbance.until_ns + _EXCUSE_NS
                    for disturbance in journal.disturbances
                )
                _require(excused, f"broken though nothing disturbed the plan: {record}")


@attrs.frozen
class Checkers(Checker):
    """Shows everything to all of them."""

    each: tuple[Checker, ...] = attrs.field(
        factory=lambda: (
            OneAnswer(),
            DecisionsStand(),
            LanesAreSerial(),
            WindowsHold(),
            PagesSuffice(),
            PromisesHold(),
        )
    )

    def decided(self, decision: Decision) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.decided(decision)

    def sent(self, executor_id: ExecutorId, action: Action) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.sent(executor_id, action)

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.answered(record)

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.started(executor, lane, pending, now_ns=now_ns)

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.ended(executor, lane, pending)

    def pages_claimed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.pages_claimed(executor, model_id, pages)

    def pages_freed(self, executor: "SimExecutor", model_id: ModelId, pages: list[int]) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.pages_freed(executor, model_id, pages)

    def finish(self, journal: Journal) -> None:
        """See `Checker`."""
        for checker in self.each:
            checker.finish(journal)
