"""Clockwork's policy: the reference, with the quirks that its documentation lists."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import Decide, SendAction
from cw.core.policies import make_policy
from cw.core.policies.clockwork_loads import LoadTracker
from cw.core.residency import Residency
from cw.errors import ConfigError
from cw.units import MS, SECOND
from tests.unit.scheduler_desk import Desk, of, sole
from tests.unit.scheduler_world import World, zipf

SETTINGS = SchedulerSettings(policy="clockwork")


def world_of(models=1, **changes):
    world = World(models=models, settings=SchedulerSettings(policy="clockwork"), **changes)
    world.register()
    world.commands.clear()
    return world


def batches(world):
    return [
        command.action
        for command in world.commands
        if isinstance(command, SendAction)
        and isinstance(command.action, m.Infer)
        and command.action.slots  # probes have none
    ]


def test_only_full_captured_batches_are_run():
    """It never pads: three requests run as two and one."""
    world = world_of(8)
    world.offer(500, 2, 50 * MS, weights=zipf(8))

    assert batches(world)
    assert all(len(each.slots) == each.batch_size for each in batches(world))


def test_nothing_is_promised_before_it_is_dispatched():
    """Its promise is the assignment itself."""
    world = world_of(4)
    world.offer(400, 2, 50 * MS)
    decisions = [each.decision for each in world.commands if isinstance(each, Decide)]

    assert not any(isinstance(each, m.Promise) for each in decisions)
    assert world.outcomes.broken_promises == 0


def test_a_hopeless_request_is_refused_only_when_its_time_is_up():
    """There is no test at arrival: this is what the default policy's is measured against."""
    world = world_of(1)
    world.request(world.specs[0], 200 * MS)
    world.run_until(world.now_ns + 1 * MS)
    flood = [world.request(world.specs[0], 30 * MS) for _ in range(200)]
    arrived_ns = world.now_ns
    world.run_until(arrived_ns + 20 * MS)
    open_then = sum(each.request_id in world.requests for each in flood)
    world.run_until(arrived_ns + SECOND)

    assert open_then > 100
    assert world.outcomes.refused.total() > 100


def test_it_aims_at_its_buffer_before_the_slo_but_never_after_the_deadline():
    """To run what is late when it starts, as the original does, would break a promise here."""
    desk = Desk(settings=SETTINGS)
    desk.ask(50)
    desk.ask(50)
    long, _ = desk.ask(50)
    short, _ = desk.ask(7)
    policy, requests = desk.scheduler.policy, desk.scheduler.books.requests

    assert policy.hold_until_ns(requests[long.request_id]) == long.arrival_ns + 45 * MS
    assert policy.hold_until_ns(requests[short.request_id]) == (
        short.deadline_ns - desk.scheduler.books.allowance_ns
    )


def test_cold_models_are_loaded_by_demand():
    """Without LOADs of its own choosing it could not be compared on many models."""
    world = world_of(6, pages=3)
    world.offer(60, 4, 200 * MS, weights=zipf(6))

    assert world.outcomes.kept > 150
    world.scheduler.validate()


def test_it_keeps_up_with_one_overloaded_model():
    """Its strength: full batches, one after the other."""
    world = world_of(1)
    world.offer(3000, 2, 50 * MS)

    assert world.outcomes.kept > 0.95 * 2 * 1039


def test_an_unknown_policy_is_named_with_the_known_ones():
    """A misspelt policy must not silently be another."""
    with pytest.raises(ConfigError, match="default, clockwork, symphony"):
        make_policy(SchedulerSettings(policy="clokwork"), None)


# --- by hand: a batch of 1, 2, 4, 8 takes 4.7, 5.8, 6.4, 7.7 ms -----------------------------------


def busy_desk(ahead_ns=2 * MS):
    """A desk whose lane is busy for 4.7 ms: what is asked from now on waits."""
    settings = SchedulerSettings(policy="clockwork", clockwork_ahead_ns=ahead_ns)
    desk = Desk(settings=settings)
    _, commands = desk.ask(500)
    desk.answer(1, sole(commands, m.Infer))  # the pipe is known to be short from now on
    _, commands = desk.ask(500)
    return desk, sole(commands, m.Infer)


def test_the_earliest_latest_start_goes_first_raised_to_the_largest_full_batch():
    """Its order: three of the urgent model run as two and one, five of the other come after."""
    desk, running = busy_desk()
    for _ in range(5):
        desk.ask(90, model=0)
    for _ in range(3):
        desk.ask(60, model=1)
    sizes = []
    commands = desk.answer(1, running)
    while infers := of(commands, m.Infer):
        sizes += [(each.model_id, len(each.slots)) for each in infers]
        commands = [one for each in infers for one in desk.answer(1, each, ms=5.8)]

    assert sizes == [(2, 2), (2, 1), (1, 4), (1, 1)]


def test_a_long_slo_in_front_blocks_a_short_one_of_its_model():
    """The queue is in order of arrival: the quirk that deadline order mends."""
    desk, running = busy_desk()
    long, _ = desk.ask(400)
    short, _ = desk.ask(40)
    desk.ask(400)
    commands = desk.answer(1, running)
    (action,) = of(commands, m.Infer)

    assert [slot.request_id for slot in action.slots] == [long.request_id, short.request_id]


def test_who_is_too_late_for_a_batch_of_four_may_ride_in_one_of_two():
    """Feasibility is per batch size; whoever a larger batch leaves behind is lost."""
    desk, running = busy_desk()
    # The lane is free 4.7 ms from now. Due in 11 ms: in time for 2 (10.5), not for 4 (11.1).
    first, _ = desk.ask(16)
    others = [desk.ask(90)[0] for _ in range(2)]
    (action,) = of(desk.answer(1, running), m.Infer)

    assert [slot.request_id for slot in action.slots] == [first.request_id, others[0].request_id]


def test_a_larger_batch_takes_those_before_its_riders_out_of_every_queue():
    """So a head that it left behind waits for its refusal though a small batch could save it."""
    desk, running = busy_desk()
    first, _ = desk.ask(16)
    others = [desk.ask(90)[0] for _ in range(4)]
    (action,) = of(desk.answer(1, running), m.Infer)
    commands = desk.answer(1, action, ms=0.1)

    assert [slot.request_id for slot in action.slots] == [each.request_id for each in others]
    assert not of(commands, m.Infer)
    assert first.request_id in desk.scheduler.books.requests


def test_it_commits_five_milliseconds_ahead():
    """What the paper's experiments pass; later arrivals can't better what is committed."""
    desk, _ = busy_desk(SETTINGS.clockwork_ahead_ns)
    _, commands = desk.ask(90)
    _, later = desk.ask(90)

    assert of(commands, m.Infer)
    assert not of(later, m.Infer)


# --- whose weights are loaded ---------------------------------------------------------------------


def test_demand_is_device_time_weighed_by_urgency_and_ends():
    """Its loader's numbers: e C / time to the deadline, e C / w, and what copies serve of it."""
    desk, _ = busy_desk()
    books, now_ns = desk.scheduler.books, desk.now_ns
    loads = LoadTracker(books)
    model = next(iter(books.models.values()))
    executor = next(iter(books.executors.values()))
    place = model.places[executor.executor_id]
    described, _ = desk.ask(90)
    request = books.requests[described.request_id]
    place.residency, place.serves, serving = Residency.COLD, False, model.serving
    model.serving = []
    loads.arrived(request, now_ns + 85 * MS, now_ns)

    # e is 4.7 ms, w at most 25 ms: 4.7 * 100 / 25 without a copy.
    assert loads.wanted(now_ns) == {model.model_id: pytest.approx(18.8 * MS)}

    model.serving = serving
    loads.sent([request], now_ns + 10 * MS, now_ns)
    loads.arrived(request, now_ns + 85 * MS, now_ns)

    # With one copy: 2 * 4.7 * 100 / 85 = 11.06 ms weigh on it, and 1 ms: far under C.
    assert loads.wanted(now_ns) == {}


def test_demand_that_no_load_can_help_any_more_is_forgotten():
    """Only the young are loaded for: a loader that loads for all who wait loads for the lost."""
    desk, _ = busy_desk()
    books = desk.scheduler.books
    model = next(iter(books.models.values()))
    described, _ = desk.ask(90)
    model.serving = []
    loads = LoadTracker(books)
    loads.arrived(books.requests[described.request_id], described.arrival_ns + 85 * MS, desk.now_ns)

    assert loads.wanted(described.arrival_ns + 25 * MS)
    assert not loads.wanted(described.arrival_ns + 25 * MS + 1)
    assert not loads.wanted(described.arrival_ns + SECOND)
    assert not loads._demand
