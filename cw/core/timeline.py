"""Timelines: when will each lane of each executor be free, and how long is the way to it?

The concept: a lane runs its committed actions one after the other, so the time when it is free is
the last measured end plus what was committed since. Each result replaces a prediction by a
measurement and everything behind it moves along. `PipeDelay` learns what lies between the
controller and the lane: how long an action takes from its sending until it could start (inputs
included), and how long a result takes back.

Knows nothing of requests or models. Neighbours: `plan.py` starts where the timeline ends;
`scheduler.py` commits and completes.

Source: Clockwork (OSDI 2020) section 5.3, "predicting action completion".
"""

from typing import Final, Generic, TypeVar

import attrs

from cw.core.durations import DurationWindow
from cw.messages import Action, ActionId
from cw.units import MS, SECOND

T = TypeVar("T")

NEVER_NS: Final = 1 << 62
"""Later than any instant."""
OVERDUE_NS: Final = 1 * SECOND
"""An action is lost when its executor is silent on it this long after its last possible end, and
as long again as it may take."""
PIPE_WINDOW: Final = 64
PIPE_QUANTILE: Final = 0.95
PIPE_STALE_NS: Final = SECOND
"""What no result has confirmed for so long is given up: a pipe believed to be slow has requests
refused, and then nothing is left that could show that it has become quick again."""
UTILISATION_NS: Final = 2 * SECOND


@attrs.define(eq=False)
class Committed(Generic[T]):
    """An action that was sent and not yet answered. Instants are cluster time."""

    action: Action
    sent_ns: int
    ready_ns: int
    """Predicted: the action and its inputs are at the lane."""
    start_ns: int
    """Predicted."""
    busy_ns: int
    """How long it is expected to hold its lane."""
    latest_ns: int
    """Its window's end."""
    cargo: T
    """What the scheduler wants to find again with the result."""
    likely_ns: int = 0
    """How long it will probably hold its lane; `busy_ns` where nothing better is known."""
    predicted_end_ns: int = 0
    """What was predicted when it was sent; `end_ns` moves with what is learnt since."""
    free_ns: int = 0
    """When the lane was free for it, as far as is known."""

    def __attrs_post_init__(self) -> None:
        self.predicted_end_ns = self.end_ns
        self.likely_ns = self.likely_ns or self.busy_ns

    @property
    def end_ns(self) -> int:
        """Predicted end."""
        return self.start_ns + self.busy_ns

    @property
    def lost_at_ns(self) -> int:
        """From when on silence means that the answer will never come."""
        return max(self.latest_ns, self.start_ns) + 2 * self.busy_ns + OVERDUE_NS


@attrs.define(eq=False)
class Lane(Generic[T]):
    """One serial resource of an executor: its committed actions in the order of sending."""

    outstanding: dict[ActionId, Committed[T]] = attrs.field(factory=dict)
    ended_ns: int = 0
    """The last measured end."""
    busy: "BusyShare" = attrs.field(factory=lambda: BusyShare())

    def free_ns(self, *, now_ns: int, return_ns: int = 0) -> int:
        """Predict when the lane is free; may lie in the past when it is idle.

        Args:
            now_ns: Cluster time.
            return_ns: How late a result may be before its action counts as running long.
        """
        outstanding = self.outstanding
        if not outstanding:
            return self.ended_ns
        last = front = next(iter(outstanding.values()))
        if len(outstanding) > 1:
            last = next(reversed(outstanding.values()))
        end_ns = last.start_ns + last.busy_ns
        late_ns = now_ns - return_ns - front.start_ns - front.busy_ns
        return end_ns + late_ns if late_ns > 0 else end_ns

    def likely_free_ns(self, *, now_ns: int, return_ns: int = 0) -> int:
        """Predict when the lane will probably be free: what is to follow must be there by then.

        `free_ns` bounds it, so whoever committed by that would leave the lane idle for what the
        estimates lie above the truth, again and again. Arguments as there.
        """
        end_ns, least_ns = self.ended_ns, now_ns - return_ns
        for committed in self.outstanding.values():
            if end_ns < committed.ready_ns:
                end_ns = committed.ready_ns
            end_ns += committed.likely_ns
            if end_ns < least_ns:
                end_ns = least_ns
        return end_ns

    def commit(self, committed: Committed[T]) -> None:
        """Take an action that was sent just now."""
        assert committed.action.action_id not in self.outstanding
        self.outstanding[committed.action.action_id] = committed

    def finish(self, action_id: ActionId, *, start_ns: int, end_ns: int) -> Committed[T] | None:
        """Take an action's measured end; None if it is not outstanding here.

        What stands behind it moves to where it can now be expected.
        """
        committed = self.outstanding.pop(action_id, None)
        if committed is None:
            return None
        if end_ns > start_ns:
            self.busy.add(start_ns, end_ns)
        free_ns = self.ended_ns = max(self.ended_ns, end_ns)
        for waiting in self.outstanding.values():
            waiting.free_ns = free_ns
            waiting.start_ns = max(free_ns, waiting.ready_ns)
            free_ns = waiting.end_ns
        return committed

    def overdue(self, *, now_ns: int) -> Committed[T] | None:
        """Find the front action if its answer will never come."""
        front = self.front
        return front if front is not None and now_ns >= front.lost_at_ns else None

    @property
    def front(self) -> Committed[T] | None:
        """The oldest action without an answer."""
        return next(iter(self.outstanding.values()), None)


@attrs.define(eq=False)
class BusyShare:
    """The share of the last seconds in which a lane ran actions, in two half windows."""

    _since_ns: int = 0
    _now_ns: int = 0
    _before_ns: int = 0

    def add(self, start_ns: int, end_ns: int) -> None:
        """Count one run."""
        self._turn(end_ns)
        self._now_ns += end_ns - start_ns

    def share(self, *, now_ns: int) -> float:
        """Read the share, 0 to 1."""
        self._turn(now_ns)
        span_ns = UTILISATION_NS + (now_ns - self._since_ns)
        return min(1.0, (self._before_ns + self._now_ns) / span_ns)

    def _turn(self, now_ns: int) -> None:
        if now_ns - self._since_ns >= 2 * UTILISATION_NS:
            self._before_ns, self._now_ns = 0, 0
            self._since_ns = now_ns
        elif now_ns - self._since_ns >= UTILISATION_NS:
            self._before_ns, self._now_ns = self._now_ns, 0
            self._since_ns += UTILISATION_NS


def _pipe_window() -> DurationWindow:
    return DurationWindow(PIPE_WINDOW, PIPE_QUANTILE)


@attrs.define(eq=False)
class PipeDelay:
    """What lies between the controller and one executor's lane, learnt from its results."""

    lead_min_ns: int
    lead_max_ns: int
    lead_ns: int = 0
    """Commit an action so long before its lane is free."""
    delay_ns: int = 0
    """From the sending of an action until it can start, its inputs included."""
    return_ns: int = MS
    """From the end of an action until its result is here."""
    overhead_ns: int = 0
    """What an action holds its lane beyond its time on the device."""
    _to_ready: DurationWindow = attrs.field(factory=_pipe_window)
    _back: DurationWindow = attrs.field(factory=_pipe_window)
    _overhead: DurationWindow = attrs.field(factory=_pipe_window)
    stale_ns: int = NEVER_NS
    """After this, what was learnt is to be given up: see `refresh`."""

    def __attrs_post_init__(self) -> None:
        self._begin_anew()

    @property
    def round_trip_ns(self) -> int:
        """From the end of an action until one that is ordered upon its result can start.

        An INFER is chosen when its LOAD's result has come. LOADs that left no time for this, down
        to the millisecond, served 101 requests/s in place of 147 (4,000 models on one V100).
        """
        return self.return_ns + self.delay_ns

    def _begin_anew(self) -> None:
        self.lead_ns = self.lead_min_ns
        self.delay_ns = self.return_ns = min(MS, self.lead_min_ns)
        self.overhead_ns = 0
        self._to_ready, self._back, self._overhead = _pipe_window(), _pipe_window(), _pipe_window()

    def refresh(self, *, now_ns: int) -> None:
        """Give up what is stale; to be called before reading."""
        if now_ns > self.stale_ns:
            self.stale_ns = NEVER_NS
            self._begin_anew()

    def learn_ready(self, *, sent_ns: int, ready_ns: int) -> None:
        """Learn from an action that could start at `ready_ns`."""
        if self._to_ready.add(max(0, ready_ns - sent_ns)):
            self.delay_ns = min(self.lead_max_ns, self._to_ready.estimate_ns)
            self.lead_ns = max(self.lead_min_ns, self.delay_ns)

    def learn_back(self, *, end_ns: int, now_ns: int) -> None:
        """Learn from a result that came at `now_ns`."""
        self.stale_ns = now_ns + PIPE_STALE_NS
        if self._back.add(max(0, now_ns - end_ns)):
            self.return_ns = min(self.lead_max_ns, self._back.estimate_ns)

    def learn_overhead(self, overhead_ns: int) -> None:
        """Learn how much longer than on the device an action held its lane."""
        if self._overhead.add(max(0, overhead_ns)):
            self.overhead_ns = min(self.lead_max_ns, self._overhead.estimate_ns)
