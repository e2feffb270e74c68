"""The least cluster that keeps a scheduler busy: for measuring what the scheduler itself costs.

Executors are two FIFO lanes with a duration table, gateways settle what ran, the wire is a constant
delay. There are no faults, no checkers and no inputs: `world.py` has those. What the scheduler is
given is what a controller would take off the wire; making it is not counted.

Neighbours: `speed.py` measures with it.
"""

import heapq
import itertools
import random
import time
from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from cw.core.commands import AnnounceModel, Command, Decide, SendAction
from cw.core.events import ActionDone, Event, RequestArrived, TimerFired
from cw.core.scheduler import Scheduler
from cw.devices.profile_file import EmulationProfile
from cw.messages import (
    Action,
    ActionResult,
    Attempt,
    ExecutorId,
    Infer,
    Load,
    ModelId,
    ModelSpec,
    Outcome,
    Prepare,
    Refuse,
    RequestId,
    Settled,
    SettledAs,
    Unload,
)
from cw.units import MS, US

PASS_NS: Final = 100 * US
"""The controller's actor hands over all that came since its last pass. A pass cannot begin before
the last one ended, and one of a busy controller takes about this long."""
EVENTS_MAX: Final = 64
"""In one pass at most: a message brings a few dozen, and larger passes would flatter the result."""
WIRE_NS: Final = 300 * US
SETTLE_NS: Final = 200 * US
"""A gateway's report comes later than the executor's: the answer goes through it."""
_NOISES: Final = 1021


def _clock_ns() -> int:
    """Say what one reading of the clock costs: half a microsecond under some kernels."""
    began_ns = time.thread_time_ns()
    for _ in range(1000):
        time.thread_time_ns()
    return (time.thread_time_ns() - began_ns) // 1001


CLOCK_NS: Final = _clock_ns()


@attrs.define
class Counts:
    """What was counted so far; two of them make a difference."""

    requests: int = 0
    passes: int = 0
    events: int = 0
    infers: int = 0
    slots: int = 0
    kept: int = 0
    late: int = 0
    refused: int = 0
    inside_ns: int = 0
    """Processor time in the scheduler: what else runs on the machine does not count."""
    all_ns: int = 0
    """In all, the driver included."""

    def since(self, earlier: "Counts") -> "Counts":
        """Count from `earlier` on."""
        before, now = attrs.astuple(earlier), attrs.astuple(self)
        return Counts(*(n - b for n, b in zip(now, before, strict=True)))


@attrs.define(eq=False)
class Driver:
    """Feeds one scheduler in virtual time. Instants are virtual ns."""

    scheduler: Scheduler
    profile: EmulationProfile
    specs: dict[ModelId, ModelSpec]
    seed: int
    now_ns: int = 1000 * MS
    counts: Counts = attrs.field(factory=Counts)
    ready: set[ModelId] = attrs.field(factory=set)
    _heap: list[tuple[int, int, tuple[Event, ...]]] = attrs.field(factory=list)
    _order: Iterator[int] = attrs.field(factory=itertools.count)
    _free_ns: dict[tuple[ExecutorId, bool], int] = attrs.field(factory=dict)
    _deadlines: dict[RequestId, int] = attrs.field(factory=dict)
    _durations: dict[int, int] = attrs.field(factory=dict)
    _noise: Iterator[float] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        draw = random.Random(self.seed)
        sigma = self.profile.jitter_ratio
        self._noise = itertools.cycle([1.0 + draw.gauss(0.0, sigma) for _ in range(_NOISES)])
        sizes = self.profile.infer.batch_sizes
        self._durations = {size: self.profile.infer.duration_ns(size) for size in sizes}

    def feed(self, events: Sequence[Event]) -> int | None:
        """Hand events over and carry out what is ordered; say when the scheduler wants to wake."""
        handle, counts, scheduler = self.scheduler.handle, self.counts, self.scheduler
        began_ns = time.thread_time_ns()
        commands = handle(*events, now_ns=self.now_ns)
        wake_ns = scheduler.wake_at_ns
        counts.inside_ns += time.thread_time_ns() - began_ns - CLOCK_NS
        counts.passes += 1
        counts.events += len(events)
        for command in commands:
            self._perform(command)
        return wake_ns

    def serve(self, arrivals: Sequence[RequestArrived]) -> None:
        """Let requests arrive, until the scheduler has heard of the last."""
        self.run(arrivals, until_ns=arrivals[-1].descriptor.arrival_ns + WIRE_NS)

    def run(self, arrivals: Sequence[RequestArrived], *, until_ns: int) -> None:
        """Let everything happen that happens by `until_ns`; `arrivals` are in order of time."""
        began_ns = time.thread_time_ns()
        coming, last = 0, len(arrivals)
        never_ns = until_ns + 1
        events: list[Event] = []
        wake_ns = self.scheduler.wake_at_ns
        while True:
            next_ns = min(
                arrivals[coming].descriptor.arrival_ns + WIRE_NS if coming < last else never_ns,
                self._heap[0][0] if self._heap else never_ns,
                never_ns if wake_ns is None else wake_ns,
            )
            if next_ns > until_ns:
                break
            # What a full pass left over comes in the next at once: the cost of each request is
            # measured, not how a controller that can't keep up would fall behind.
            pass_ns = PASS_NS if len(events) < EVENTS_MAX else 0
            self.now_ns = max(next_ns, self.now_ns + pass_ns)
            events = []
            while self._heap and self._heap[0][0] <= self.now_ns and len(events) < EVENTS_MAX:
                events.extend(heapq.heappop(self._heap)[2])
            while coming < last and len(events) < EVENTS_MAX:
                arrived = arrivals[coming]
                descriptor = arrived.descriptor
                if descriptor.arrival_ns + WIRE_NS > self.now_ns:
                    break
                self._deadlines[descriptor.request_id] = descriptor.deadline_ns
                events.append(arrived)
                coming += 1
                self.counts.requests += 1
            wake_ns = self.feed(events or (TimerFired(),))
        self.counts.all_ns += time.thread_time_ns() - began_ns

    # --- the cluster ------------------------------------------------------------------------------

    def _perform(self, command: Command) -> None:
        if isinstance(command, SendAction):
            self._act(command.executor_id, command.action)
        elif isinstance(command, Decide):
            if isinstance(command.decision, Refuse):
                self.counts.refused += 1
                del self._deadlines[command.decision.request_id]
        elif isinstance(command, AnnounceModel):
            (self.ready.add if command.ready else self.ready.discard)(command.model_id)

    def _act(self, executor_id: ExecutorId, action: Action) -> None:
        if isinstance(action, Unload):
            return
        lane = (executor_id, isinstance(action, Load))
        received_ns = self.now_ns + WIRE_NS
        start_ns = max(received_ns, self._free_ns.get(lane, 0))
        end_ns = start_ns + self._duration_ns(action)
        self._free_ns[lane] = end_ns
        slots = action.slots if isinstance(action, Infer) else ()
        result = ActionResult(
            action_id=action.action_id,
            outcome=Outcome.OK,
            received_ns=received_ns,
            ready_ns=received_ns,
            start_ns=start_ns,
            end_ns=end_ns,
            device_ns=end_ns - start_ns,
            running_ns=end_ns - start_ns,
            ran=(True,) * len(slots),
        )
        back_ns = end_ns + WIRE_NS
        self._at(back_ns, ActionDone(executor_id=executor_id, result=result))
        if slots:
            self.counts.infers += 1
            self.counts.slots += len(slots)
            finished_ns = back_ns + SETTLE_NS
            self._at(
                finished_ns,
                *(self._settled(slot.request_id, finished_ns - WIRE_NS) for slot in slots),
            )

    def _settled(self, request_id: RequestId, finished_ns: int) -> Settled:
        in_time = finished_ns <= self._deadlines.pop(request_id)
        self.counts.kept += in_time
        self.counts.late += not in_time
        outcome = SettledAs.KEPT if in_time else SettledAs.LATE
        return Settled(
            request_id=request_id, attempt=Attempt(1), outcome=outcome, finished_ns=finished_ns
        )

    def _duration_ns(self, action: Prepare | Load | Infer) -> int:
        if isinstance(action, Infer):
            return int(self._durations[action.batch_size] * next(self._noise))
        if isinstance(action, Load):
            return self.profile.load_ns(self.specs[action.model_id].image_bytes)
        return self.profile.prepare_model_ns

    def _at(self, instant_ns: int, *events: Event) -> None:
        heapq.heappush(self._heap, (instant_ns, next(self._order), events))
