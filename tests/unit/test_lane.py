"""LanePlan: the windows' both ends, the wait for inputs, and the memory of what ran."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.lane import HAND_OVER_NS, LAST_CALL_NS, Head, Inputs, LanePlan, Start, Wait, tighten
from cw.messages import Outcome, Window
from cw.units import MS

WINDOW = Window(earliest_ns=10 * MS, latest_ns=20 * MS)
HANDED_OVER = WINDOW.earliest_ns - HAND_OVER_NS
LAST_CALL = WINDOW.latest_ns - LAST_CALL_NS


def step(now_ns, **known):
    return LanePlan().next_step(Head(**{"window": WINDOW} | known), now_ns=now_ns)


@pytest.mark.parametrize(
    ("now_ns", "expected"),
    [
        (0, Wait(until_ns=HANDED_OVER)),
        (HANDED_OVER - 1, Wait(until_ns=HANDED_OVER)),
        (HANDED_OVER, Start()),
        (10 * MS, Start()),
        (20 * MS, Start()),
        (20 * MS + 1, Outcome.TOO_LATE),
    ],
)
def test_both_ends_of_the_window_are_inside(now_ns, expected):
    """The controller's timelines are built on exactly these two comparisons."""
    assert step(now_ns) == expected


@pytest.mark.parametrize(
    ("now_ns", "inputs", "expected"),
    [
        (10 * MS, Inputs.SOME, Wait(until_ns=LAST_CALL)),
        (LAST_CALL - 1, Inputs.SOME, Wait(until_ns=LAST_CALL)),
        (LAST_CALL, Inputs.SOME, Start()),
        (20 * MS, Inputs.SOME, Start()),
        (20 * MS + 1, Inputs.SOME, Outcome.TOO_LATE),
        (10 * MS, Inputs.NONE, Wait(until_ns=20 * MS + 1)),
        (20 * MS, Inputs.NONE, Wait(until_ns=20 * MS + 1)),
        (20 * MS + 1, Inputs.NONE, Outcome.INPUTS_LATE),
        (0, Inputs.CANCELLED, Outcome.CANCELLED),
        (30 * MS, Inputs.CANCELLED, Outcome.CANCELLED),
    ],
)
def test_missing_inputs_are_waited_for_until_latest(now_ns, inputs, expected):
    """One slow gateway delays its neighbours' batch at most to `latest`, never out of it."""
    assert step(now_ns, inputs=inputs) == expected


@pytest.mark.parametrize(
    ("now_ns", "known", "expected"),
    [
        (0, {"is_its_turn": False, "is_resident": False}, Wait(until_ns=20 * MS + 1)),
        (15 * MS, {"is_its_turn": False}, Wait(until_ns=20 * MS + 1)),
        (20 * MS + 1, {"is_its_turn": False}, Outcome.TOO_LATE),
        (0, {"is_resident": False}, Outcome.NOT_RESIDENT),
        (0, {"window": None}, Start()),
        (0, {"window": None, "is_its_turn": False}, Wait(until_ns=None)),
    ],
)
def test_an_action_waits_for_its_turn_with_its_model(now_ns, known, expected):
    """An INFER behind its LOAD waits for it; one with no LOAD to come is answered at once."""
    assert step(now_ns, **known) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, Start()),
        ({"inputs": Inputs.SOME}, Wait(until_ns=None)),
        ({"inputs": Inputs.NONE}, Wait(until_ns=None)),
        ({"inputs": Inputs.CANCELLED}, Outcome.CANCELLED),
        ({"is_its_turn": False}, Wait(until_ns=None)),
        ({"is_resident": False}, Wait(until_ns=None)),
        ({"may_be_staged": False}, Wait(until_ns=None)),
        ({"window": None}, Start()),  # an UNLOAD, which needs no device
        ({"window": None, "is_its_turn": False}, Wait(until_ns=None)),
    ],
)
def test_only_what_needs_nothing_more_is_staged(known, expected):
    """What the device has can't be changed any more: no input can join, no LOAD can fail."""
    assert step(10 * MS, is_behind=True, **known) == expected


heads = st.builds(
    lambda earliest_ns, width_ns, inputs, turn, resident: Head(
        window=Window(earliest_ns=earliest_ns, latest_ns=earliest_ns + width_ns),
        inputs=inputs,
        is_its_turn=turn,
        is_resident=resident,
    ),
    st.integers(0, 50 * MS),
    st.integers(0, 20 * MS),
    st.sampled_from(Inputs),
    st.booleans(),
    st.booleans(),
)


@given(heads, st.integers(0, 100 * MS))
def test_nothing_starts_outside_its_window_and_every_wait_ends(head, now_ns):
    """The two promises of a lane: no late start, and never stuck on a head that cannot start."""
    plan = LanePlan()
    match plan.next_step(head, now_ns=now_ns):
        case Start():
            # The device waits for the rest of the time until `earliest`.
            assert head.window.earliest_ns - HAND_OVER_NS <= now_ns <= head.window.latest_ns
            if head.inputs is Inputs.SOME:
                assert head.window.earliest_ns <= now_ns
            assert head.inputs in {Inputs.ALL, Inputs.SOME}
            assert head.is_its_turn
            assert head.is_resident
        case Wait(until_ns=until_ns):
            assert until_ns > now_ns
            after = plan.next_step(head, now_ns=until_ns)
            assert not isinstance(after, Wait)
        case outcome:
            assert outcome is not Outcome.OK


@given(st.integers(0, 50 * MS), st.integers(0, 20 * MS), st.integers(0, 40 * MS))
def test_a_poor_clock_narrows_a_window_but_does_not_close_it(earliest_ns, width_ns, bound_ns):
    """Were it closed, an executor with a bad network would answer TOO_LATE to everything."""
    window = Window(earliest_ns=earliest_ns, latest_ns=earliest_ns + width_ns)
    tightened = tighten(window, bound_ns)

    assert tightened.earliest_ns == earliest_ns
    given_away_ns = window.latest_ns - tightened.latest_ns
    assert given_away_ns == min(bound_ns, width_ns // 2)


def runs():
    """Runs one after the other, as (gap before, duration)."""
    return st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=30)


@given(runs(), st.integers(0, 600), st.integers(0, 600))
def test_busy_time_is_what_a_count_of_every_nanosecond_gives(gaps, arrival_ns, wait_ns):
    """`lane_busy_ns` explains a late answer: wrong, it would blame the innocent."""
    plan, busy, now_ns = LanePlan(), set(), 0
    for gap_ns, duration_ns in gaps:
        start_ns = now_ns + gap_ns
        now_ns = start_ns + duration_ns
        plan.ran(start_ns, now_ns)
        busy.update(range(start_ns, now_ns))
    start_ns = arrival_ns + wait_ns

    assert plan.busy_ns(arrival_ns, start_ns) == len(busy & set(range(arrival_ns, start_ns)))


def test_the_memory_of_runs_is_bounded():
    """An executor runs for months."""
    plan = LanePlan()
    for run in range(10_000):
        plan.ran(2 * run, 2 * run + 1)

    assert plan.busy_ns(0, 20_000) == 512
