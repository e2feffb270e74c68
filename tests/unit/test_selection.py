"""Selection: what a lane runs next serves most, and never at the cost of a promise.

Costs, where nothing else is said, are `COSTS_MS`: 4, 5, 7, 10 ms for batches of 1, 2, 4, 8.
"""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.core.policies.selection import CANDIDATES_MAX, Candidate, _leave_out, select
from cw.core.residency import Residency
from cw.units import MS
from tests.unit.policy_bench import ALLOWANCE_NS, COSTS_MS, Bench

LONE_MS = {1: 4}
OWED = 2
"""The tenant that is owed device time, where one is."""


def chosen(bench, *, worth_of=(), reserved=0.0, now_ms=0.0):
    """Choose; `worth_of` gives a request's worth by its model, 1 where it gives none."""

    def worth(place, request):
        each = dict(enumerate(worth_of)).get(bench.models.index(place.model), 1.0)
        return each, request.tenant_id == OWED

    return select(
        bench.executor,
        worth,
        reserved=reserved,
        allowance_ns=ALLOWANCE_NS,
        now_ns=int(now_ms * MS),
    )


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
    late = chosen(bench, now_ms=3)

    assert riders(bench, in_time) == [0, 1]
    assert in_time.must
    assert riders(bench, late) == [0]


# --- what is kept ---------------------------------------------------------------------------------


def test_one_that_is_worth_least_for_its_time_is_left_out():
    """Two of 4 ms can't both end within 6: the better one runs, though it is less urgent."""
    worse_first, better_first = Bench(LONE_MS, LONE_MS), Bench(LONE_MS, LONE_MS)
    for bench in (worse_first, better_first):
        bench.wait(5, index=0)
        bench.wait(6, index=1)

    assert chosen(worse_first, worth_of=[1.0, 3.0]).place is worse_first.place(1)
    assert chosen(better_first, worth_of=[3.0, 1.0]).place is better_first.place(0)
    assert worse_first.executor.pressed


def test_of_equal_worth_the_longest_is_left_out():
    """So most are served: 10 ms for one, or 4 for another."""
    bench = Bench({1: 10}, LONE_MS)
    bench.wait(10, index=0)
    bench.wait(12, index=1)

    assert chosen(bench).place is bench.place(1)


def test_what_is_owed_comes_before_what_is_worth_more():
    """A tenant's share is not for sale."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.wait(5, index=0)
    bench.wait(6, index=1, tenant=OWED)

    assert chosen(bench, worth_of=[1000.0, 1.0]).place is bench.place(1)


def test_a_promised_batch_is_never_left_out():
    """Whatever waits is worth less than a word that was given."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.wait(5, index=0)
    batch = bench.promise(6, index=1)

    assert chosen(bench, worth_of=[1000.0, 1.0]).batch is batch


def test_a_held_batch_goes_before_a_promise_that_can_spare_the_time():
    """Due order serves both; the promise loses nothing."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.wait(5, index=0)
    bench.promise(8, index=1)

    assert chosen(bench).place is bench.place(0)


def test_replicas_share_the_time():
    """Two lanes serve both in time, so neither may give one up: 4 ms count as 2."""
    alone, both = Bench(LONE_MS, LONE_MS), Bench(LONE_MS, LONE_MS, executors=2)
    for bench in (alone, both):
        bench.wait(5, index=0)
        bench.wait(6, index=1)
        chosen(bench)

    assert alone.executor.pressed
    assert not both.executor.pressed
    assert chosen(both).place is both.place(0)


def test_a_promised_batch_that_is_late_already_gives_way():
    """One broken promise must not break the next, nor refuse who could be served."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.promise(2, index=0)
    bench.wait(6, index=1)

    assert chosen(bench).place is bench.place(1)


def test_a_promised_batch_that_is_late_runs_where_nothing_else_does():
    """The gateway's own deadline may still be met: estimates are bounds."""
    bench = Bench(LONE_MS, LONE_MS)
    first = bench.promise(2, index=0)
    bench.promise(2.5, index=1)

    assert chosen(bench).batch is first


def test_a_promise_past_its_due_time_but_not_its_deadline_is_still_one():
    """What was aimed at is the margin earlier: only the deadline makes it late."""
    bench = Bench(LONE_MS, LONE_MS)
    batch = bench.promise(3.5, index=0)
    bench.wait(6, index=1)

    assert chosen(bench).batch is batch


def test_what_has_no_weights_yet_does_not_run():
    """Neither who waits for a LOAD, nor who was promised behind one."""
    bench = Bench(LONE_MS, LONE_MS, LONE_MS)
    bench.wait(9, index=0)
    bench.place(0).warm_ns = 1
    bench.promise(9, index=1).release_ns = 1
    bench.promise(9, index=2)
    bench.place(2).residency = Residency.COLD

    assert chosen(bench) is None


def test_an_executor_that_is_brought_to_rest_runs_only_what_it_promised():
    """Else the gap for what is to be brought up there would never come."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.executor.quiescing = True
    bench.wait(5, index=0)
    assert chosen(bench) is None
    batch = bench.promise(20, index=1)

    assert chosen(bench).batch is batch


def test_only_so_many_models_are_looked_at():
    """A choice must not take longer the more models there are."""
    bench = Bench(*[{1: 4}] * (CANDIDATES_MAX + 1))
    for index in range(CANDIDATES_MAX):
        bench.wait(400, index=index)
    bench.wait(300, index=CANDIDATES_MAX)  # more urgent, but it came to wait last

    assert chosen(bench).place is bench.place(0)


# --- what goes first ------------------------------------------------------------------------------


def test_a_full_batch_goes_before_one_that_may_still_grow():
    """Waiting makes the thin one denser, and the full one only older."""
    bench = Bench(COSTS_MS, COSTS_MS)
    bench.expect(0.5, index=0)
    bench.wait(100, index=0)
    bench.wait(*[101] * 8, index=1)

    assert chosen(bench).place is bench.place(1)


def test_a_full_batch_waits_where_the_other_has_no_time():
    """The thin one can wait for 8 ms, and 8 take 10."""
    bench = Bench(COSTS_MS, COSTS_MS)
    bench.expect(0.5, index=0)
    bench.wait(12, index=0)
    bench.wait(*[101] * 8, index=1)

    assert chosen(bench).place is bench.place(0)


def test_of_two_that_may_grow_the_one_with_less_to_gain_goes_first():
    """One expects 2 more before it must go, the other 3: that one waits."""
    bench = Bench(COSTS_MS, COSTS_MS)
    bench.expect(0.5, index=0)
    bench.expect(0.1, index=1)
    bench.wait(40, index=0)
    bench.wait(44, index=1)

    assert chosen(bench).place is bench.place(1)


def test_nothing_waits_for_who_is_not_expected():
    """An idle lane that runs a lone request at once loses nothing: due order decides."""
    bench = Bench(COSTS_MS, COSTS_MS)
    bench.wait(100, index=0)
    bench.wait(*[101] * 8, index=1)

    assert chosen(bench).place is bench.place(0)


def test_a_held_batch_never_makes_a_promise_late():
    """Halved by its replica it would seem to fit; here it takes all of its 4 ms: 8 is over 7."""
    bench = Bench(LONE_MS, LONE_MS, executors=2)
    bench.wait(7, index=0)
    batch = bench.promise(7.5, index=1)

    assert chosen(bench).batch is batch


def test_a_promised_batch_does_not_go_before_one_that_it_would_make_late():
    """Full or not: the thin promise before it has 2 ms to spare, and 8 take 10."""
    bench = Bench(COSTS_MS, COSTS_MS, executors=2)
    bench.expect(0.5, index=0)
    thin = bench.promise(13, index=0)
    bench.promise(16, count=8, index=1)

    assert chosen(bench).batch is thin


def test_promises_may_be_put_in_another_order_that_keeps_them_all():
    """The full one first: the thin one behind it can spare its 10 ms, and may grow meanwhile."""
    bench = Bench(COSTS_MS, COSTS_MS)
    bench.expect(0.5, index=0)
    bench.promise(40, index=0)
    full = bench.promise(41, count=8, index=1)

    assert chosen(bench).batch is full


def test_what_is_spent_on_a_flood_is_not_missing_when_its_victims_come():
    """6 of 10 ms are reserved: of the 16 ms before the owed must go, 6.4 may be spent on others."""
    fits, does_not = Bench({1: 6}, COSTS_MS), Bench({1: 8}, COSTS_MS)
    for bench in (fits, does_not):
        bench.wait(30, index=0)
        bench.wait(20, index=1, tenant=OWED)
        bench.expect(0.1, index=1)  # it may grow, so the other would go first

    assert chosen(fits, reserved=0.6).place is fits.place(0)
    assert chosen(does_not, reserved=0.6).place is does_not.place(1)
    assert chosen(does_not).place is does_not.place(0)


def test_a_promise_counts_as_owed():
    """It was given its time: the reserve is not held against it."""
    bench = Bench({1: 8}, LONE_MS)
    batch = bench.promise(10, index=0)
    bench.wait(20, index=1, tenant=OWED)

    assert chosen(bench, reserved=0.9).batch is batch


def test_where_nobody_is_owed_nothing_is_held_back():
    """A reserve for nobody would only let the lane idle."""
    bench = Bench({1: 8})
    bench.wait(10)

    assert chosen(bench, reserved=0.9).place is bench.place(0)


# --- what is remembered ---------------------------------------------------------------------------


def test_a_batch_is_made_up_once_while_nobody_comes_or_goes():
    """Most of what waits is as it was: a look at 64 models must cost little."""
    bench = Bench()
    bench.wait(20, 20)
    first = chosen(bench)

    assert chosen(bench, now_ms=15) is first
    assert chosen(bench, now_ms=15.1) is not first
    bench.wait(30)
    assert chosen(bench).count == 3
    assert bench.place().offer is not first


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

    def count(allowance_ms):
        found = select(
            bench.executor,
            lambda place, request: (1.0, False),
            reserved=0.0,
            allowance_ns=allowance_ms * MS,
            now_ns=0,
        )
        return found.count, found.due_ns

    assert count(1) == (4, 8 * MS)
    assert count(3) == (2, 6 * MS)


# --- the rule itself ------------------------------------------------------------------------------


def candidates_of(drawn, *, must=()):
    made = [
        Candidate(Bench().place(), due, 1, cost, cost, number in must)
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
