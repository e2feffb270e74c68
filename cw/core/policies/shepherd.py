"""Shepherd's Flex: an idle device takes the largest batch that can still be in time.

The concept: goodput is requests per device time, and the larger a batch, the cheaper each rider. So
when a lane is about to be free, those are dropped who cannot be in time at all, each model offers
the largest batch that is in time for its most urgent request, and the largest of these runs,
whatever model it is of; among equals, the most urgent.

Left out, and what that changes:

- *Preemption.* Flex aborts a running batch when a new one is at least lambda (3.03) times as large;
  that is what its competitive ratio rests on. These executors never preempt: what runs on a device
  ends when it was planned to, or nothing on that lane could be promised. With many equal models the
  rule seldom fires; with rare large bursts of one model beside a trickle of others, and where long
  batches meet short ones, the original would serve more bursts and waste more device time.
- *Herd*, which splits models and devices into groups every few minutes by an integer program, so
  that each group's total is predictable. Here all executors are one group.
- LOADs, which Shepherd leaves to Herd, are chosen as by the default policy.

Source: Shepherd (NSDI 2023), sections 4 and 5, by its published summaries.
"""

import attrs

from cw.core.books import ExecutorBooks, Place
from cw.core.plan import PlannedBatch
from cw.core.policies.late import LatePolicy, cost_ns
from cw.core.requests import Request


@attrs.define(eq=False)
class ShepherdPolicy(LatePolicy):
    """See the module's head."""

    def choose(self, executor: ExecutorBooks, *, now_ns: int) -> PlannedBatch | None:
        """Choose the largest batch that is in time, of all models that are warm here."""
        start_ns = executor.start_ns(now_ns)
        best: tuple[int, int, int] | None = None
        riders: list[Request] = []
        for place in self.warm_places(executor):
            queue, overhead_ns = place.model.queue, executor.pipe.overhead_ns
            skip = self._infeasible(place, start_ns)
            count = queue.largest_fit(place.costs.by_count, start_ns + overhead_ns, skip=skip)
            if not count:
                continue
            rank = (-count, queue[skip].due_ns, place.model.model_id)
            if best is None or rank < best:
                best, riders = rank, queue.first(skip + count)[skip:]
        return self.commit(riders[0].model.places[executor.executor_id], riders) if riders else None

    def _infeasible(self, place: Place, start_ns: int) -> int:
        """Count the most urgent who cannot be in time even alone, and give them up.

        With replicas another executor may be free earlier, so only what an idle one could not save
        either is given up; the others are left to it.
        """
        end_ns = start_ns + cost_ns(place, 1)
        lone = len(place.model.serving) == 1
        count = 0
        for request in place.model.queue:
            if request.due_ns >= end_ns:
                break
            if lone and not request.promised:
                self.books.given_up.append(request)
            count += 1
        return count
