"""ClockSync against simulated clocks: the true offset must always lie within the bound."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.clock_sync import ClockSync, Exchange
from cw.units import MS, SECOND, US


@attrs.frozen
class TwoClocks:
    """Ours is the true time; theirs is off by `offset_ns` and drifts by `drift_ppm`."""

    offset_ns: int
    drift_ppm: int

    def theirs(self, ours_ns: int) -> int:
        return ours_ns + self.offset_ns + ours_ns * self.drift_ppm // 1_000_000

    def exchange(self, sent_ns: int, there_ns: int, at_peer_ns: int, back_ns: int) -> Exchange:
        received_ns = sent_ns + there_ns
        replied_ns = received_ns + at_peer_ns
        return Exchange(
            sent_ns=sent_ns,
            received_ns=self.theirs(received_ns),
            replied_ns=self.theirs(replied_ns),
            returned_ns=replied_ns + back_ns,
        )


def delays():
    return st.integers(10 * US, 20 * MS)


def pings():
    """Gaps between pings with the delays of each way, as (gap, there, at the peer, back)."""
    return st.lists(
        st.tuples(st.integers(0, SECOND), delays(), st.integers(0, MS), delays()),
        min_size=1,
        max_size=100,
    )


@given(
    st.integers(-(10**15), 10**15),
    st.integers(-200, 200),
    pings(),
    st.integers(0, 100 * SECOND),
)
def test_the_true_offset_lies_within_the_bound(offset_ns, drift_ppm, exchanges, later_ns):
    """Every `latest` is tightened by the bound: were it too small, a window could be overrun."""
    clocks = TwoClocks(offset_ns, drift_ppm)
    sync = ClockSync(window=16, drift_ppm=200)
    now_ns = 10**9
    for gap_ns, there_ns, at_peer_ns, back_ns in exchanges:
        exchange = clocks.exchange(now_ns + gap_ns, there_ns, at_peer_ns, back_ns)
        sync.observe(exchange)
        now_ns = exchange.returned_ns

        error_ns = sync.to_cluster_ns(now_ns) - clocks.theirs(now_ns)
        # 2 ns: this test's own clock rounds, too.
        assert abs(error_ns) <= sync.error_bound_ns(now_ns) + 2
    now_ns += later_ns

    error_ns = sync.to_cluster_ns(now_ns) - clocks.theirs(now_ns)
    assert abs(error_ns) <= sync.error_bound_ns(now_ns) + 2


@given(st.integers(-(10**15), 10**15), st.lists(st.tuples(delays(), delays()), min_size=1))
def test_bound_is_never_worse_than_the_quickest_round_trip(offset_ns, ways):
    """Combining pings may only help: one quick round trip must suffice for a good clock."""
    clocks = TwoClocks(offset_ns, 0)
    sync = ClockSync(window=len(ways), drift_ppm=0)
    now_ns = 0
    for there_ns, back_ns in ways:
        sync.observe(clocks.exchange(now_ns, there_ns, 0, back_ns))
        now_ns += there_ns + back_ns

    assert sync.error_bound_ns(now_ns) <= min(there + back for there, back in ways) // 2 + 1


def test_best_way_there_and_best_way_back_combine():
    """Two lopsided pings together know more than either: the reason for intersecting."""
    clocks = TwoClocks(7 * SECOND, 0)
    sync = ClockSync(drift_ppm=0)
    sync.observe(clocks.exchange(0, 10 * US, 0, 10 * MS))
    sync.observe(clocks.exchange(20 * MS, 10 * MS, 0, 10 * US))

    assert sync.error_bound_ns(40 * MS) <= 10 * US
    assert abs(sync.to_cluster_ns(0) - 7 * SECOND) <= 10 * US


def test_bound_grows_with_silence():
    """An old measurement is worth less: without pings the windows must narrow."""
    sync = ClockSync(drift_ppm=200)
    sync.observe(TwoClocks(0, 0).exchange(0, 50 * US, 0, 50 * US))
    fresh_ns = sync.error_bound_ns(100 * US)

    assert sync.error_bound_ns(100 * US + SECOND) == pytest.approx(fresh_ns + 200 * US, abs=2)


def test_heartbeats_keep_the_bound_under_half_a_millisecond():
    """Four pings a second over a 100 us network suffice for millisecond windows."""
    clocks = TwoClocks(3 * SECOND, 100)
    sync = ClockSync()
    for beat in range(400):
        sync.observe(clocks.exchange(beat * 250 * MS, 100 * US, 20 * US, 100 * US))

    assert sync.error_bound_ns(400 * 250 * MS) < 500 * US


def test_a_stepped_clock_is_believed_at_once():
    """A peer that was suspended has another clock: old pings must not be averaged in."""
    sync = ClockSync()
    for beat in range(10):
        sync.observe(TwoClocks(0, 0).exchange(beat * MS, 50 * US, 0, 50 * US))
    stepped = TwoClocks(5 * SECOND, 0)
    sync.observe(stepped.exchange(20 * MS, 50 * US, 0, 50 * US))

    assert abs(sync.to_cluster_ns(21 * MS) - stepped.theirs(21 * MS)) <= 51 * US


def test_an_impossible_exchange_teaches_nothing():
    """A reply from before the request would make the interval a lie."""
    sync = ClockSync()
    sync.observe(Exchange(sent_ns=100, received_ns=50, replied_ns=40, returned_ns=200))
    sync.observe(Exchange(sent_ns=100, received_ns=0, replied_ns=500, returned_ns=200))

    assert not sync.is_synced


@given(st.integers(-(10**15), 10**15), st.integers(-(10**15), 10**15))
def test_conversions_are_each_others_inverse(offset_ns, instant_ns):
    """A window that is converted and a time that is reported back must meet."""
    sync = ClockSync()
    sync.observe(TwoClocks(offset_ns, 0).exchange(0, 30 * US, 0, 90 * US))

    assert sync.to_local_ns(sync.to_cluster_ns(instant_ns)) == instant_ns


def test_nothing_is_converted_before_the_first_ping():
    """An offset of zero by default would be off by days between two machines."""
    with pytest.raises(AssertionError, match="no exchange"):
        ClockSync().to_cluster_ns(0)
