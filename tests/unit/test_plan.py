"""Plans: nobody promised is hurt by a newcomer, in any order of comings."""

from hypothesis import given
from hypothesis import strategies as st

from cw.core.books import ExecutorBooks, ModelBooks, Place
from cw.core.pages import PageBooks
from cw.core.plan import PlannedBatch
from cw.core.profile import Profiles, device_key
from cw.core.timeline import PipeDelay
from cw.messages import ExecutorId
from cw.units import MS
from tests.unit.scheduler_world import CPU_MS, device, spec
from tests.unit.test_queues import request

OVERHEAD_NS = 100_000


def cluster(models=3):
    """One executor with a measured profile (4.7, 5.8, 6.4, 7.7 ms), and places on it."""
    profiles = Profiles()
    for size, ms in CPU_MS.items():
        profiles.seed("program", size, device_key(device()), [int(ms * MS)] * 3)
    executor = ExecutorBooks(
        executor_id=ExecutorId(1),
        name="executor",
        device=device(),
        pages=PageBooks(100),
        pipe=PipeDelay(2 * MS, 10 * MS),
    )
    costs = profiles.costs("program", (1, 2, 4, 8), executor.key)
    places = [Place(ModelBooks(spec(index)), executor, costs) for index in range(models)]
    return executor.plan, places


def put(plan, fit, *requests):
    batch = fit.batch
    if batch is None:
        due_ns = min(each.due_ns for each in requests)
        batch = PlannedBatch(fit.place, fit.place.costs, due_ns, fit.place.warm_ns)
        plan.insert(fit.index, batch)
        fit.place.batches.append(batch)
    for each in requests:
        batch.add(each)
    plan.changed()
    plan.walk(0, OVERHEAD_NS, 0)


def opened(plan, place, due_ns, *, count=1, followers=0):
    plan.walk(0, OVERHEAD_NS, 0)
    return plan.fit_new(place, OVERHEAD_NS, due_ns, count=count, followers=followers)


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(5, 60), st.booleans(), st.integers(0, 8)),
        max_size=40,
    )
)
def test_no_newcomer_makes_a_promise_late(newcomers):
    """The invariant behind every promise: what was feasible stays feasible."""
    plan, places = cluster()
    for number, (index, due_ms, joins, followers) in enumerate(newcomers):
        place, due_ns = places[index], due_ms * MS
        fit = None
        plan.walk(0, OVERHEAD_NS, 0)
        if joins and place.batches:
            fit = plan.fit_join(place.batches[-1], due_ns)
        if fit is None:
            fit = opened(plan, place, due_ns, followers=followers)
        if fit is not None:
            put(plan, fit, request(number, due_ns))
            assert plan.spare[0] >= 0, "a promised batch became late"
            for batch, finish_ns in zip(plan.batches, plan.finishes, strict=True):
                assert finish_ns <= min(each.due_ns for each in batch.requests)


def test_batches_run_one_after_the_other():
    """Two batches at once on a lane would each take twice as long."""
    plan, places = cluster()
    put(plan, opened(plan, places[0], 50 * MS), request(1, 50 * MS))
    put(plan, opened(plan, places[1], 60 * MS), request(2, 60 * MS))

    assert plan.finishes == [int(4.8 * MS), int(9.6 * MS)]
    assert plan.spare[0] == 50 * MS - int(4.8 * MS)


def test_the_more_urgent_goes_first():
    """Due order keeps all promises whenever any order does."""
    plan, places = cluster()
    put(plan, opened(plan, places[0], 50 * MS), request(1, 50 * MS))
    put(plan, opened(plan, places[1], 20 * MS), request(2, 20 * MS))

    assert [batch.place for batch in plan.batches] == [places[1], places[0]]


def test_a_full_plan_takes_nobody():
    """The answer then is a refusal at once, not a late answer."""
    plan, places = cluster()
    put(plan, opened(plan, places[0], 9 * MS), request(1, 9 * MS))

    assert opened(plan, places[1], 9 * MS) is None


def test_joining_into_padding_costs_nothing():
    """Three already run as four: the fourth is free, even where every nanosecond is promised."""
    plan, places = cluster()
    requests = [request(number, int(6.5 * MS)) for number in range(3)]
    put(plan, opened(plan, places[0], int(6.5 * MS), count=3), *requests)
    fit = plan.fit_join(places[0].batches[0], 20 * MS)

    assert fit.price_ns == 0
    assert fit.finish_ns == int(6.5 * MS)


def test_growth_is_refused_where_it_would_make_others_late():
    """A denser batch is no excuse to break the promise behind it."""
    plan, places = cluster()
    put(plan, opened(plan, places[0], 40 * MS), request(1, 40 * MS))
    put(plan, opened(plan, places[1], 41 * MS), request(2, 41 * MS))
    for batch in plan.batches:
        batch.due_ns = plan.finishes[-1]
    plan.changed()
    plan.walk(0, OVERHEAD_NS, 0)

    assert plan.fit_join(places[0].batches[0], 60 * MS) is None


def test_a_new_batch_is_priced_by_those_who_will_follow():
    """Alone it costs 4.8 ms; with seven more to come, a tenth of a full batch each."""
    plan, places = cluster()

    assert opened(plan, places[0], 50 * MS).price_ns == int(4.8 * MS)
    assert opened(plan, places[0], 50 * MS, followers=7).price_ns == int(7.8 * MS) / 8


def test_growth_that_has_no_room_is_not_hoped_for():
    """A plan that always admits what just fits keeps its batches small for ever."""
    plan, places = cluster()
    fit = opened(plan, places[0], 6 * MS, followers=7)

    assert fit.price_ns == int(5.9 * MS) / 2


def test_what_is_not_loaded_yet_lets_others_go_first():
    """A cold start's wait costs the lane nothing."""
    plan, places = cluster()
    places[0].warm_ns = 10 * MS
    put(plan, opened(plan, places[1], 60 * MS), request(1, 60 * MS))
    put(plan, opened(plan, places[0], 30 * MS), request(2, 30 * MS))

    assert [batch.place for batch in plan.batches] == [places[1], places[0]]
    assert plan.finishes[-1] == 10 * MS + int(4.8 * MS)


def test_an_empty_plan_can_spare_anything():
    """PREPAREs and LOADs ask this before they take a lane."""
    plan, _ = cluster()

    assert plan.least_spare_ns(0, OVERHEAD_NS, 0) > 10**15


def test_due_time_follows_those_who_ride():
    """A rider that left must not keep hurrying its batch; a more urgent one must hurry it."""
    _, places = cluster()
    batch = PlannedBatch(places[0], places[0].costs, 9 * MS, 0)
    early, late = request(1, 5 * MS), request(2, 9 * MS)
    batch.add(late)
    batch.add(early)
    assert batch.due_ns == 5 * MS
    batch.remove(early)

    assert batch.due_ns == 9 * MS
