"""Rates that change: what was counted is what comes, and the synthetic day has its stated shape."""

import itertools

import numpy as np
import pytest

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.rates import MINUTE, AzureLike, Piecewise, RecordedCounts

COUNTS = np.array([[600, 0, 1200], [60, 0, 0]])


def per_minute(stream, minutes, models):
    counts = np.zeros((models, minutes))
    for instant_ns, model, _ in stream.calls(seed=1, duration_ns=minutes * MINUTE):
        counts[model, instant_ns // MINUTE] += 1
    return counts


def test_recorded_counts_come_again_minute_by_minute():
    """The shape of a trace is what it is replayed for: quiet minutes stay quiet."""
    stream = Piecewise(source=RecordedCounts(counts=COUNTS), models=(0, 1), slo_ns=5)
    counts = per_minute(stream, 4, 2)

    assert counts[:, :3] == pytest.approx(COUNTS, abs=4 * np.sqrt(1200))
    assert counts[:, 1].sum() == counts[:, 3].sum() == 0


def test_recorded_counts_are_scaled_to_a_rate():
    """A cluster's share of a platform's load is made by scaling it, not by cutting it off."""
    source = RecordedCounts.at_rate(COUNTS, rate_rps=100)
    total = sum(itertools.chain.from_iterable(source.periods(1)))

    assert total / 180 == pytest.approx(100)
    with pytest.raises(ConfigError, match="zeros"):
        RecordedCounts.at_rate(np.zeros((2, 2), dtype=np.int64), rate_rps=1)


@pytest.fixture(scope="module")
def platform():
    return AzureLike(models=4026, rate_rps=9638)


def test_the_synthetic_platform_has_the_published_shape(platform):
    """Most functions are hardly ever invoked, and few carry nearly all of the load."""
    per_day = platform.function_rates() * 86_400
    unscaled = per_day * (platform.invocations_per_day_max / per_day.max())

    assert (unscaled <= 24).mean() == pytest.approx(0.45, abs=0.01)
    assert (unscaled <= 1440).mean() == pytest.approx(0.81, abs=0.01)
    assert unscaled[unscaled > 1440].sum() / unscaled.sum() == pytest.approx(0.996, abs=0.002)
    assert per_day.sum() / 86_400 == pytest.approx(9638)


def test_the_synthetic_platforms_first_hour_has_its_mean_rate(platform):
    """Goodput is compared with the paper's 9,638 requests/s: they must have been offered."""
    totals = [sum(expected) for expected in itertools.islice(platform.periods(1), 60)]

    assert np.mean(totals) / 60 == pytest.approx(9638, rel=0.02)
    assert max(totals) < 1.25 * np.mean(totals)


def test_the_synthetic_platform_has_a_rhythm_timers_and_switches():
    """Cold models that are asked for in bursts are what makes such a load hard."""
    shape = AzureLike(models=300, rate_rps=100, functions=300, noise_ratio=0.0)
    minutes = np.array(list(itertools.islice(shape.periods(3), 120)))
    silent = (minutes == 0).mean(axis=0)

    assert (silent == 0).mean() == pytest.approx(0.53, abs=0.1)
    assert ((silent > 0.3) & (silent < 0.7)).mean() > 0.15
    assert (silent > 0.7).mean() > 0.05
    day = [sum(expected) for expected in itertools.islice(shape.periods(3), 24 * 60)]
    hours = np.array(day).reshape(24, 60).mean(axis=1)
    assert hours.max() / hours.min() == pytest.approx(2.0, abs=0.4)


def test_a_part_of_a_minute_has_its_part_of_the_requests():
    """Runs shorter than a minute must have the same rate."""
    stream = Piecewise(source=RecordedCounts(counts=COUNTS), models=(0, 1), slo_ns=5)

    assert len(list(stream.calls(seed=1, duration_ns=30 * SECOND))) == pytest.approx(330, rel=0.2)
