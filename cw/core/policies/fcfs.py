"""First come, first served: what most servers do, with the one mercy that a promise holds.

The concept: whoever came first goes first, with all who wait for the same model, as many as one
batch takes. Nobody is refused but at the deadline. It stands for the servers without a plan
(Clipper, INFaaS, and dynamic batching with a queue in front of it): batches form from what happens
to wait, and a deadline is not looked at when choosing.

The one place where deadlines count is forced by promises (`late.py`): who can't be in time any more
is passed over, and a batch is no larger than its most urgent rider can bear. So under overload it
serves those who are *nearly* too late, in batches too small for the lane to catch up, and goodput
falls to about what single requests give; the originals run the late ones too, and fall to nothing.

Simplified: Clipper finds its largest batch by additive increase, multiplicative decrease (NSDI'17,
section 4.3); here the estimates are known.

Source: Clipper (NSDI 2017); INFaaS (ATC 2021).
"""

from collections import deque

import attrs

from cw.core.books import ExecutorBooks, Place
from cw.core.plan import PlannedBatch
from cw.core.policies.late import LatePolicy, cost_ns
from cw.core.requests import Request
from cw.messages import ModelId, Refusal


@attrs.define(eq=False)
class FcfsPolicy(LatePolicy):
    """See the module's head."""

    _arrivals: dict[ModelId, deque[Request]] = attrs.field(factory=dict)
    """Per model, those who wait, in order of arrival; `ModelQueue` is in order of deadlines."""

    def arrive(self, request: Request, *, now_ns: int) -> Refusal | None:
        """Queue it at the end."""
        refusal = super().arrive(request, now_ns=now_ns)
        if refusal is None:
            self._arrivals.setdefault(request.model.model_id, deque()).append(request)
        return refusal

    def choose(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Batch what waits at the model of the first who can still be in time."""
        start_ns = executor.start_ns(now_ns)
        first: Request | None = None
        chosen: Place | None = None
        for place in self.warm_places(executor):
            queue = self._arrivals.get(place.model.model_id)
            if not queue:
                continue
            self._pass_over(queue, start_ns + cost_ns(place, 1))
            if queue and (first is None or _came(queue[0]) < _came(first)):
                first, chosen = queue[0], place
        if chosen is None:
            return None
        queue = self._arrivals[chosen.model.model_id]
        riders = self._riders(queue, chosen, start_ns)
        for _ in riders:
            queue.popleft()
        return self.commit(chosen, riders)

    def _pass_over(self, queue: deque[Request], end_ns: int) -> None:
        """Leave out who is gone, or could not be in time even alone: time will refuse them."""
        while queue and (not self.waits(queue[0]) or queue[0].due_ns < end_ns):
            queue.popleft()

    def _riders(self, queue: deque[Request], place: Place, start_ns: int) -> list[Request]:
        """List the first of a queue, as many as fit one batch that is in time for all of them."""
        riders: list[Request] = []
        due_ns = queue[0].due_ns
        for request in queue:
            due_ns = min(due_ns, request.due_ns)
            count = len(riders) + 1
            if count > place.costs.largest or start_ns + cost_ns(place, count) > due_ns:
                break
            if not self.waits(request):
                break
            riders.append(request)
        return riders


def _came(request: Request) -> tuple[int, int]:
    return request.arrival_ns, request.request_id
