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

5. *Cuts.* Requests may be split into parts, by arrival, and the bounds of the parts added: a
   schedule from which all requests but those of one part are taken out is a schedule of that part
   (its batches carry fewer, which is allowed), so it serves no more of them than the part's own
   bound says. Each cut lets the work on both of its sides overlap, by at most one SLO of all
   executors' time: long parts make a tight sum. This is how the bound of a long run is had in the
   memory of a short one (`BoundMeter`).

The least time that messages take is cut off each interval (`BoundMeter`): nothing can be run sooner
or told later. LOADs, pages, jitter and the order inside a lane are ignored, so the bound is loose
where they bind. A request that is served partly at the edge counts partly, so it is looser by about
SLO/length for short traces.

Source: Edmonds (1970) for the greedy; intervals and costs as in design/0005.
"""

import heapq
import itertools
from array import array
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


Durations = Mapping[int, int]
"""Captured batch size -> duration (ns) on one executor."""

_Job = tuple[int, int, int]
"""A request in the relaxation: its release, its deadline, its work; in parts of a nanosecond."""


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
    if not requests:
        return 0.0
    numbers = {model: number for number, model in enumerate(durations)}
    return _bound(
        np.array([request.arrival_ns for request in requests], dtype=np.int64),
        np.array([request.deadline_ns for request in requests], dtype=np.int64),
        np.array([numbers[request.model] for request in requests], dtype=np.int64),
        list(durations.values()),
        executors,
    )


class BoundMeter:
    """Adds the bound up while a run goes on, and holds no more than one part of its requests.

    Args:
        durations: By the model's index, as in `upper_bound`.
        executors: As in `upper_bound`.
        part_count: Requests to a part (step 5 of the proof).
        before_ns: From a request's arrival until its inputs can be at an executor at the earliest.
        after_ns: From the end of its batch until its answer can be out at the earliest.
    """

    def __init__(
        self,
        durations: Sequence[Durations],
        *,
        executors: int,
        part_count: int = 400_000,
        before_ns: int = 0,
        after_ns: int = 0,
    ) -> None:
        self._durations: Final = durations
        self._executors: Final = executors
        self._part_count: Final = part_count
        self._before_ns: Final = before_ns
        self._after_ns: Final = after_ns
        self._passed = 0.0
        self._rows: Final = array("q")
        """Arrival, deadline, model; and again."""

    def add(self, arrival_ns: int, deadline_ns: int, model: int) -> None:
        """Count a request in; in the order of arrivals, else the sum is looser than need be."""
        self._rows.extend((arrival_ns + self._before_ns, deadline_ns - self._after_ns, model))
        if len(self._rows) >= 3 * self._part_count:
            self.total()

    def total(self) -> float:
        """Say what no schedule could exceed, of all requests so far. Begins a new part."""
        if self._rows:
            arrivals, deadlines, models = np.array(self._rows, dtype=np.int64).reshape(-1, 3).T
            self._passed += _bound(arrivals, deadlines, models, self._durations, self._executors)
            del self._rows[:]
        return self._passed


def _bound(
    arrivals: NDArray[np.int64],
    deadlines: NDArray[np.int64],
    models: NDArray[np.int64],
    durations: Sequence[Durations],
    executors: int,
) -> float:
    """Bound a part: one row to a request; `models` are indexes of `durations`."""
    assert executors >= 1, f"expected at least one executor, got {executors}"
    order = np.lexsort((deadlines, arrivals))
    arrivals, deadlines, models = arrivals[order], deadlines[order], models[order]
    costs = _costs(arrivals, deadlines, models, durations)
    possible = costs > 0
    if not possible.any():
        return 0.0
    scale = executors * _PARTS
    distinct, which = np.unique(costs[possible], return_inverse=True)
    rounded = _levels([int(cost) for cost in distinct])
    levels = sorted(set(rounded.values()))
    places = {level: place for place, level in enumerate(levels)}
    place_of_cost = np.array([places[rounded[int(cost)]] for cost in distinct])
    jobs = _Jobs(
        releases=[instant * scale for instant in arrivals[possible].tolist()],
        deadlines=[instant * scale for instant in deadlines[possible].tolist()],
        places=place_of_cost[which],
        levels=levels,
    )
    return jobs.bound()


class _Jobs:
    """The requests of a part in the relaxation, in parts of a nanosecond of one executor.

    Args:
        releases: Ascending.
        deadlines: Ascending among equal releases.
        places: Of each request's cost among the levels.
        levels: The costs, ascending.
    """

    def __init__(
        self,
        *,
        releases: list[int],
        deadlines: list[int],
        places: NDArray[np.int64],
        levels: list[int],
    ) -> None:
        self._releases, self._deadlines = releases, deadlines
        self._places, self._levels = places, levels
        self._counts: Final = np.bincount(places, minlength=len(levels)).tolist()
        works = (count * level for count, level in zip(self._counts, levels, strict=True))
        self._totals: Final = list(itertools.accumulate(works, initial=0))
        self._most: Final[dict[int, int]] = {0: 0}

    def bound(self) -> float:
        """Add up step 3 of the proof.

        Where everything up to a level can be worked off, each request up to it counts as one: so
        the search for the last such level saves an EDF pass for each that is cheaper.
        """
        full, beyond = 0, len(self._levels) + 1
        probe = len(self._levels)  # most of the time all of them
        while beyond - full > 1:
            if self._most_work(probe) == self._totals[probe]:
                full = probe
            else:
                beyond = probe
            probe = (full + beyond) // 2
        bound = float(sum(self._counts[:full]))
        for place in range(full, len(self._levels)):
            gained = self._most_work(place + 1) - self._most_work(place)
            bound += gained / self._levels[place]
        return bound

    def _most_work(self, levels: int) -> int:
        """Say how much can be done for the requests of the cheapest `levels` levels alone."""
        if levels not in self._most:
            chosen = (self._places < levels).tolist()
            jobs = list(
                itertools.compress(
                    zip(
                        self._releases,
                        self._deadlines,
                        map(self._levels.__getitem__, self._places.tolist()),
                        strict=True,
                    ),
                    chosen,
                )
            )
            self._most[levels] = _most_work(jobs)
        return self._most[levels]


# --- step 1 of the proof: costs -------------------------------------------------------------------


def _costs(
    arrivals: NDArray[np.int64],
    deadlines: NDArray[np.int64],
    models: NDArray[np.int64],
    durations: Sequence[Durations],
) -> NDArray[np.int64]:
    """Give each request its least cost (parts of a ns); 0 where no idle executor could serve it."""
    never = np.iinfo(np.int64).max
    least = np.full(len(arrivals), never)
    # Models lie one after the other on one line of time, so that all of them are counted at once.
    origin_ns = int(arrivals.min())
    span_ns = int(deadlines.max()) - origin_ns + 1
    assert span_ns * len(durations) < never, "too many models over too long a time for one part"
    shifts = models * span_ns - origin_ns
    tables: dict[tuple[tuple[int, int], ...], list[int]] = {}
    for model in np.unique(models).tolist():
        tables.setdefault(tuple(sorted(durations[model].items())), []).append(model)
    for table, alike in tables.items():
        rows = np.flatnonzero(np.isin(models, alike))
        starts, ends = (arrivals + shifts)[rows], (deadlines + shifts)[rows]
        for size, duration_ns in table:
            together = _most_together(starts, ends - duration_ns)
            possible = together > 0
            shared = duration_ns * _PARTS // np.minimum(size, together[possible])
            least[rows[possible]] = np.minimum(least[rows[possible]], shared)
    return np.where(least == never, 0, least)


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
    in_order = all(before[1] <= after[1] for before, after in itertools.pairwise(jobs))
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
            now = max(now, coming[0][0])
        while coming and coming[0][0] <= now:
            _, deadline, work = coming.popleft()
            heapq.heappush(waiting, (deadline, work))
        deadline, work = heapq.heappop(waiting)
        until = min(now + work, deadline)
        if coming:
            until = min(until, coming[0][0])
        if until > now:
            done += until - now
            work -= until - now
            now = until
        # What is left of a job goes on when its turn comes again, unless its deadline has come.
        if work and deadline > now:
            heapq.heappush(waiting, (deadline, work))
    return done
