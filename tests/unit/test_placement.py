"""Placement: LOADs save what can be saved, and never cost a promise its weights."""

from cw import messages as m
from cw.core.commands import SendAction
from cw.core.residency import Residency
from cw.units import MS, SECOND
from tests.unit.scheduler_world import CPU_MS, V100_MS, World, zipf


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
