"""Plans: the promised batches of one executor, in the order in which they will run.

The concept: a promise is a place in a plan. The plan is a list of batches behind the lane's
predicted free time, and it is *feasible* when each batch, run one after the other, ends before its
most urgent due time. Due order is optimal here: if any order keeps all promises, this one does
(Jackson's rule). Two costs are kept for each batch: the *certain* one, of the requests in it, which
no newcomer may make infeasible; and the *expected* one, which leaves room for the requests that
will join before it starts. Newcomers that open a batch must respect the second; those that join one
only the first, which is why batches grow under load instead of the plan filling up with small ones.

Knows nothing of gateways, LOADs or commands. Neighbours: `policies/default.py` fits and dispatches.

Source: design/0005.
"""

import math
from typing import TYPE_CHECKING

import attrs

from cw.core.profile import CostTable
from cw.core.requests import Request

if TYPE_CHECKING:
    from cw.core.books import Place


@attrs.define(eq=False)
class PlannedBatch:
    """Promised requests of one model that will run together on one executor."""

    place: "Place"
    costs: CostTable
    due_ns: int
    """When the most urgent of its requests is due."""
    release_ns: int
    """When the weights are there; not started before."""
    requests: list[Request] = attrs.field(factory=list)

    @property
    def deadline_ns(self) -> int:
        """The earliest deadline of its requests; `due_ns` may be long before it."""
        return min(rider.deadline_ns for rider in self.requests)

    def add(self, request: Request) -> None:
        """Let one more request ride along; the batch must not be full."""
        assert len(self.requests) < self.costs.largest
        self.requests.append(request)
        self.due_ns = min(self.due_ns, request.due_ns)

    def remove(self, request: Request) -> None:
        """Let a request go that ended before its batch ran."""
        self.requests.remove(request)
        if self.requests:
            self.due_ns = min(rider.due_ns for rider in self.requests)


@attrs.define(eq=False)
class Fit:
    """A place found for requests: in `batch`, or in a new batch put at `index`."""

    place: "Place"
    batch: PlannedBatch | None
    index: int
    finish_ns: int
    """Predicted end, with the expected growth of all batches before it."""
    price_ns: float
    """Lane time that each request costs, those included that are expected to follow."""
    crowds: bool
    """It takes room that other batches are expected to grow into."""
    expected_cost_ns: int = 0
    """How long a new batch is expected to run, with those who follow."""


@attrs.define(eq=False)
class Chain:
    """Batches that run one after the other, and a bound on when the last of them ends.

    The bound on one batch is its estimate, a high quantile. The bound on a chain is not their sum:
    for all of them to run that long at once is out of proportion rarer. Their typical durations add
    up; what the estimates lie above those adds up as the root of the sum of squares, as for
    independent errors.
    """

    typical_end_ns: int
    _excess_squared: int = 0

    @property
    def end_ns(self) -> int:
        """The bound."""
        return self.typical_end_ns + math.isqrt(self._excess_squared)

    def run(self, costs: CostTable, count: int, release_ns: int, overhead_ns: int) -> int:
        """Append a batch of `count` that starts at `release_ns` at the earliest; say its bound."""
        if release_ns > self.end_ns:
            self.typical_end_ns, self._excess_squared = release_ns, 0
        typical_ns = costs.typical_by_count[count]
        self.typical_end_ns += typical_ns + overhead_ns
        self._excess_squared += (costs.by_count[count] - typical_ns) ** 2
        return self.end_ns


@attrs.define(eq=False)
class ExecutorPlan:
    """The promised batches of one executor. All durations and instants in ns."""

    batches: list[PlannedBatch] = attrs.field(factory=list)
    finishes: list[int] = attrs.field(factory=list)
    """Certain end of each batch, after `walk`."""
    spare: list[int] = attrs.field(factory=list)
    """By how much batch i and all behind it can be moved back, after `walk`."""
    expected_finishes: list[int] = attrs.field(factory=list)
    expected_spare: list[int] = attrs.field(factory=list)
    _walked_from: int = -1

    def changed(self) -> None:
        """Forget what `walk` found, since a batch or an estimate changed."""
        self._walked_from = -1

    def walk(self, start_ns: int, overhead_ns: int, now_ns: int) -> None:
        """Predict every batch's end and slack.

        Args:
            start_ns: When the first batch can start.
            overhead_ns: What each batch holds the lane beyond its estimate.
            now_ns: Cluster time; growth is expected from now on.
        """
        if start_ns == self._walked_from:
            return
        self._walked_from = start_ns
        if not self.batches:
            self.finishes, self.spare, self.expected_finishes, self.expected_spare = [], [], [], []
            return
        certain, expected = Chain(start_ns), Chain(start_ns)
        finishes: list[int] = []
        expected_finishes: list[int] = []
        for batch in self.batches:
            count, release_ns = len(batch.requests), batch.release_ns
            finishes.append(certain.run(batch.costs, count, release_ns, overhead_ns))
            expected_ns = max(expected.end_ns, release_ns)
            place = batch.place
            if batch is place.batches[0]:
                place.growing_until_ns = now_ns
            if count < batch.costs.largest:
                # Newcomers join the first batch with room: later ones grow once it has started.
                growth_ns = expected_ns - place.growing_until_ns
                count = batch.costs.densest(count, count + place.expected_arrivals(growth_ns))
                place.growing_until_ns = max(place.growing_until_ns, expected_ns)
            expected_finishes.append(expected.run(batch.costs, count, release_ns, overhead_ns))
        self.finishes, self.expected_finishes = finishes, expected_finishes
        self.spare = self._spare(finishes)
        self.expected_spare = self._spare(expected_finishes)

    def _spare(self, finishes: list[int]) -> list[int]:
        spare = [0] * len(finishes)
        least = 1 << 62
        for index in range(len(finishes) - 1, -1, -1):
            least = min(least, self.batches[index].due_ns - finishes[index])
            spare[index] = least
        return spare

    def fit_join(self, batch: PlannedBatch, due_ns: int) -> Fit | None:
        """Say where one more request ends if it rides in `batch`, if nobody is hurt.

        To be called after `walk`. A newcomer due before the batch keeps the batch's position: the
        order is then no longer by due time, but each end is checked as it will be.

        Args:
            batch: In this plan.
            due_ns: When the newcomer is due.
        """
        riders, by_count = len(batch.requests), batch.costs.by_count
        if riders >= batch.costs.largest:
            return None
        index = self.batches.index(batch)
        room_ns = min(self.spare[index], due_ns - self.finishes[index])
        growth_ns = by_count[riders + 1] - by_count[riders]
        if growth_ns > room_ns:
            return None
        end_ns = self.finishes[index] + growth_ns
        finish_ns = max(end_ns, min(self.expected_finishes[index] + growth_ns, due_ns))
        return Fit(batch.place, batch, index, finish_ns, growth_ns, False)

    def fit_new(
        self,
        place: "Place",
        overhead_ns: int,
        due_ns: int,
        *,
        count: int,
        followers: int,
    ) -> Fit | None:
        """Say where a new batch ends, if nobody is hurt. To be called after `walk`.

        Args:
            place: The model on this plan's executor.
            overhead_ns: As for `walk`.
            due_ns: When its most urgent request is due.
            count: Its requests.
            followers: How many are expected to join it before it starts.
        """
        batches, by_count, release_ns = self.batches, place.costs.by_count, place.warm_ns
        index = self.force_index(due_ns)
        # What runs before the weights are there costs nothing: let it go first.
        while index < len(batches) and self._before(index) < release_ns:
            index += 1
        before_ns = self._before(index)
        start_ns = max(before_ns, release_ns)
        cost_ns = by_count[count] + overhead_ns
        last = index == len(batches)
        room_ns = due_ns - start_ns
        if not last:
            room_ns = min(room_ns, self.spare[index] + before_ns - start_ns)
        if cost_ns > room_ns:
            return None
        expected_before_ns = self.expected_finishes[index - 1] if index else before_ns
        expected_start_ns = max(expected_before_ns, release_ns)
        room_ns = due_ns - expected_start_ns
        if not last:
            room_ns = min(
                room_ns, self.expected_spare[index] + expected_before_ns - expected_start_ns
            )
        expected = place.costs.densest(count, count + followers)
        while expected > count and by_count[expected] + overhead_ns > room_ns:
            expected = max(count, place.costs.below(expected))
        expected_cost_ns = by_count[expected] + overhead_ns
        finish_ns = min(expected_start_ns + expected_cost_ns, due_ns)
        return Fit(
            place,
            None,
            index,
            max(start_ns + cost_ns, finish_ns),
            expected_cost_ns / expected,
            expected_cost_ns > room_ns,
            expected_cost_ns,
        )

    def expected_start_ns(self, batch: PlannedBatch) -> int:
        """Say when a batch is expected to start. To be called after `walk`."""
        index = self.batches.index(batch)
        before_ns = self.expected_finishes[index - 1] if index else self._walked_from
        return max(before_ns, batch.release_ns)

    def _before(self, index: int) -> int:
        return self.finishes[index - 1] if index else self._walked_from

    def force_index(self, due_ns: int) -> int:
        """Say where a batch belongs by due time, whoever is hurt."""
        index = len(self.batches)
        while index and self.batches[index - 1].due_ns > due_ns:
            index -= 1
        return index

    def insert(self, index: int, batch: PlannedBatch) -> None:
        """Put a batch into the plan."""
        self.batches.insert(index, batch)
        self.changed()

    def take(self, batch: PlannedBatch) -> None:
        """Take a batch out of the plan."""
        self.batches.remove(batch)
        self.changed()

    def least_spare_ns(self, start_ns: int, overhead_ns: int, now_ns: int) -> int:
        """Say by how much the whole plan can be moved back; very much when it is empty."""
        self.walk(start_ns, overhead_ns, now_ns)
        return self.spare[0] if self.spare else 1 << 62
