"""Symphony: batches that are deferred to the last moment at which they still cannot grow.

The concept: an eager scheduler runs small batches since its devices are free; a batch that waits
grows. So each model has one *candidate*, and it is put off until another rider would make it late:

1. *Target batch* (`TargetBatch`): from the model's rate r, the largest b that can be had in time.
   With n = r l(b) / b devices' worth of load and n > 1, devices that start l(b)/n apart leave a
   newcomer to wait l(b)/n, not l(b): ``l(b) (1 + 1/n) <= budget``. Nobody plans that staggering, it
   comes of deferral. With n <= 1 the batch takes b/r to fill: ``l(b) + b/r <= budget``.
2. *Gather* (`gather`): S is all who wait; while the most urgent of S would be late in a batch of
   |S|, it is set aside. With b = min(target, |S|), those set aside that would be late even in a
   batch of b are **dropped now**; the others ride first. Then b grows while that is free: as long
   as the most urgent stays in time.
3. *Deferral*: with d the due time of its most urgent, `frontrun` d - l(b+1) is from when one more
   would be late, `latest` d - l(b) from when it is itself. It goes at the earlier of them, and is
   invalid after d - l(b).
4. *Matchmaking*: at that instant it is granted the device that is free first, of those that are
   free by then (the lowest id of several: idle devices stay idle, so load shows in their number).
   If none is, it joins those that are due; whenever a device comes free, it takes the most urgent
   of these that is still valid, gathered anew with the real time.

On one device deferral has nothing to gain by staggering and much to lose: two candidates that fall
due together cannot both run, and the dropped heads of one are the price.

Simplified: one thread, so the one-slot mailboxes between model threads and the rank thread are one
heap; the control and data delays are the executor's measured pipe; timer jitter is `JITTER_NS`.
LOADs, which Symphony does not have, are chosen as by the default policy.

Source: Symphony (arXiv 2308.07470) and its public scheduler.
"""

import heapq
from collections import deque
from typing import Final

import attrs

from cw.core.books import ExecutorBooks, ModelBooks, Place
from cw.core.plan import PlannedBatch
from cw.core.policies.late import LatePolicy, cost_ns, is_warm
from cw.core.requests import Request
from cw.messages import ExecutorId, ModelId, Refusal
from cw.units import MS, US

JITTER_NS: Final = 100 * US
"""How late a timer may ring."""
PERIOD_NS: Final = 50 * MS
PERIODS: Final = 100
"""A model's rate is counted in this many periods."""


@attrs.define(eq=False)
class TargetBatch:
    """The target batch size of one model, from how often it is asked for."""

    _counts: deque[int] = attrs.field(factory=lambda: deque([0], maxlen=PERIODS))
    _period: int | None = None
    _sum: int = 0

    def count(self, *, now_ns: int) -> None:
        """Count an arrival."""
        self._turn(now_ns)
        self._counts[-1] += 1
        self._sum += 1

    def size(self, place: Place, budget_ns: int, *, now_ns: int) -> int:
        """Say which batch size to aim at; 1 if there is no time for more.

        Args:
            place: Whose costs.
            budget_ns: A request's time from its arrival to its due time, without the way there.
            now_ns: Cluster time.
        """
        self._turn(now_ns)
        rate_per_ns = max(1, self._sum) / (len(self._counts) * PERIOD_NS)
        for size in range(place.costs.largest, 1, -1):
            whole_ns = cost_ns(place, size)
            devices = rate_per_ns * whole_ns / size
            wait_ns = whole_ns / devices if devices > 1 else size / rate_per_ns
            if whole_ns + wait_ns <= budget_ns:
                return size
        return 1

    def _turn(self, now_ns: int) -> None:
        period = now_ns // PERIOD_NS
        passed = 0 if self._period is None else period - self._period
        self._period = period
        for _ in range(min(passed, PERIODS)):
            if len(self._counts) == PERIODS:
                self._sum -= self._counts[0]
            self._counts.append(0)


@attrs.frozen
class Gathered:
    """A batch as it would be if it started at a given instant."""

    riders: list[Request]
    dropped: list[Request]
    due_ns: int
    """Of its most urgent rider."""


def gather(place: Place, target: int, start_ns: int) -> Gathered:
    """Choose who rides in a model's next batch and who is dropped.

    Args:
        place: Where it would run.
        target: The target batch size.
        start_ns: When it would start at the earliest.
    """
    queue, largest = place.model.queue, place.costs.largest

    def is_late(position: int, count: int) -> bool:
        return start_ns + cost_ns(place, min(count, largest)) > queue[position].due_ns

    aside = late = 0
    while aside < len(queue) and is_late(aside, len(queue) - aside):
        aside += 1
    count = max(1, min(target, len(queue) - aside))
    while late < aside and is_late(late, count):
        late += 1
    dropped = [each for each in queue.first(late) if not each.promised]
    count = min(count, len(queue) - late)
    if not count:
        return Gathered([], dropped, 0)
    due_ns = queue[late].due_ns
    most = min(len(queue) - late, largest)
    while count < most and start_ns + cost_ns(place, count + 1) <= due_ns:
        count += 1
    return Gathered(queue.first(late + count)[late:], dropped, due_ns)


@attrs.define(eq=False)
class SymphonyPolicy(LatePolicy):
    """See the module's head."""

    _targets: dict[ModelId, TargetBatch] = attrs.field(factory=dict)
    _exec_ns: dict[ModelId, int] = attrs.field(factory=dict)
    """When each model's candidate is to start."""
    _timers: list[tuple[int, ModelId]] = attrs.field(factory=list)
    """These in order; an entry that disagrees with `_exec_ns` is out of date."""
    _due: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Candidates whose instant has come and that no device was free for."""
    _wakes: dict[ExecutorId, int | None] = attrs.field(factory=dict)

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Queue it and gather its model's candidate anew."""
        model = request.model
        self._targets.setdefault(model.model_id, TargetBatch()).count(now_ns=now_ns)
        refusal = super().arrive(request, now_ns=now_ns)
        if refusal is None:
            self._post(model, now_ns)
        return refusal

    def wake_at_ns(self, executor: ExecutorBooks, *, now_ns: int) -> int | None:
        """Say when the first candidate that was put off falls due."""
        return self._wakes.get(executor.executor_id)

    def choose(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Grant a device that is free to the most urgent candidate that is due."""
        start_ns = executor.start_ns(now_ns)
        self._collect_due(start_ns)
        best: tuple[int, ModelId] | None = None
        riders: list[Request] = []
        passed_on = False
        for model_id, model in list(self._due.items()):
            place = executor.places.get(model_id)
            if not model.queue:
                del self._due[model_id]
            if not model.queue or place is None or not is_warm(place):
                continue
            if not self._is_first_free(place, now_ns):
                passed_on = True
                continue
            found = gather(place, self._target(place, now_ns), start_ns)
            self.books.given_up += found.dropped
            if not found.riders:
                continue
            if _go_ns(place, found) > start_ns:
                self._post(model, now_ns)  # Its riders changed since: it can grow again.
                continue
            rank = (found.due_ns - cost_ns(place, len(found.riders)), model_id)
            if best is None or rank < best:
                best, riders = rank, found.riders
        batch = None
        if riders:
            model = riders[0].model
            batch = self.commit(model.places[executor.executor_id], riders)
            self._post(model, now_ns)
        self._wakes[executor.executor_id] = now_ns if passed_on else self._next_wake_ns(executor)
        return batch

    def reconsider(self, executor: ExecutorBooks, *, now_ns: int) -> None:
        """Post candidates of models whose weights have come."""
        for place in list(self.warm_places(executor)):
            model_id = place.model.model_id
            if model_id not in self._exec_ns and model_id not in self._due:
                self._post(place.model, now_ns)
                self.books.dirty[executor.executor_id] = executor

    # --- details ----------------------------------------------------------------------------------

    def _target(self, place: Place, now_ns: int) -> int:
        target = self._targets.setdefault(place.model.model_id, TargetBatch())
        request = place.model.queue[0]
        budget_ns = request.due_ns - request.arrival_ns - place.executor.pipe.delay_ns
        return target.size(place, budget_ns, now_ns=now_ns)

    def _post(self, model: ModelBooks, now_ns: int) -> None:
        """Post a model's candidate anew: from when on it is not worth waiting any longer."""
        model_id = model.model_id
        self._due.pop(model_id, None)
        self._exec_ns.pop(model_id, None)
        if not model.queue or not model.serving:
            return
        place = min(model.serving, key=lambda each: each.executor.start_ns(now_ns))
        start_ns = place.executor.start_ns(now_ns)
        found = gather(place, self._target(place, now_ns), start_ns)
        self.books.given_up += found.dropped
        if found.riders:
            exec_ns = max(start_ns, _go_ns(place, found))
            self._exec_ns[model_id] = exec_ns
            heapq.heappush(self._timers, (exec_ns, model_id))

    def _collect_due(self, start_ns: int) -> None:
        while self._timers and self._timers[0][0] <= start_ns:
            exec_ns, model_id = heapq.heappop(self._timers)
            if self._exec_ns.get(model_id) == exec_ns:
                del self._exec_ns[model_id]
                model = self.books.models.get(model_id)
                if model is not None:
                    self._due[model_id] = model

    def _is_first_free(self, place: Place, now_ns: int) -> bool:
        """Say whether this is the device to grant; if not, have that one look."""
        able = [
            each for each in place.model.serving if is_warm(each) and not each.executor.quiescing
        ]
        first = min(able, key=lambda each: _free_rank(each.executor, now_ns))
        if first is place:
            return True
        self.books.dirty[first.executor.executor_id] = first.executor
        return False

    def _next_wake_ns(self, executor: ExecutorBooks) -> int | None:
        while self._timers and self._exec_ns.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        return self._timers[0][0] - executor.pipe.delay_ns if self._timers else None


def _go_ns(place: Place, found: Gathered) -> int:
    """Say when a batch starts if a device is free: just before it could not grow any more."""
    count = len(found.riders)
    if count == place.costs.largest:
        return 0
    latest_ns = found.due_ns - JITTER_NS - cost_ns(place, count)
    frontrun_ns = found.due_ns - JITTER_NS - cost_ns(place, count + 1)
    return min(frontrun_ns, latest_ns)


def _free_rank(executor: ExecutorBooks, now_ns: int) -> tuple[int, ExecutorId]:
    free_ns = executor.infer.free_ns(now_ns=now_ns, return_ns=executor.pipe.return_ns)
    return max(now_ns, free_ns), executor.executor_id
