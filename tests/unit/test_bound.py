"""The bound: never below what can be done, not far above it, and quick enough to use."""

import itertools
import time
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.sim.bound import BoundMeter, BoundRequest, upper_bound
from cw.units import MS, SECOND
from cw.workload.arrivals import Bursts, Poisson, Uniform, draw

LINEAR = {1: 3, 2: 4, 4: 6}
SLOW_SMALL = {1: 5, 3: 6}


def most_served(requests, durations, executors):
    """Try every schedule of a tiny instance: which batch next, on which executor."""

    @cache
    def best(free, left):
        top = 0
        for count in range(1, len(left) + 1):
            for members in itertools.combinations(left, count):
                top = max(top, _after(free, left, members, best))
        return top

    def _after(free, left, members, best):
        models = {requests[index].model for index in members}
        if len(models) > 1:
            return 0
        sizes = [size for size in durations[models.pop()] if size >= len(members)]
        release = max(requests[index].arrival_ns for index in members)
        due = min(requests[index].deadline_ns for index in members)
        table = durations[requests[members[0]].model]
        rest = tuple(index for index in left if index not in members)
        top = 0
        for size, lane in itertools.product(sizes, range(executors)):
            end = max(free[lane], release) + table[size]
            if end <= due:
                after = tuple(sorted((*free[:lane], end, *free[lane + 1 :])))
                top = max(top, len(members) + best(after, rest))
        return top

    return best((0,) * executors, tuple(range(len(requests))))


@st.composite
def instances(draw_value):
    count = draw_value(st.integers(1, 5))
    requests = []
    for _ in range(count):
        arrival = draw_value(st.integers(0, 12))
        span = draw_value(st.integers(1, 14))
        model = draw_value(st.sampled_from("ab"))
        requests.append(BoundRequest(arrival, arrival + span, model))
    return requests, draw_value(st.integers(1, 2))


@given(instances())
def test_no_schedule_of_a_tiny_instance_beats_the_bound(instance):
    """A bound that can be beaten would make a scheduler look better than it is."""
    requests, executors = instance
    durations = {"a": LINEAR, "b": SLOW_SMALL}
    bound = upper_bound(requests, durations, executors=executors)

    assert most_served(requests, durations, executors) <= bound + 1e-6
    assert bound <= len(requests) + 1e-6


@given(instances(), st.integers(1, 4))
def test_no_schedule_of_a_tiny_instance_beats_the_bound_in_parts(instance, part_count):
    """In long runs the sum stands for the bound: a batch across a cut must not beat it."""
    requests, executors = instance
    meter = BoundMeter([LINEAR, SLOW_SMALL], executors=executors, part_count=part_count)
    for request in sorted(requests):
        meter.add(request.arrival_ns, request.deadline_ns, "ab".index(request.model))
    served = most_served(requests, {"a": LINEAR, "b": SLOW_SMALL}, executors)

    assert served <= meter.total() + 1e-6
    assert meter.total() == meter.total() <= len(requests) + 1e-6


@given(instances(), st.integers(1, 5))
def test_the_bound_does_not_depend_on_order_or_clock(instance, shift):
    """Reports from machines with other clocks must be comparable."""
    requests, executors = instance
    durations = {"a": LINEAR, "b": SLOW_SMALL}
    moved = [
        BoundRequest(one.arrival_ns + shift, one.deadline_ns + shift, one.model)
        for one in reversed(requests)
    ]

    assert upper_bound(moved, durations, executors=executors) == pytest.approx(
        upper_bound(requests, durations, executors=executors)
    )


def test_alone_a_request_costs_its_whole_batch():
    """Without neighbours there is nobody to share a batch with: batching must not be assumed."""
    apart = [BoundRequest(at, at + 3, "a") for at in range(0, 30, 3)]
    assert upper_bound(apart, {"a": LINEAR}, executors=1) == pytest.approx(10)
    # Two models, each with its own request at the same time: only one of the two fits.
    pairs = [BoundRequest(at, at + 3, model) for at in range(0, 30, 3) for model in "ab"]

    assert upper_bound(pairs, {"a": LINEAR, "b": LINEAR}, executors=1) == pytest.approx(10)
    assert upper_bound(pairs, {"a": LINEAR, "b": LINEAR}, executors=2) == pytest.approx(20)


def test_what_no_device_could_serve_counts_nothing():
    """A deadline shorter than the model must not count as a missed chance."""
    requests = [BoundRequest(0, 2, "a"), BoundRequest(0, 3, "a")]

    assert upper_bound(requests, {"a": LINEAR}, executors=4) == pytest.approx(1)
    assert upper_bound([], {}, executors=1) == 0


def test_with_loose_deadlines_the_bound_is_the_largest_batches_rate():
    """In plain overload with long SLOs the answer is known: full batches all the time."""
    durations = {0: {1: 3 * MS, 16: 20 * MS}}
    arrivals = draw(Poisson(rate_rps=2000), Uniform(), models=1, duration_ns=20 * SECOND, seed=1)
    requests = [
        BoundRequest(one.instant_ns, one.instant_ns + 250 * MS, one.model) for one in arrivals
    ]
    rate = upper_bound(requests, durations, executors=1) / 20

    assert rate == pytest.approx(800, rel=0.02)


def test_mixed_deadlines_are_taken_in_order_of_deadline():
    """The quick path is for equal SLOs only: a short SLO behind a long one must not be lost."""
    requests = [BoundRequest(0, 100, "a"), BoundRequest(1, 4, "b")]

    assert upper_bound(requests, {"a": {1: 50}, "b": {1: 3}}, executors=1) == pytest.approx(2)


def test_many_different_costs_are_still_bounded():
    """Rounding costs onto a grid may only loosen the bound, and not by much."""
    durations = {model: {1: 1000 + 7 * model} for model in range(600)}
    requests = [BoundRequest(0, 200_000, model) for model in range(600)]
    exact = 0
    left = 200_000
    for model in range(600):
        exact += min(1.0, left / (1000 + 7 * model))
        left = max(0, left - 1000 - 7 * model)
    bound = upper_bound(requests, durations, executors=1)

    assert exact <= bound + 1e-6
    assert bound <= exact * 1.02


@pytest.mark.parametrize("slos_ms", [(50,), (50, 250)])
def test_a_minute_at_500_requests_a_second_takes_seconds(slos_ms):
    """The bound stands in every report: it must not take longer than the run it judges."""
    durations = {index: {1: 5 * MS, 2: 6 * MS, 4: 7 * MS, 8: 8 * MS} for index in range(8)}
    arrivals = draw(Bursts(rate_rps=500), Uniform(), models=8, duration_ns=60 * SECOND, seed=1)
    requests = [
        BoundRequest(at, at + slos_ms[index % len(slos_ms)] * MS, model)
        for index, (at, model) in enumerate(arrivals)
    ]
    began = time.monotonic()
    upper_bound(requests, durations, executors=1)

    assert time.monotonic() - began < 30
