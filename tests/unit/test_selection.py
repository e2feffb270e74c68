"""Selection: who rides in a batch that could run, and which batches are left out.

Costs, where nothing else is said, are `COSTS_MS`: 4, 5, 7, 10 ms for batches of 1, 2, 4, 8.
"""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.policies import selection
from cw.core.policies.selection import Candidate, _leave_out, renew
from cw.units import MS
from tests.unit.policy_bench import Bench, chosen


def riders(bench, candidate):
    """Name who rides, by position in the queue."""
    assert candidate.batch is None
    assert candidate.cost_ns == candidate.place.costs.by_count[candidate.count]
    return list(range(candidate.skip, candidate.skip + candidate.count))


# --- who rides in a held batch --------------------------------------------------------------------


def test_nothing_is_chosen_where_nobody_waits():
    """An empty lane has nothing to run."""
    bench = Bench()

    assert chosen(bench) is None
    assert not bench.executor.pressed


def test_all_who_wait_ride_together_if_they_can():
    """Four in one batch take 7 ms, one by one 16."""
    bench = Bench()
    bench.wait(20, 20, 20, 20)

    assert riders(bench, chosen(bench)) == [0, 1, 2, 3]


def test_the_most_urgent_bounds_how_many_ride():
    """Four would take 7 ms, and the first has 6."""
    bench = Bench()
    bench.wait(6, 20, 20, 20)

    assert riders(bench, chosen(bench)) == [0, 1]


def test_who_is_past_hope_does_not_hold_up_the_others():
    """It can't be served in any batch: to wait for its refusal costs others their time."""
    bench = Bench()
    bench.wait(3, 20, 20)

    assert riders(bench, chosen(bench)) == [1, 2]


def test_nobody_is_run_in_vain():
    """What would be late anyway must not hold the lane."""
    bench = Bench()
    bench.wait(3, 3.9)

    assert chosen(bench) is None


@pytest.mark.parametrize(
    ("dues_ms", "ride"),
    [
        ([20] * 5, 4),  # 4 in 7 ms are denser than 5 in 10, and the fifth can follow: 11 ms
        ([10.5] * 5, 5),  # 11 ms are too long for the fifth
        ([20] * 7, 7),  # 7 in 10 ms are denser than 4 in 7
        ([20] * 3, 3),  # 3 in 7 ms are a little denser than 2 in 5
    ],
)
def test_padding_is_left_where_a_smaller_batch_is_denser(dues_ms, ride):
    """A batch of 5 takes as long as one of 8: it pays only where the rest could not follow."""
    bench = Bench()
    bench.wait(*dues_ms)

    assert chosen(bench).count == ride


def test_the_oldest_is_left_out_where_that_makes_a_much_denser_batch():
    """Its 5 ms leave room for 2 in a batch; without it 7 ride, and the rest could not follow."""
    bench = Bench()
    bench.wait(5, *[12] * 7)

    assert riders(bench, chosen(bench)) == [1, 2, 3, 4, 5, 6, 7]


def test_the_oldest_is_not_left_out_where_the_rest_can_follow():
    """5 ms and then 10 are in time for all: why give one up?"""
    bench = Bench()
    bench.wait(5, *[15] * 7)

    assert riders(bench, chosen(bench)) == [0, 1]


def test_the_oldest_is_left_out_at_once_on_a_lane_that_is_short_of_time():
    """Where something is left out anyway, all of the lane's time is worth the densest batch."""
    bench = Bench()
    bench.executor.pressed = True
    bench.wait(5, *[15] * 7)

    assert riders(bench, chosen(bench)) == [1, 2, 3, 4, 5, 6, 7]


def test_the_oldest_is_not_left_out_for_little():
    """With it 4 ride in 7 ms, without it 5 in 10: that is no denser."""
    bench = Bench()
    bench.executor.pressed = True
    bench.wait(7, *[12] * 5)

    assert riders(bench, chosen(bench)) == [0, 1, 2, 3]


def test_a_promised_one_that_waits_is_never_left_out():
    """It lost its place with an executor: as many ride with it as it allows, late or not."""
    bench = Bench()
    bench.executor.pressed = True
    bench.wait(5, promised=True)
    bench.wait(*[12] * 7)
    in_time = chosen(bench)

    assert riders(bench, in_time) == [0, 1]
    assert in_time.must

    late = chosen(bench, now_ms=3)

    assert riders(bench, late) == [0]


# --- what is remembered ---------------------------------------------------------------------------


def test_a_batch_is_made_up_once_while_nobody_comes_or_goes(monkeypatch):
    """Most of what waits is as it was: a look at 64 models must cost little."""
    renewed = []

    def counted(offer, *rest):
        renewed.append(offer)
        renew(offer, *rest)

    monkeypatch.setattr(selection, "renew", counted)
    bench = Bench()
    bench.wait(20, 20)
    for now_ms, times in ((0, 1), (15, 1), (15.1, 2)):
        chosen(bench, now_ms=now_ms)

        assert len(renewed) == times
    bench.wait(30)

    assert chosen(bench).count == 3
    assert len(renewed) == 3


def test_a_remembered_batch_gives_way_to_another_estimate():
    """What was learnt since must count."""
    bench = Bench()
    bench.wait(20, 20)
    chosen(bench)
    for _ in range(8):
        bench.books.profiles.learn_infer("program-0", 2, bench.executor.key, 12 * MS)

    assert chosen(bench).cost_ns == bench.place().costs.by_count[2] > 5 * MS


def test_delivery_that_came_to_take_longer_counts_for_those_who_wait():
    """Due times were noted with 1 ms for the way back; with 3 ms a batch of 4 is late."""
    bench = Bench()
    bench.wait(8, 20, 20, 20)

    usual = chosen(bench)

    assert (usual.count, usual.due_ns) == (4, 8 * MS)

    slower = chosen(bench, allowance_ns=3 * MS)

    assert (slower.count, slower.due_ns) == (2, 6 * MS)


# --- the rule itself ------------------------------------------------------------------------------


def candidates_of(drawn, *, must=()):
    made = [
        Candidate(Bench().place(), None, due, 1, cost, cost, number in must)
        for number, (due, cost) in enumerate(sorted(drawn))
    ]
    assert all(each.kept for each in made)
    return made


def in_time(candidates):
    end = 0
    for candidate in candidates:
        end += candidate.cost_ns
        if end > candidate.due_ns:
            return False
    return True


def subsets(candidates):
    """All that are in time; the candidates are in due order, which is as good as any."""
    for size in range(len(candidates) + 1):
        yield from filter(in_time, itertools.combinations(candidates, size))


jobs = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 8)).filter(lambda job: job[1] <= job[0]),
    max_size=8,
)


@given(jobs)
def test_no_feasible_set_of_equals_is_larger(drawn):
    """Moore and Hodgson: where all are worth the same, as many as can be are kept."""
    candidates = candidates_of(drawn)
    _leave_out(candidates, [1 / each.cost_ns for each in candidates], 0)
    kept = [each for each in candidates if each.kept]

    assert in_time(kept)
    assert len(kept) == max(map(len, subsets(candidates)))


@given(
    st.lists(st.tuples(st.integers(3, 20), st.integers(1, 9)), max_size=8),
    st.sets(st.integers(0, 7)),
)
def test_no_feasible_set_of_equally_long_ones_is_worth_more(drawn, must):
    """Also where some were promised, if these are in time by themselves: they are all kept."""
    candidates = candidates_of([(due, 3) for due, _ in drawn], must=must)
    worths = [worth for _, worth in sorted(drawn)]
    promised = [each for each in candidates if each.must]
    _leave_out(
        candidates,
        [math.inf if each.must else worths[n] / 3 for n, each in enumerate(candidates)],
        0,
    )
    kept = [each for each in candidates if each.kept]

    assert all(each.kept for each in promised)
    if in_time(promised):
        assert in_time(kept)
        value = {id(each): worth for each, worth in zip(candidates, worths, strict=True)}
        assert sum(value[id(each)] for each in kept) == max(
            sum(value[id(each)] for each in some)
            for some in subsets(candidates)
            if set(map(id, promised)) <= set(map(id, some))
        )
