"""Streams: lazy, seeded, in order, at the rates and with the SLOs that they say."""

import itertools
import statistics
from array import array
from collections import Counter

import pytest

from cw.errors import ConfigError
from cw.units import MS, SECOND
from cw.workload.arrivals import Counts, Poisson, Zipf
from cw.workload.parse import parse_stream
from cw.workload.rates import AzureLike, Piecewise
from cw.workload.streams import Awakening, Flood, OpenLoop, OwnBursts, Recording
from cw.workload.workload import Call, ClosedLoop, Workload

EIGHT = tuple(range(8))
KINDS = {
    "open loop": OpenLoop(
        arrivals=Poisson(rate_rps=200), popularity=Zipf(0.9), models=EIGHT, slo_ns=50 * MS
    ),
    "own bursts": OwnBursts(rate_rps=200, models=EIGHT, slo_ns=50 * MS),
    "flood": Flood(models=(3,), rate_rps=200, slo_ns=50 * MS, from_ns=SECOND),
    "awakening": Awakening(models=EIGHT, rate_rps=200, slo_ns=50 * MS),
    "counts": OpenLoop(arrivals=Counts(per_second=(100, 300) * 5), models=EIGHT, slo_ns=1),
    "azure-like": Piecewise(
        source=AzureLike(models=8, rate_rps=200, functions=100), models=EIGHT, slo_ns=50 * MS
    ),
}


def drawn(stream, *, seed=1, seconds=10):
    return list(stream.calls(seed=seed, duration_ns=seconds * SECOND))


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_in_order_in_time_and_repeats_itself(kind):
    """The simulator schedules one request at a time: one out of order would be in the past."""
    calls = drawn(KINDS[kind])

    assert len(calls) > 500
    assert all(before.instant_ns <= after.instant_ns for before, after in itertools.pairwise(calls))
    assert calls[-1].instant_ns < 10 * SECOND
    assert {call.model for call in calls} <= set(EIGHT)
    assert calls == drawn(KINDS[kind])
    assert calls != drawn(KINDS[kind], seed=2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_lazy(kind):
    """An hour at ten thousand requests a second does not fit into memory."""
    first = next(iter(KINDS[kind].calls(seed=1, duration_ns=10**6 * SECOND)))

    assert isinstance(first, Call)


def test_streams_together_are_in_order_and_do_not_disturb_each_other():
    """Adding a flood must leave the quiet tenants' requests as they were, else nothing compares."""
    quiet = KINDS["open loop"]
    both = Workload(streams=(quiet, KINDS["flood"]))
    calls = list(both.calls(seed=1, duration_ns=10 * SECOND))
    alone = list(Workload(streams=(quiet,)).calls(seed=1, duration_ns=10 * SECOND))
    rest = Counter(calls)
    rest.subtract(alone)

    assert calls == sorted(calls)
    assert min(rest.values()) >= 0
    assert {call.model for call in +rest} == {3}
    assert rest.total() == pytest.approx(9 * 200, rel=0.1)


def test_two_equal_streams_are_not_the_same_requests_twice():
    """Two tenants with equal habits must not knock at the very same instants."""
    twice = Workload(streams=(KINDS["open loop"], KINDS["open loop"]))
    instants = [call.instant_ns for call in twice.calls(seed=1, duration_ns=10 * SECOND)]

    assert len(set(instants)) == len(instants)


def test_models_with_bursts_of_their_own_do_not_burst_together():
    """That is the point: the sum is smoother than any one of them."""
    calls = drawn(
        OwnBursts(rate_rps=600, models=EIGHT, slo_ns=1, factor=8.0, burst_s=1.0), seconds=200
    )

    def unevenness(chosen):
        counts = Counter(call.instant_ns // SECOND for call in chosen)
        per_second = [counts[second] for second in range(200)]
        return statistics.pstdev(per_second) / statistics.mean(per_second)

    assert len(calls) == pytest.approx(600 * 200, rel=0.1)
    assert unevenness(calls) < 0.6 * unevenness([call for call in calls if call.model == 0])


def test_a_flood_keeps_to_its_time_and_its_models():
    """A flood that seeps out would be in the figures that it is compared with."""
    calls = drawn(
        Flood(models=(2, 5), rate_rps=400, slo_ns=7, from_ns=2 * SECOND, until_ns=4 * SECOND)
    )

    assert len(calls) == pytest.approx(800, rel=0.15)
    assert calls[0].instant_ns >= 2 * SECOND
    assert calls[-1].instant_ns < 4 * SECOND
    assert {(call.model, call.slo_ns) for call in calls} == {(2, 7), (5, 7)}


def test_models_awaken_one_after_the_other():
    """Figure 6: the same load on ever more models, until memory is the limit."""
    stream = Awakening(
        models=EIGHT, rate_rps=500, slo_ns=1, first_count=2, from_ns=4 * SECOND, every_ns=SECOND
    )
    calls = drawn(stream)

    def seen(begin, end):
        return {one.model for one in calls if begin * SECOND <= one.instant_ns < end * SECOND}

    assert seen(0, 4) == {0, 1}
    assert seen(4, 5) == {0, 1, 2}
    assert seen(9, 10) == set(EIGHT)
    assert stream.active(10**3 * SECOND) == 8


def test_a_recording_is_stretched_and_its_grains_are_spread():
    """Times in whole seconds would come as one volley each second, which they were not."""
    recording = Recording(
        instants_ns=array("q", [0, 0, 0, 0, SECOND, SECOND]),
        places=array("q", [0, 1, 0, 1, 1, 1]),
        models=(6, 7),
        slo_ns=9,
        grain_ns=SECOND,
    )
    calls = drawn(recording)

    assert [call.instant_ns // SECOND for call in calls] == [0, 0, 0, 0, 1, 1]
    assert len({call.instant_ns for call in calls}) == 6
    assert Counter(call.model for call in calls) == {6: 2, 7: 4}
    quick = Recording(
        instants_ns=recording.instants_ns,
        places=recording.places,
        models=(6, 7),
        slo_ns=9,
        rate_rps=30.0,
        grain_ns=SECOND,
    )
    assert drawn(quick)[-1].instant_ns < SECOND // 5 + 1


TYPED = ["poisson", "bursts", "own-bursts", "azure-like", "requests:FILE", "top:FILE"]


@pytest.mark.parametrize("text", [*TYPED, "trace:FILE", "minutes:DAY+DAY"])
def test_what_is_typed_is_a_stream_at_its_rate(text, tmp_path):
    """The simulator and the planner share these words, and what they mean."""
    trace = "func,end_timestamp,duration\n" + "".join(f"f{i % 3},{i},0\n" for i in range(99))
    (tmp_path / "trace.csv").write_text(trace)
    minutes = "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,7,7\n"
    (tmp_path / "day.csv").write_text(minutes)
    text = text.replace("FILE", str(tmp_path / "trace.csv"))
    text = text.replace("DAY", str(tmp_path / "day.csv"))
    stream = parse_stream(text, popularity="uniform", rate_rps=33.0, models=EIGHT, slo_ns=4)
    calls = drawn(stream, seconds=3)

    assert len(calls) == pytest.approx(99, rel=0.5)
    assert {call.slo_ns for call in calls} == {4}


@pytest.mark.parametrize(
    ("text", "rate_rps"), [("azure-like", None), ("own-bursts", 0.0), ("poison", 1.0)]
)
def test_what_cannot_be_a_stream_says_what_is_missing(text, rate_rps):
    """A default rate would answer a question that nobody asked."""
    with pytest.raises(ConfigError, match=r"rate|expected"):
        parse_stream(text, popularity="uniform", rate_rps=rate_rps, models=EIGHT, slo_ns=4)


def test_what_makes_no_sense_is_refused():
    """A loop without models would be a run without load, and a perfect result."""
    with pytest.raises(ConfigError, match="models"):
        ClosedLoop(models=(), clients_per_model=1, slo_ns=1)
