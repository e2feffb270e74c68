"""Selection: what a lane runs next serves most, and never at the cost of a promise.

Costs, where nothing else is said, are `COSTS_MS`: 4, 5, 7, 10 ms for batches of 1, 2, 4, 8.
"""

from cw.core.policies.selection import CANDIDATES_MAX
from cw.core.residency import Residency
from cw.units import MS
from tests.unit.policy_bench import COSTS_MS, OWED, Bench, chosen

LONE_MS = {1: 4}
LONG_MS = {1: 995}
"""Of a model whose request could be in time if nothing else ran."""


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


def test_with_time_to_spare_the_most_urgent_goes_first():
    """Who waits for company that nobody needs is answered late, and late answers break."""
    bench = Bench(COSTS_MS, COSTS_MS)
    bench.expect(0.5, index=0)
    bench.wait(100, index=0)
    bench.wait(*[101] * 8, index=1)

    assert chosen(bench).place is bench.place(0)


def test_a_full_batch_goes_before_one_that_may_still_grow():
    """Waiting makes the thin one denser, and the full one only older."""
    bench = Bench(COSTS_MS, COSTS_MS, LONG_MS)
    bench.expect(0.5, index=0)
    bench.wait(100, index=0)
    bench.wait(*[101] * 8, index=1)
    bench.wait(1000, index=2)

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
    bench = Bench(COSTS_MS, COSTS_MS, LONG_MS)
    bench.expect(0.5, index=0)
    bench.expect(0.1, index=1)
    bench.wait(40, index=0)
    bench.wait(44, index=1)
    bench.wait(1000, index=2)

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
    fits, does_not = Bench({1: 6}, COSTS_MS, LONG_MS), Bench({1: 8}, COSTS_MS, LONG_MS)
    for bench in (fits, does_not):
        bench.wait(1000, index=2)
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


def test_a_promised_batch_that_is_late_already_gives_way():
    """One broken promise must not break the next, nor refuse who could be served."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.promise(2, index=0)
    bench.wait(6, index=1)

    assert chosen(bench).place is bench.place(1)


def test_what_may_not_run_yet_does_not_hold_up_a_promise():
    """The held one would make the promise late; to let it go first by waiting would do so, too."""
    bench = Bench(LONE_MS, {1: 8.3}, executors=2)
    bench.wait(10, index=0)
    batch = bench.promise(10.5, index=1)

    assert chosen(bench).batch is batch


def test_a_reserve_lets_no_lane_idle():
    """What the flood may not have, those who are owed may: also where it is due before them."""
    bench = Bench({1: 8}, LONE_MS)
    bench.wait(10, index=0)
    bench.wait(20, index=1, tenant=OWED)

    assert chosen(bench, reserved=0.6).place is bench.place(1)


def test_who_lost_its_place_does_not_take_anothers():
    """It may be lost already; the promise behind it is not, and would be 1 ms late."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.wait(5, index=0, promised=True)
    batch = bench.promise(7, index=1)

    assert chosen(bench).batch is batch
    batch.due_ns = 8 * MS
    bench.executor.plan.changed()
    assert chosen(bench).place is bench.place(0)


def test_a_promise_that_may_meet_its_deadline_is_not_given_up():
    """Its weights come in 1 ms, and then it ends past its due time by 0.5: not 3 ms more."""
    bench = Bench(LONE_MS, LONE_MS)
    bench.promise(4.5, index=0).release_ns = 1 * MS
    bench.promise(20, index=1)

    assert chosen(bench) is None


def test_nothing_goes_before_those_who_have_no_time_to_spare():
    """4 and 36 ms fill the 40 that both have: the full batch behind them waits."""
    bench = Bench(COSTS_MS, {1: 36, 8: 37}, LONE_MS)
    bench.expect(1, index=0)
    bench.expect(1, index=1)
    bench.wait(40, index=0)
    bench.wait(40, index=1)
    bench.wait(50, index=2)

    assert chosen(bench).place is not bench.place(2)
