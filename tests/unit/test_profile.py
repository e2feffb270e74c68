"""Profiles: bounds that hold nearly always, are not fooled by one outlier, and notice change."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.durations import FASTER_RUN, DurationWindow
from cw.core.profile import Profiles, device_key, own_ns
from cw.messages import ActionResult, Outcome
from cw.units import MS
from tests.unit.scheduler_world import device

KEY = device_key(device())


def window(*durations, size=200, quantile=0.99):
    made = DurationWindow(size, quantile)
    for duration in durations:
        made.add(duration)
    return made


def test_one_outlier_does_not_double_the_estimate():
    """A rarely used model would plan with one page fault's duration for hours."""
    made = window(*[5 * MS] * 11, 10 * MS)

    assert made.estimate_ns == 5 * MS


def test_a_second_outlier_confirms_the_first():
    """What happens twice in a dozen runs happens again: estimates below it break promises."""
    made = window(*[5 * MS] * 10, 10 * MS, 10 * MS)

    assert made.estimate_ns == 10 * MS


def test_estimate_is_exceeded_about_as_often_as_its_quantile_says():
    """The estimate is what promises rest on: it must bound what is measured afterwards."""
    draw = random.Random(4)
    made, over = window(), 0
    for _ in range(200):
        made.add(int(draw.gauss(10, 0.03) * MS))
    for _ in range(2000):
        duration = int(draw.gauss(10, 0.03) * MS)
        over += duration > made.estimate_ns
        made.add(duration)

    assert over < 0.03 * 2000


def test_a_slower_device_is_believed_after_a_few_runs():
    """Each promise made with the old estimate would be broken until the window had turned over."""
    made = window(*[5 * MS] * 200, *[8 * MS] * 4)

    assert made.estimate_ns == 8 * MS


def test_a_faster_device_is_believed_in_time():
    """Planning with 8 ms what takes 5 refuses a third of what could be served."""
    made = window(*[8 * MS] * 200, *[5 * MS] * FASTER_RUN)

    assert made.estimate_ns == 5 * MS


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=300), st.integers(1, 50))
def test_window_holds_its_last_measurements(durations, size):
    """The sorted copy is kept in step by hand: it must never lose or keep a measurement."""
    made = window(*durations, size=size)

    assert 0 < len(made) <= size
    assert made.at(0.0) == min(durations[-len(made) :])
    assert made.at(1.0) == max(durations[-len(made) :])
    assert made.at(0.0) <= made.estimate_ns <= made.at(1.0)


def test_counts_between_sizes_cost_what_the_next_size_costs():
    """A batch of three runs as one of four: planned as less it would be late."""
    profiles = Profiles()
    for size, ms in ((1, 4), (2, 5), (4, 7)):
        profiles.seed("program", size, KEY, [ms * MS] * 3)
    costs = profiles.costs("program", (1, 2, 4), KEY)

    assert costs.by_count == [0, 4 * MS, 5 * MS, 7 * MS, 7 * MS]
    assert costs.size_for == [0, 1, 2, 4, 4]
    assert costs.below(4) == 2
    assert costs.below(1) == 0


def test_a_larger_size_that_runs_faster_is_used():
    """Odd sizes are sometimes slower than the next power of two."""
    profiles = Profiles()
    for size, ms in ((1, 4), (3, 9), (4, 7)):
        profiles.seed("program", size, KEY, [ms * MS] * 3)
    costs = profiles.costs("program", (1, 3, 4), KEY)

    assert costs.size_for[3] == 4
    assert costs.by_count[3] == 7 * MS


def test_unmeasured_sizes_are_guessed_in_proportion():
    """While a program is probed its later sizes are planned with too much, never with nothing."""
    profiles = Profiles()
    profiles.seed("program", 2, KEY, [5 * MS])
    costs = profiles.costs("program", (1, 2, 4), KEY)

    assert not costs.known
    assert costs.by_count[4] == 10 * MS
    assert costs.by_count[1] == 5 * MS


def test_equal_devices_share_a_profile_and_others_do_not():
    """The second executor of a kind must not measure all over again; another kind must."""
    profiles = Profiles()
    other = device_key(device(name="slower"))
    profiles.seed("program", 1, KEY, [5 * MS])

    assert profiles.costs("program", (1,), KEY).known
    assert not profiles.costs("program", (1,), other).known


def test_loads_are_bounded_by_their_own_size_then_by_others():
    """A LOAD that was never measured has to be planned, too: rather too long than too short."""
    profiles, described = Profiles(), device(load_rate=1_000_000_000)

    assert profiles.load_ns(described, 10_000_000) >= 10 * MS
    profiles.learn_load(KEY, 10_000_000, 20 * MS)
    assert profiles.load_ns(described, 10_000_000) == 20 * MS
    assert profiles.load_ns(described, 5_000_000) >= 10 * MS


def test_entries_show_what_was_measured():
    """`cw model add` shows this table: samples and spread, not only the estimate."""
    profiles = Profiles()
    profiles.seed("program", 1, KEY, [4 * MS, 6 * MS, 5 * MS])
    (entry,) = profiles.entries("program", (1, 2), KEY)

    assert (entry.batch_size, entry.samples, entry.p50_ns, entry.max_ns) == (1, 3, 5 * MS, 6 * MS)


def test_the_densest_batch_is_full_or_what_can_be_had():
    """Five of eight run as long as eight: whoever counts on them must not count on padding."""
    profiles = Profiles()
    for size, ms in ((1, 4), (2, 6), (4, 8), (8, 20)):
        profiles.seed("program", size, KEY, [ms * MS] * 3)
    costs = profiles.costs("program", (1, 2, 4, 8), KEY)

    assert costs.densest(1, 4) == 4
    assert costs.densest(1, 8) == 4
    assert costs.densest(3, 3) == 3
    assert costs.densest(2, 100) == 4
    assert costs.densest(5, 8) == 8
    assert costs.density_ns(0) == 2 * MS
    assert costs.density_ns(4 * MS) == 3 * MS


@pytest.mark.parametrize(
    ("device_ms", "running_ms", "own_ms"),
    [
        pytest.param(5, 5, 5, id="undisturbed"),
        pytest.param(9, 5, 9, id="lost less than it ran: so it goes beside a busy event loop"),
        pytest.param(50, 5, 10, id="stalled: counts as if it had lost a half"),
    ],
)
def test_what_a_run_says_of_its_model(device_ms, running_ms, own_ms):
    """Estimates hold for runs that share their core, and no stall makes them refuse for minutes."""
    result = ActionResult(
        action_id=1,
        outcome=Outcome.OK,
        received_ns=0,
        ready_ns=0,
        start_ns=0,
        end_ns=device_ms * MS,
        device_ns=device_ms * MS,
        running_ns=running_ms * MS,
    )

    assert own_ns(result) == own_ms * MS
