"""What a run adds up to: histograms, clocks and the bound in parts, each against the plain way."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.sim.bound import BoundMeter, BoundRequest, upper_bound
from cw.sim.clocks import LocalClock
from cw.sim.histogram import COARSE_BITS, FINE_BITS, Histogram
from cw.units import MS, SECOND
from cw.workload.arrivals import Poisson, Uniform, draw

SHARES = (0.5, 0.99, 1.0)


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=300),
    st.sampled_from([FINE_BITS, COARSE_BITS]),
)
def test_quantiles_are_those_of_the_values_to_a_part_of_themselves(values, bits):
    """Reports compare tenths of a millisecond: a bucket must not be wider than that."""
    histogram = Histogram(bits)
    for value in values:
        histogram.add(value)
    ordered = sorted(values)
    for share, got in zip(SHARES, histogram.quantiles(SHARES), strict=True):
        exact = ordered[min(len(values) - 1, int(share * len(values)))]

        assert abs(got - exact) <= abs(exact) / 2**bits * 2
    assert histogram.greatest == ordered[-1]
    assert histogram.count == len(values)


def test_a_histogram_stays_small():
    """An hour has 35 million latencies; the memory for them must not grow with the hour."""
    histogram = Histogram()
    for value in range(0, 10**8, 997):
        histogram.add(value)

    assert len(histogram._buckets) < 2**FINE_BITS * 20


@given(
    st.integers(-(10**12), 10**12),
    st.integers(-5000, 5000),
    st.integers(0, 10**12),
    st.integers(0, 10**12),
)
def test_a_clock_is_read_backwards_as_it_is_read(offset_ns, ppm, since_ns, passed_ns):
    """A wake-up a nanosecond too early finds its window closed, and waits again for ever."""
    clock = LocalClock(offset_ns=offset_ns)
    clock.drift(ppm, now_ns=since_ns)
    now_ns = since_ns + passed_ns
    at_ns = clock.when(clock.read(now_ns))

    assert clock.read(at_ns) >= clock.read(now_ns)
    assert at_ns <= now_ns
    assert clock.read(at_ns - 1) < clock.read(now_ns)


def test_a_change_of_drift_is_no_step():
    """Only what follows goes faster: what was measured before stays as it was."""
    clock = LocalClock(offset_ns=5, drift_ppm=100)
    before = clock.read(SECOND)
    clock.drift(-100, now_ns=SECOND)

    assert clock.read(SECOND) == before
    assert clock.read(2 * SECOND) == before + SECOND - 100_000
    clock.step(-7)
    assert clock.read(SECOND) == before - 7


def test_the_bound_in_parts_is_looser_by_no_more_than_an_slo_at_each_cut():
    """Overload, SLO 100 ms, cuts of 2 s: the proof allows 5 %, and less is used."""
    tables = [{1: 3 * MS, 16: 20 * MS}] * 4
    arrivals = draw(Poisson(rate_rps=2000), Uniform(), models=4, duration_ns=20 * SECOND, seed=1)
    requests = [BoundRequest(at, at + 100 * MS, model) for at, model in arrivals]
    meters = {
        part_count: BoundMeter(tables, executors=1, part_count=part_count)
        for part_count in (4000, 10**6)
    }
    for meter, request in itertools.product(meters.values(), requests):
        meter.add(*request)
    parts, whole = (meter.total() for meter in meters.values())

    assert whole == pytest.approx(
        upper_bound(requests, dict(enumerate(tables)), executors=1), rel=1e-9
    )
    assert whole <= parts <= whole * 1.05
