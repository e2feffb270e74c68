"""The bound: how many requests even a clairvoyant scheduler could have answered in time.

Goodput alone does not tell a good scheduler from an easy load. `upper_bound` gives what no schedule
can exceed, knowing all arrivals in advance, so that a result reads as a share of the possible. It
takes plain values, so that a simulation and a benchmark of real machines are judged alike.

The claim
---------
Requests j with intervals [a_j, d_j] are served in batches: a batch of captured size b runs for
ex(b) on one of G executors, without interruption, inside the intervals of all its members, who are
at most b requests of one model. Then the number served is at most the value computed here.

The proof
---------
1. *Costs.* Let k_j(b) be the largest number of requests of j's model, j among them, whose intervals
   have a common stretch of length ex(b). A batch of size b that carries j has n <= min(b, k_j(b))
   members. Charge each an equal part, ex(b)/n, which is at least
   ``c_j = min over b of ex(b) / min(b, k_j(b))``. So a schedule that serves j spends at least c_j
   of executor time on j, inside [a_j, d_j], and what it spends on different requests is disjoint.
2. *Relaxation.* Forget batches, lanes and interruptions: let any number of executors work on one
   request at a time, let work be cut up freely, and count a request that got x_j of its c_j as
   x_j/c_j. By 1, every schedule is one of these with the same count or more.
3. *Structure.* Give the vectors x that can be worked off: x_j flows from request j through the
   stretches of time in [a_j, d_j], of which each takes G times its length. The x that such a
   network carries form a polymatroid, whose rank f(S) is the most work that can be done for the
   requests in S alone. Maximising sum(x_j / c_j) over a polymatroid is solved by the greedy: take
   requests by descending weight 1/c_j, that is by ascending cost, each as far as it goes. With cost
   levels C_1 < C_2 < ... and S_i all requests of cost C_i or less, the optimum is
   ``sum over i of (f(S_i) - f(S_{i-1})) / C_i``.
4. *Rank.* f(S) is found by working always on the request whose deadline comes first (EDF), leaving
   what its deadline cuts off: an exchange argument shows that no other order does more work.

LOADs, pages, messages and the order inside a lane are ignored, so the bound is loose where they
bind. A request that is served partly at the edge counts partly, so it is looser by about SLO/length
for short traces.

Source: Edmonds (1970) for the greedy; intervals and costs as in design/0005.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

_PARTS: Final = 840
"""Costs are counted in this fraction of a nanosecond, rounded down, so that all sums are exact: a
float that stands for an instant of a long run would swallow what is left of a short piece of work.
840 is divisible by 1 to 8, so that shares of small batches are exact, too."""
_LEVELS_MAX: Final = 256
"""Distinct costs beyond this are rounded down onto a geometric grid (by less than 4 % over a spread
of 10,000): the bound stays a bound, and its time stays linear in the number of requests."""


class BoundRequest(NamedTuple):
    """What the bound needs to know of a request. Any one clock."""

    arrival_ns: int
    deadline_ns: int
    model: Hashable


class _Job(NamedTuple):
    """A request in the relaxation, in parts of a nanosecond of one executor."""

    release: int
    deadline: int
    work: int


Durations = Mapping[int, int]
"""Captured batch size -> duration (ns) on one executor."""


def upper_bound(
    requests: Sequence[BoundRequest],
    durations: Mapping[Hashable, Durations],
    *,
    executors: int,
) -> float:
    """Bound the number of requests that any schedule answers by their deadlines.

    Args:
        requests: All that were offered, in any order.
        durations: Per model how long each captured batch size runs; take the shortest that can
            happen (a median is fine where the noise is small: the bound is loose by more).
        executors: Equal devices, each able to run every model.

    Returns:
        The bound; fractional, since requests at the edge count partly.
    """
    assert executors >= 1, f"expected at least one executor, got {executors}"
    costs = _costs(requests, durations)
    levels = _levels({cost for cost in costs if cost})
    scale = executors * _PARTS
    jobs = sorted(
        _Job(request.arrival_ns * scale, request.deadline_ns * scale, levels[cost])
        for cost, request in zip(costs, requests, strict=True)
        if cost
    )
    bound, before = 0.0, 0
    for level in sorted(set(levels.values())):
        work = _most_work([job for job in jobs if job.work <= level])
        bound += (work - before) / level
        before = work
    return bound


# --- step 1 of the proof: costs -------------------------------------------------------------------


def _costs(requests: Sequence[BoundRequest], durations: Mapping[Hashable, Durations]) -> list[int]:
    """Give each request its least cost (parts of a ns); 0 where no idle executor could serve it."""
    costs = np.zeros(len(requests), dtype=np.int64)
    of_model: dict[Hashable, list[int]] = {}
    for index, request in enumerate(requests):
        of_model.setdefault(request.model, []).append(index)
    never = np.iinfo(np.int64).max
    for model, members in of_model.items():
        arrivals = np.array([requests[index].arrival_ns for index in members])
        deadlines = np.array([requests[index].deadline_ns for index in members])
        least = np.full(len(members), never)
        for size, duration_ns in durations[model].items():
            together = _most_together(arrivals, deadlines - duration_ns)
            possible = together > 0
            shared = duration_ns * _PARTS // np.minimum(size, together[possible])
            least[possible] = np.minimum(least[possible], shared)
        costs[np.array(members)] = np.where(least == never, 0, least)
    return [int(cost) for cost in costs]


def _most_together(arrivals: NDArray[np.int64], latest: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count, for each request, the most that can start together with it; 0 if it can't start.

    A request can start at any instant of [arrival, latest]. How many can start at an instant grows
    only where one arrives, so the most within a request's own stretch is at an arrival inside it.
    """
    possible = latest >= arrivals
    counts = np.zeros(len(arrivals), dtype=np.int64)
    if not possible.any():
        return counts
    at = np.sort(arrivals[possible])
    ends = np.sort(latest[possible])
    startable = np.searchsorted(at, at, side="right") - np.searchsorted(ends, at, side="left")
    first = np.searchsorted(at, arrivals[possible], side="left")
    last = np.searchsorted(at, latest[possible], side="right") - 1
    counts[possible] = _range_max(startable, first, last)
    return counts


def _range_max(
    values: NDArray[np.int64], first: NDArray[np.int64], last: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the largest value in each range [first, last], ends included (a sparse table)."""
    widths = last - first + 1
    powers = np.floor(np.log2(widths)).astype(np.int64)
    result = np.empty(len(first), dtype=np.int64)
    table = values
    for power in range(int(powers.max()) + 1):
        here = powers == power
        span = 1 << power
        result[here] = np.maximum(table[first[here]], table[last[here] - span + 1])
        if len(table) > span:
            table = np.maximum(table[:-span], table[span:])
    return result


def _levels(costs: Iterable[int]) -> dict[int, int]:
    """Map each cost to its level: itself, or a little less where there are too many."""
    ordered = sorted(costs)
    if len(ordered) <= _LEVELS_MAX:
        return {cost: cost for cost in ordered}
    grid = np.geomspace(ordered[0], ordered[-1], _LEVELS_MAX)
    below = np.searchsorted(grid, ordered, side="right") - 1
    return {
        cost: min(cost, int(grid[max(0, index)]))
        for cost, index in zip(ordered, below, strict=True)
    }


# --- step 4 of the proof: the rank ----------------------------------------------------------------


def _most_work(jobs: Sequence[_Job]) -> int:
    """Do as much work as can be done by its deadlines, by one processor of speed 1.

    Args:
        jobs: By ascending (release, deadline).
    """
    in_order = all(before.deadline <= after.deadline for before, after in itertools.pairwise(jobs))
    return _first_come_work(jobs) if in_order else _earliest_deadline_work(jobs)


def _first_come_work(jobs: Iterable[_Job]) -> int:
    """EDF where deadlines are in the order of releases: it is first come, first served."""
    now = done = 0
    for release, deadline, work in jobs:
        start = max(now, release)
        end = min(start + work, deadline)
        if end > start:
            done += end - start
            now = end
    return done


def _earliest_deadline_work(jobs: Iterable[_Job]) -> int:
    """EDF in general: the waiting job with the first deadline runs, until another is released."""
    coming = deque(jobs)
    waiting: list[tuple[int, int]] = []  # (deadline, work left)
    now = done = 0
    while coming or waiting:
        if not waiting:
            now = max(now, coming[0].release)
        while coming and coming[0].release <= now:
            _, deadline, work = coming.popleft()
            heapq.heappush(waiting, (deadline, work))
        deadline, work = heapq.heappop(waiting)
        until = min(now + work, deadline)
        if coming:
            until = min(until, coming[0].release)
        if until > now:
            done += until - now
            work -= until - now
            now = until
        # What is left of a job goes on when its turn comes again, unless its deadline has come.
        if work and deadline > now:
            heapq.heappush(waiting, (deadline, work))
    return done
