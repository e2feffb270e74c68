"""Placement: LOADs save what can be saved, and never cost a promise its weights."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core import admission, placement
from cw.core.books import Stage
from cw.core.commands import SendAction
from cw.core.events import RequestArrived
from cw.core.residency import Residency
from cw.units import MS, SECOND
from tests.unit.scheduler_world import CPU_MS, V100_MS, World, descriptor, zipf


def orders(world, *kinds):
    return [
        command.action
        for command in world.commands
        if isinstance(command, SendAction) and isinstance(command.action, kinds)
    ]


def test_pages_are_freed_before_they_are_claimed():
    """The executor carries out orders in order: a LOAD before its UNLOAD finds no pages."""
    world = World(models=3, pages=2)
    world.register()
    world.commands.clear()
    world.offer(60, 3, 200 * MS)

    held = set()
    for action in orders(world, m.Load, m.Unload):
        if isinstance(action, m.Unload):
            held.discard(action.model_id)
        else:
            held.add(action.model_id)
            assert len(held) <= 2
    assert world.outcomes.kept > 100
    assert world.outcomes.broken_promises == 0


def test_weights_under_promised_work_are_never_unloaded():
    """A promise whose weights are taken away is broken by our own hand."""
    world = World(models=6, pages=2, validate=True)
    world.register()
    world.commands.clear()
    world.offer(120, 2, 60 * MS, weights=zipf(6))

    assert world.outcomes.abandoned.total() == 0
    assert world.outcomes.broken_promises == 0


def test_popular_models_stay():
    """Reloading what everybody asks for would fill the bus with the same bytes."""
    world = World(models=12, pages=6)
    world.register()
    world.offer(150, 4, 60 * MS, weights=zipf(12, 1.5))
    books = world.scheduler.books
    warm = [
        model.spec.name
        for model in books.models.values()
        if any(place.residency is Residency.WARM for place in model.places.values())
    ]

    assert {"model-0", "model-1"} <= set(warm)


def test_loading_at_overload_still_serves():
    """A loader that fetches what is already lost serves a quarter of what it could."""
    world = World(models=60, pages=70, image_bytes=102_000_000, durations_ms=V100_MS)
    world.register()
    arrivals = world.offer(300, 4, 100 * MS)
    loads = 4 * SECOND / (102_000_000 * SECOND / 12_300_000_000)  # as many as the bus can carry

    assert len(arrivals) > 1000
    assert world.outcomes.kept > 0.6 * loads
    assert world.outcomes.broken_promises == 0


def test_a_model_that_is_too_much_for_one_executor_gets_a_second():
    """Executors beside an overloaded one would idle."""
    world = World(models=2, executors=2, durations_ms=CPU_MS)
    world.register()
    world.offer(1500, 3, 50 * MS, weights=[1, 0])
    model = world.scheduler.books.models[world.specs[0].model_id]

    assert len(model.serving) == 2
    assert min(world.busy_ns[m.ExecutorId(number)] for number in (1, 2)) > SECOND


def test_on_a_shared_lane_a_load_waits_for_promises():
    """On a CPU a LOAD takes the lane that the promised batches need."""
    world = World(models=8, pages=24, image_bytes=120 << 20, shared=True, durations_ms=CPU_MS)
    world.register()
    world.offer(60, 4, 100 * MS, weights=zipf(8))

    assert orders(world, m.Load)
    assert world.outcomes.kept > 100
    assert world.outcomes.broken_promises == 0


def test_what_is_refused_for_being_cold_is_loaded_for_the_next():
    """When nobody has time to wait for a LOAD, a loader that only saves leaves all models cold."""
    world = World(models=15, pages=200, image_bytes=102_000_000, durations_ms=V100_MS)
    world.register()
    arrivals = world.offer(200, 3, 10 * MS)  # a LOAD takes 8.3 ms and the first batch 2.6

    assert world.outcomes.kept > 0.9 * len(arrivals)
    assert world.outcomes.broken_promises == 0


def test_missed_models_do_not_push_each_other_out():
    """Pages that change hands at every refusal serve nobody."""
    world = World(models=40, pages=70, image_bytes=102_000_000, durations_ms=V100_MS)
    world.register()
    world.commands.clear()
    world.offer(200, 4, 10 * MS, weights=zipf(40, 1.2))

    assert len(orders(world, m.Load)) < 150  # the bus could carry 480
    assert world.outcomes.kept > 300


# --- which executor -------------------------------------------------------------------------------

HUNDRED_MB = {"pages": 200, "image_bytes": 102_000_000, "durations_ms": V100_MS}


def cold_cluster(*, models=12, executors=4, places=16, **changes):
    """Every model is ready, and nobody's weights are on a device."""
    world = World(
        models=models,
        executors=executors,
        settings=SchedulerSettings(places_per_model=places, probes_measured=2),
        **{**HUNDRED_MB, **changes},
    )
    world.register()
    world.run_until(world.now_ns + 10 * SECOND)
    scheduler = world.scheduler
    for executor in scheduler.books.executors.values():
        for model_id in executor.pages.holders():
            scheduler.dispatcher.unload(executor, model_id)
    scheduler.dispatcher.take_commands()
    world.commands.clear()
    return world


def ask(world, *indexes, slo_ns=100 * MS):
    """Let requests arrive in one step; return the LOADs that it orders, by executor."""
    arrived = [
        RequestArrived(
            descriptor=descriptor(
                next(world.sequence) + 1000, world.specs[index], world.now_ns, slo_ns
            )
        )
        for index in indexes
    ]
    return [
        (command.executor_id, command.action.model_id)
        for command in world.scheduler.handle(*arrived, now_ns=world.now_ns)
        if isinstance(command, SendAction) and isinstance(command.action, m.Load)
    ]


def test_models_asked_for_together_are_loaded_side_by_side():
    """One executor must not load for all of them, one after the other, beside idle ones."""
    loads = ask(cold_cluster(), 0, 1, 2, 3)

    assert len({executor_id for executor_id, _ in loads}) == 4
    assert len({model_id for _, model_id in loads}) == 4


def test_a_load_goes_where_its_lane_is_free():
    """Behind another LOAD it would end 8 ms later."""
    world = cold_cluster(executors=3)
    ((first, _),) = ask(world, 0)
    ((second, _),) = ask(world, 1)

    assert first != second


def test_loads_that_are_waited_for_are_ordered_ahead_but_not_by_much():
    """A request is promised when its LOAD is on its way; a lane full of LOADs keeps others out."""
    world = cold_cluster(executors=1)
    loads = ask(world, *range(12))

    # Each takes 8.3 ms, and half of what 100 ms leave beside a LOAD and a batch is filled.
    assert len(loads) == 6
    assert len(ask(cold_cluster(executors=1), *range(12), slo_ns=40 * MS)) == 2


def test_what_can_not_be_saved_is_not_loaded_for():
    """Under overload a loader that fetches for the lost has nothing left for the others."""
    world = cold_cluster(executors=1)
    books = world.scheduler.books
    (executor,) = books.executors.values()
    ask(world, *range(12))
    executor.load.outstanding.clear()
    assert placement.next_load(books, executor, now_ns=world.now_ns + 80 * MS) is not None
    # A LOAD takes 8.3 ms, the batch 2.6 ms, and each way 1 ms.
    assert placement.next_load(books, executor, now_ns=world.now_ns + 92 * MS) is None
    assert not executor.wanted  # it is not looked at again


def test_of_those_who_wait_only_the_savable_count():
    """Two that are lost are worth less than one that is not."""
    world = cold_cluster(executors=1)
    ask(world, *range(12))
    ask(world, 8, 8, 9)
    books = world.scheduler.books
    (executor,) = books.executors.values()
    for request in list(books.models[world.specs[8].model_id].queue)[:2]:
        request.due_ns -= 60 * MS
    executor.load.outstanding.clear()
    chosen = placement.next_load(books, executor, now_ns=world.now_ns + 40 * MS)

    assert chosen.model.spec is world.specs[9]


def test_most_saved_comes_first_and_promised_before_all():
    """A LOAD costs the same for one as for two; and a promise must find its weights again."""
    world = cold_cluster(executors=1)
    books = world.scheduler.books
    (executor,) = books.executors.values()
    ask(world, *range(12))
    ask(world, 9)
    later_ns = world.now_ns + 10 * MS
    assert placement.next_load(books, executor, now_ns=later_ns).model.spec is world.specs[9]

    books.models[world.specs[10].model_id].open = 1
    assert placement.next_load(books, executor, now_ns=later_ns).model.spec is world.specs[10]


def test_only_so_many_are_looked_at(monkeypatch):
    """With thousands waiting a decision must not take longer than what it decides about."""
    monkeypatch.setattr(placement, "MODELS_LOOKED_AT", 2)
    world = cold_cluster(executors=1)
    ask(world, *range(12))
    ask(world, 9)
    books = world.scheduler.books
    (executor,) = books.executors.values()
    chosen = placement.next_load(books, executor, now_ns=world.now_ns + 10 * MS)

    assert chosen.model.spec is not world.specs[9]


def test_a_cold_model_whose_executors_are_busy_is_made_known_elsewhere():
    """Its few executors may be those that everybody wants; others idle."""
    world = cold_cluster(executors=4, places=1, models=40)
    busy = next(iter(world.scheduler.books.executors.values()))
    there = [
        index
        for index, model in enumerate(world.scheduler.books.models.values())
        if busy.executor_id in model.places
    ]
    ask(world, *there, slo_ns=60 * MS)
    known = [len(model.places) for model in world.scheduler.books.models.values()]

    assert max(known) == 2
    # A PREPARE that is under way must end first: one model at a time to an executor.
    assert sum(known) - len(known) <= 3


def test_of_many_places_a_few_are_looked_at_in_turn():
    """A model known on hundreds of executors must not cost hundreds of looks a request."""
    world = cold_cluster(executors=20, places=20, models=2)
    model = world.scheduler.books.models[world.specs[0].model_id]
    first = placement._in_turn(model, list(model.places.values()))
    second = placement._in_turn(model, list(model.places.values()))

    assert len(first) == len(second) == admission.PLACES_LOOKED_AT
    assert not set(map(id, first)) & set(map(id, second))


# --- whose pages ----------------------------------------------------------------------------------


@pytest.fixture
def full():
    """One executor whose pages all hold weights that nobody uses, and a cold place."""
    world = cold_cluster(executors=1, models=4, pages=21)
    (executor,) = world.scheduler.books.executors.values()
    places = list(executor.places.values())
    for number, place in enumerate(places):
        place.model.popularity.use(now_ns=world.now_ns + number * SECOND)
    for place in places[:3]:
        world.scheduler.dispatcher.load(place, world.now_ns)
        place.in_flight, place.residency = 0, Residency.WARM
    executor.load.outstanding.clear()
    return world.scheduler.books, executor, places


def test_the_least_popular_gives_way(full):
    """Whoever is asked for most often is asked for next."""
    books, _, places = full
    assert placement.choose_victims(books, places[3]) == [places[0].model.model_id]


def test_what_is_on_its_way_or_measured_does_not_give_way(full):
    """Pages of a LOAD or a probe under way can't be taken."""
    books, _, places = full
    places[0].residency = Residency.LOADING
    places[1].stage = Stage.PROBING
    assert placement.choose_victims(books, places[3]) == [places[2].model.model_id]


def test_of_equals_a_replica_gives_way(full):
    """Its model stays warm elsewhere: that is worth less than the only copy."""
    books, _, places = full
    for place in places[:3]:
        place.model.popularity.key = 100.0
    places[1].model.serving = [places[1], places[1]]
    assert placement.choose_victims(books, places[3]) == [places[1].model.model_id]


def test_where_nothing_can_be_freed_nothing_is_loaded(full):
    """Better a model stays cold than a promise loses its weights."""
    books, executor, places = full
    for place in places[:3]:
        place.in_flight = 1
    assert placement.choose_victims(books, places[3]) is None
    executor.missed[places[3].model.model_id] = places[3]
    places[3].model.missed_ns = 10 * SECOND
    assert placement.next_load(books, executor, now_ns=10 * SECOND) is None


def test_what_was_missed_long_ago_or_is_warm_by_now_is_not_loaded(full):
    """The reason is gone; the pages would be."""
    books, executor, places = full
    executor.missed = {place.model.model_id: place for place in (places[0], places[3])}
    places[3].model.missed_ns = 0
    assert placement.next_load(books, executor, now_ns=10 * SECOND) is None
    assert not executor.missed


def test_a_replica_that_is_wanted_no_more_is_left_out(full):
    """The crowd has gone: its replica would push out what is asked for now."""
    books, executor, places = full
    now_ns = 100 * SECOND
    executor.short = {place.model.model_id: place for place in (places[0], places[3])}
    places[3].model.asked_ns = now_ns - placement.SHORT_NS - 1
    assert placement.next_load(books, executor, now_ns=now_ns) is None
    assert not executor.short


def test_of_many_missed_only_some_are_looked_at(full, monkeypatch):
    """A refusal is cheap; what is remembered of thousands must be as well."""
    monkeypatch.setattr(placement, "MODELS_LOOKED_AT", 1)
    books, executor, places = full
    executor.missed = {place.model.model_id: place for place in (places[0], places[3])}
    places[3].model.missed_ns = 100 * SECOND
    places[3].model.popularity.key += 5

    assert placement.next_load(books, executor, now_ns=100 * SECOND) is None
    assert list(executor.missed) == [places[3].model.model_id]
    assert placement.next_load(books, executor, now_ns=100 * SECOND) is places[3]


def warm_places(world, number):
    """Count the executors that hold a model's weights."""
    model = world.scheduler.books.models[world.specs[number].model_id]
    return sum(place.residency is Residency.WARM for place in model.places.values())


def test_idle_pages_take_replicas():
    """A lane without a model's weights can't be chosen for it, however idle it is."""
    world = World(models=2, executors=3, pages=16)
    world.register()
    world.offer(100, 1, 60 * MS)

    assert warm_places(world, 1) == 3
    assert world.outcomes.broken_promises == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"shared": True},  # a LOAD would take lane time from somebody
        {"settings": SchedulerSettings(hold_ratio=0.25)},  # early batches would scatter
    ],
)
def test_replicas_that_cost_something_are_not_for_idle_pages(changes):
    """What nobody needs must cost nobody anything."""
    world = World(**{"models": 2, "executors": 3, "pages": 16, **changes})
    world.register()
    world.offer(20, 1, 60 * MS)

    assert warm_places(world, 1) == 1
