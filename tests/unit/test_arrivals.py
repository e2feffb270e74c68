"""Arrivals: same seed same requests, right rates, right popularity, every trace format."""

import gzip
import itertools
import statistics

import pytest

from cw.errors import ConfigError
from cw.units import SECOND
from cw.workload.arrivals import (
    Bursts,
    Constant,
    Counts,
    Poisson,
    Replay,
    Uniform,
    Zipf,
    draw,
    parse_arrivals,
    parse_popularity,
)
from cw.workload.trace_files import read_instants_ns


def drawn(process, *, popularity=Uniform(), models=8, seconds=20, seed=1):  # noqa: B008 - frozen
    return list(draw(process, popularity, models=models, duration_ns=seconds * SECOND, seed=seed))


@pytest.mark.parametrize(
    "process", [Poisson(rate_rps=200), Constant(rate_rps=200), Bursts(rate_rps=200)]
)
def test_the_same_seed_gives_the_same_requests(process):
    """A run that failed can only be had again if its requests can."""
    assert drawn(process, seed=7) == drawn(process, seed=7)
    assert drawn(process, seed=7) != drawn(process, seed=8)


@pytest.mark.parametrize("process", [Poisson(rate_rps=300), Constant(rate_rps=300)])
def test_the_mean_rate_is_the_one_asked_for(process):
    """Goodput is reported against the offered rate: it must have been offered."""
    assert len(drawn(process)) == pytest.approx(300 * 20, rel=0.03)


def test_bursts_keep_the_mean_rate_and_are_bursty():
    """A burst test whose load differs from the steady one would compare two things at once."""
    arrivals = drawn(Bursts(rate_rps=300), seconds=400)
    per_tenth = [0] * 4000
    for arrival in arrivals:
        per_tenth[arrival.instant_ns * 10 // SECOND] += 1

    assert len(arrivals) == pytest.approx(300 * 400, rel=0.1)
    # Poisson's variance equals its mean; two rates add the variance between them.
    assert statistics.variance(per_tenth) > 3 * statistics.mean(per_tenth)


def test_instants_do_not_depend_on_the_number_of_models():
    """Comparing 8 with 64 models at the same instants takes one source of noise away."""
    few, many = drawn(Poisson(rate_rps=100), models=8), drawn(Poisson(rate_rps=100), models=64)

    assert [arrival.instant_ns for arrival in few] == [arrival.instant_ns for arrival in many]


def test_zipf_prefers_the_first_models_as_much_as_it_says():
    """Cold-start results depend on the tail: its weight must be the stated one."""
    counts = [0] * 4
    for arrival in drawn(Poisson(rate_rps=2000), popularity=Zipf(1.0), models=4):
        counts[arrival.model] += 1
    shares = [count / sum(counts) for count in counts]

    assert shares == pytest.approx([12 / 25, 6 / 25, 4 / 25, 3 / 25], rel=0.05)


def test_a_trace_is_stretched_to_the_rate_asked_for():
    """A recording at 2 requests/s must be usable as the shape of a load of 200/s."""
    recorded_ns = tuple(range(0, 100 * SECOND, SECOND // 2))
    assert len(drawn(Replay(recorded_ns=recorded_ns), seconds=1000)) == 200
    stretched = drawn(Replay(recorded_ns=recorded_ns, rate_rps=200.0), seconds=1000)

    assert len(stretched) == 200
    assert stretched[-1].instant_ns == pytest.approx(SECOND, rel=0.01)


def test_counts_keep_their_shape_and_are_scaled_to_the_rate_asked_for(tmp_path):
    """A day that is squeezed in time would have other bursts: counts are scaled instead."""
    path = tmp_path / "counts.txt"
    path.write_text("0 300 100\n")
    process = parse_arrivals(f"counts:{path}", rate_rps=400.0)
    per_second = [0, 0, 0]
    for arrival in drawn(process, seconds=10):
        per_second[arrival.instant_ns // SECOND] += 1

    assert per_second == pytest.approx([0, 900, 300], rel=0.15)
    assert len(drawn(Counts(per_second=(300, 0)), seconds=1)) == pytest.approx(300, rel=0.2)


AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
2023-11-16 18:17:04.0781490,110,27
"""
FORMATS = {
    "azure-llm": (AZURE, [0, 52_000_000, 98_189_000]),
    "azure-functions": ("app,end_timestamp,duration\na,1.5,0.1\nb,1.25,0.2\n", [0, 250_000_000]),
    "instants": ("0.5\n0.75\n2\n", [0, 250_000_000, 1_500_000_000]),
    "gaps": ("0.5\n0.25\n2\n", [0, 250_000_000, 2_250_000_000]),
    "said to be gaps": ("# gaps\n1\n1\n2\n", [0, 1_000_000_000, 3_000_000_000]),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packed", [False, True])
def test_traces_are_read_as_they_are_published(name, packed, tmp_path):
    """Users have these files already; converting them would be one more thing to get wrong."""
    text, expected_ns = FORMATS[name]
    path = tmp_path / "trace"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())

    assert read_instants_ns(path) == expected_ns


@pytest.mark.parametrize("text", ["", "# gaps\n", "one\ntwo\n", "TIMESTAMP\nyesterday\n"])
def test_what_is_not_a_trace_is_refused_with_its_name(text, tmp_path):
    """A silent empty trace would look like a perfect run."""
    path = tmp_path / "odd.csv"
    path.write_text(text)

    with pytest.raises(ConfigError, match=r"odd\.csv"):
        read_instants_ns(path)


def test_what_is_typed_is_parsed(tmp_path):
    """The simulator and the load generator share these words."""
    trace = tmp_path / "t"
    trace.write_text("1\n2\n")

    assert parse_arrivals("poisson", rate_rps=5) == Poisson(rate_rps=5)
    assert parse_arrivals("constant", rate_rps=5) == Constant(rate_rps=5)
    assert parse_arrivals(f"trace:{trace}", rate_rps=None) == Replay(recorded_ns=(0, SECOND))
    assert parse_popularity("zipf:0.9") == Zipf(0.9)
    assert parse_popularity("uniform") == Uniform()


@pytest.mark.parametrize(
    "call",
    [
        lambda: parse_arrivals("steady", rate_rps=5),
        lambda: parse_arrivals("poisson", rate_rps=None),
        lambda: parse_arrivals("poisson", rate_rps=0),
        lambda: parse_popularity("zipf"),
        lambda: parse_popularity("pareto"),
    ],
)
def test_what_cannot_be_parsed_says_what_was_expected(call):
    """A typing mistake must not become a default."""
    with pytest.raises(ConfigError, match=r"expected|need"):
        call()


def test_constant_arrivals_are_evenly_spaced():
    """Rounding must not drift: the millionth request is where the rate says it is."""
    instants = Constant(rate_rps=3).instants_ns(None)
    first = list(itertools.islice(instants, 3_000_001))

    assert first[-1] == 1_000_000 * SECOND
