"""Promises hold."""

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import attrs

from cw.messages import ExecutorId, RequestId, Unload
from cw.sim.checkers.checker import Checker, require
from cw.sim.journal import End, RequestRecord
from cw.units import MS

if TYPE_CHECKING:
    from cw.sim.executor import Pending, SimExecutor, SimLane

_EXCUSE_NS: Final = 100 * MS
"""A disturbance excuses a promise that was made until this long after its end: by then its trace is
in what the controller has measured."""
_UNHEARD_NS: Final = 20 * MS
"""What an action took is known to whoever promises this long after its end, messages included."""


@attrs.define(eq=False)
class _Overruns:
    """How much longer than planned one executor's actions took, the recent ones."""

    ended: deque[tuple[int, int]] = attrs.field(factory=deque)
    """(when, by how much), in the order of their ends."""
    running: dict[str, tuple[int, int]] = attrs.field(factory=dict)
    """By lane: (started, expected duration) of what runs now."""

    def since(self, from_ns: int, now_ns: int) -> int:
        """Sum up what was overrun from an instant on, what still runs included."""
        total_ns = sum(by_ns for at_ns, by_ns in self.ended if at_ns >= from_ns)
        for started_ns, expected_ns in self.running.values():
            total_ns += max(0, now_ns - started_ns - expected_ns)
        return total_ns


class PromisesHold(Checker):
    """A promise is broken for a cause outside of the plan only, never by choice.

    Causes are a disturbance between the promise (or shortly before) and its end; the loss of the
    executor on which it was planned or committed, or of its gateway; or actions of some executor
    that together took more than `slack_ns` longer than the controller had planned with. What is
    less than that is what the margin is for.

    Args:
        slack_ns: A part of the scheduler's margin.
    """

    def __init__(self, *, slack_ns: int) -> None:
        self._slack_ns: Final = slack_ns
        self._disturbed_until_ns = -1
        self._open: set[RequestId] = set()
        self._displaced: set[RequestId] = set()
        self._overruns: dict[ExecutorId, _Overruns] = {}
        self._span_ns = 0

    def arrived(self, record: RequestRecord) -> None:
        """See `Checker`."""
        self._open.add(record.request_id)
        self._span_ns = max(self._span_ns, record.deadline_ns - record.arrival_ns)

    def disturbed(self, what: str, *, now_ns: int, until_ns: int) -> None:
        """See `Checker`."""
        del what, now_ns
        self._disturbed_until_ns = max(self._disturbed_until_ns, until_ns)

    def lost(self, executor_id: ExecutorId, displaced: Collection[RequestId]) -> None:
        """See `Checker`."""
        self._displaced.update(self._open.intersection(displaced))
        self._overruns.pop(executor_id, None)

    def started(
        self, executor: "SimExecutor", lane: "SimLane", pending: "Pending", *, now_ns: int
    ) -> None:
        """See `Checker`."""
        del now_ns
        if not isinstance(pending.action, Unload):
            overruns = self._overruns.setdefault(executor.executor_id, _Overruns())
            started_ns = executor.world.engine.now_ns
            overruns.running[lane.name] = (started_ns, pending.action.expected_ns)

    def ended(self, executor: "SimExecutor", lane: "SimLane", pending: "Pending") -> None:
        """See `Checker`."""
        overruns = self._overruns.get(executor.executor_id)
        if overruns is None or isinstance(pending.action, Unload):
            return
        now_ns = executor.world.engine.now_ns
        started_ns, expected_ns = overruns.running.pop(lane.name)
        if now_ns - started_ns > expected_ns:
            overruns.ended.append((now_ns, now_ns - started_ns - expected_ns))
        oldest_ns = now_ns - self._span_ns - _UNHEARD_NS
        while overruns.ended and overruns.ended[0][0] < oldest_ns:
            overruns.ended.popleft()

    def answered(self, record: RequestRecord) -> None:
        """See `Checker`."""
        self._open.discard(record.request_id)
        displaced = record.request_id in self._displaced
        self._displaced.discard(record.request_id)
        if record.end is not End.BROKEN or displaced or record.reason == "gatewayLost":
            return
        made_ns, now_ns = record.promised_ns, record.ended_ns
        assert made_ns is not None, f"broken, but never promised: {record}"
        if made_ns <= self._disturbed_until_ns + _EXCUSE_NS:
            return
        worst_ns = max(
            (each.since(made_ns - _UNHEARD_NS, now_ns) for each in self._overruns.values()),
            default=0,
        )
        require(
            worst_ns > self._slack_ns,
            lambda: (
                f"broken though nothing disturbed the plan (the worst executor took {worst_ns} ns "
                f"longer than planned since the promise): {record}"
            ),
        )
