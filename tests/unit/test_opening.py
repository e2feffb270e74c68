"""Opening: what is promised early is worth what it takes, and leaves what it must.

Costs are `COSTS_MS`: 4, 5, 7, 10 ms for batches of 1, 2, 4, 8; at best 0.8 requests per ms.
"""

from types import SimpleNamespace

import pytest

from cw.core.policies.opening import Opening
from cw.core.residency import Residency
from cw.units import MS
from tests.unit.policy_bench import COSTS_MS, OWED, Bench

DENSEST_PER_NS = 8 / (10 * MS)


def opening_of(*, hold_ratio=0.25, reserved=0.0, starved=False, worth=1.0):
    """Judge by shares that are as the test says."""
    shares = SimpleNamespace(
        reserved=reserved,
        value=lambda place, request: worth,
        is_owed=lambda request, now_ns: request.tenant_id == OWED,
        is_starved=lambda request, now_ns: starved,
    )
    return Opening(shares, hold_ratio)


def opened(bench, opening=None):
    """Say how many would ride in a batch of their own now; None if it is not worth it."""
    model = bench.models[0]
    found = (opening or opening_of()).open(model, model.queue[0].due_ns, 0)
    return None if found is None else found[1]


def dear(bench, price=1.0):
    """Let an executor take nothing that is less dense than its densest."""
    bench.executor.price, bench.executor.best_worth = price, DENSEST_PER_NS


# --- a batch of their own -------------------------------------------------------------------------


def test_an_executor_with_time_to_spare_takes_whatever_fits():
    """An idle lane is worth nothing: a lone request ends after 4 of its 100 ms."""
    bench = Bench()
    dear(bench)
    bench.wait(100)

    assert opened(bench) == 1


def test_behind_a_longer_plan_company_is_asked_for():
    """At the full price only 8 in 10 ms are worth it; at half of it, 2 in 5 ms are."""
    for price, enough in ((1.0, 8), (0.5, 2)):
        bench = Bench()
        bench.promise(100, count=8, index=0)
        bench.place().batches[0].release_ns = 40 * MS  # so that the plan ends at 50 ms
        dear(bench, price)
        for waiting in range(1, enough):
            bench.wait(100)
            assert opened(bench) is None, waiting
        bench.wait(100)

        assert opened(bench) == enough


def test_company_counts_before_it_fills_a_captured_size():
    """6 run in 10 ms as 8 do; were they not counted as more than 4 in 7, nobody would wait on."""
    bench = Bench()
    bench.promise(100, count=8).release_ns = 40 * MS
    bench.wait(*[100] * 6)
    bench.executor.best_worth = DENSEST_PER_NS
    bench.executor.price = 6 / 8.5 / 0.8 - 1e-6  # half of the way from 7 to 10 ms
    assert opened(bench) == 6
    bench.executor.price += 2e-6

    assert opened(bench) is None


def test_a_starved_model_pays_no_price():
    """Whatever is dense comes before it otherwise, and it would stay starved."""
    bench = Bench()
    bench.promise(100, count=8).release_ns = 40 * MS
    bench.wait(100)
    dear(bench)

    assert opened(bench) is None
    assert opened(bench, opening_of(starved=True)) == 1


def test_what_is_worth_more_needs_less_company():
    """One that counts tenfold is as good as ten."""
    bench = Bench()
    bench.promise(100, count=8).release_ns = 40 * MS
    bench.wait(100)
    dear(bench)

    assert opened(bench, opening_of(worth=3.1)) is None
    assert opened(bench, opening_of(worth=3.3)) == 1


@pytest.mark.parametrize(("due_ms", "taken"), [(66, None), (72, 1)])
def test_no_thin_batch_is_opened_for_want_of_room(due_ms, taken):
    """8 come before it starts, and 6 ms hold 2 of them: so it would go on, batch after batch."""
    bench = Bench()
    bench.promise(100, count=8).release_ns = 50 * MS
    bench.expect(0.12)  # in the 60 ms until the plan ends 7 come
    bench.wait(due_ms)

    assert opened(bench) == taken


def test_what_could_never_be_is_not_asked_for():
    """8 are to come in 2 ms, but of 9 ms in all no request sees a batch of 8: 4 in 7 are best."""
    bench = Bench(COSTS_MS, {1: 2})
    bench.promise(3, index=1)
    bench.expect(4)
    bench.wait(9)

    assert opened(bench) == 1


def test_nothing_is_opened_where_it_would_be_late():
    """A promise that can't be kept is worse than a refusal."""
    bench = Bench()
    bench.promise(60, count=8).release_ns = 50 * MS
    bench.wait(63)

    assert opened(bench) is None
    assert opening_of().room(bench.models[0], 63 * MS, 0) is None
    assert opening_of().room(bench.models[0], 64 * MS, 0)[0].finish_ns == 64 * MS


def test_as_many_are_promised_as_fit():
    """8 wait and 7 ms are left: 4 are promised now, the others wait on."""
    bench = Bench()
    bench.wait(*[7] * 8)

    assert opened(bench) == 4


def test_no_second_batch_is_opened_beside_one_with_room():
    """Newcomers fill the first one, or both would stay thin; a full one is no reason to wait."""
    bench, full = Bench(), Bench()
    bench.promise(100, count=7)
    full.promise(100, count=8)
    bench.wait(100)
    full.wait(100)

    assert opened(bench) is None
    assert opened(full) == 1


def test_of_several_executors_the_soonest_is_taken_and_none_that_comes_to_rest():
    """It ends first where nothing stands before it."""
    bench = Bench(executors=3)
    bench.promise(100, count=8, executor=1)
    bench.wait(100)
    room = opening_of().room
    first = room(bench.models[0], 100 * MS, 0)[0].place
    first.executor.quiescing = True
    second = room(bench.models[0], 100 * MS, 0)[0].place

    assert first is bench.place(executor=2)
    assert second is bench.place(executor=3)


def test_what_is_reserved_is_left_to_those_who_are_owed():
    """Of 20 ms 18 are reserved: 2 are no room for 4; who is owed has room, and half leaves it."""
    flooder, owed = Bench(), Bench()
    flooder.wait(20, tenant=1)
    owed.wait(20, tenant=OWED)

    assert opened(flooder, opening_of(reserved=0.9)) is None
    assert opened(flooder, opening_of(reserved=0.5)) == 1
    assert opened(owed, opening_of(reserved=0.9)) == 1


def test_what_the_owed_have_already_is_not_reserved_twice():
    """15 of 30 ms are reserved, 10 of these planned: 10 + 5 + 4 ms are in time."""
    bench = Bench()
    for rider in bench.promise(100, count=8).requests:
        rider.tenant_id = OWED
    bench.wait(19, tenant=1)
    reserving = opening_of(reserved=15 / 19)

    assert opened(bench, reserving) == 1
    for rider in bench.place().batches[0].requests:
        rider.tenant_id = 1
    assert opened(bench, reserving) is None


# --- joining --------------------------------------------------------------------------------------


def joined(bench, opening=None, *, due_ms=100):
    newcomer = bench.request(due_ms)
    return (opening or opening_of()).join(bench.models[0], newcomer, newcomer.due_ns, 0)


def test_nobody_joins_where_nothing_is_planned_or_all_is_full():
    """A batch of its own is another question."""
    bench = Bench()
    assert joined(bench) is None
    bench.promise(100, count=8)

    assert joined(bench) is None


def test_padding_is_free_at_any_price():
    """The fourth of 3 costs nothing."""
    bench = Bench()
    bench.promise(100, count=3).release_ns = 80 * MS
    dear(bench, 1000.0)

    assert joined(bench).batch is bench.place().batches[0]


def test_a_batch_grows_at_any_price_while_the_plan_is_short():
    """From 2 to 3 costs 2 ms; what is saved now would be idle time."""
    bench = Bench()
    bench.promise(100, count=2).release_ns = 30 * MS
    dear(bench, 1000.0)

    assert joined(bench) is not None


def test_in_a_long_plan_growth_must_be_worth_it():
    """From 2 to 3 costs 2 ms, 1.6 requests at the full price; with one more to come it pays."""
    alone, followed = Bench(), Bench()
    for bench in (alone, followed):
        bench.promise(100, count=2).release_ns = 80 * MS
        dear(bench)
    followed.expect(0.01)  # within 80 ms one

    assert joined(alone) is None
    assert joined(alone, opening_of(worth=1.7)) is not None
    assert joined(followed) is not None


def test_nobody_joins_at_a_promises_cost():
    """2 end at 5 ms and may end at 6: with a third they would take 7."""
    bench = Bench()
    bench.promise(6, count=2)

    assert joined(bench) is None


def test_of_several_batches_the_soonest_is_joined():
    """On one executor the first with room, of all executors the first to end."""
    bench = Bench(executors=2)
    late = bench.promise(100, executor=1)
    late.release_ns = 20 * MS
    bench.promise(100, executor=1)
    soon = bench.promise(100, executor=2)

    assert joined(bench).batch is soon
    soon.release_ns = 30 * MS
    soon.place.executor.plan.changed()
    assert joined(bench).batch is late


# --- the price ------------------------------------------------------------------------------------


def test_the_price_falls_on_an_empty_plan_and_rises_on_a_full_one():
    """A thermostat: full is 1 - 0.25 - 0.03 = 0.72 of a request's 100 ms, and 10 ms passed."""
    empty, full = Bench(), Bench()
    for bench in (empty, full):
        bench.executor.price = 0.5
    full.promise(100, count=8).release_ns = 70 * MS
    for bench in (empty, full):
        requests = [bench.request(100)]
        opening_of().ran(bench.place(), requests, 10 * MS, 0)

    slo_ms = 101  # with the allowance
    assert empty.executor.price == pytest.approx(0.5 + (0.10 - 0.72) * 10 / slo_ms)
    assert full.executor.price == pytest.approx(0.5 + (0.90 - 0.72) * 10 / slo_ms)


def test_the_price_stays_between_nothing_and_all():
    """More than the densest batch can be asked of nobody, and less than nothing makes no sense."""
    empty, full = Bench(), Bench()
    full.executor.price = 1.0
    full.promise(100, count=8).release_ns = 85 * MS
    for bench in (empty, full):
        opening_of().ran(bench.place(), [bench.request(100)], 5 * MS, 0)

    assert (empty.executor.price, full.executor.price) == (0.0, 1.0)


def test_the_best_worth_follows_what_runs():
    """Prices are in shares of it: it must know of a change, but not of each model in turn."""
    bench = Bench()
    opening_of(worth=2.0).ran(bench.place(), [bench.request(100)], 5 * MS, 0)
    assert bench.executor.best_worth == pytest.approx(2 * DENSEST_PER_NS)
    opening_of(worth=1.0).ran(bench.place(), [bench.request(100)], 5 * MS, 0)

    assert bench.executor.best_worth == pytest.approx(1.9 * DENSEST_PER_NS)


@pytest.mark.parametrize(("hold_ratio", "full_ratio"), [(0.0, 0.97), (0.25, 0.72), (0.9, 0.6)])
def test_how_full_a_plan_should_be_follows_the_hold(hold_ratio, full_ratio):
    """Who is held so long must still find room."""
    assert opening_of(hold_ratio=hold_ratio).full_ratio == pytest.approx(full_ratio)


def test_places_that_are_cold_are_not_looked_at():
    """Opening knows nothing of LOADs."""
    bench = Bench()
    bench.wait(100)
    bench.place().residency = Residency.COLD
    bench.place().stop_serving()

    assert opened(bench) is None
