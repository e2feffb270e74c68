"""Clockwork's policy: the reference, with the quirks that its documentation lists."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import Decide, SendAction
from cw.core.policies import make_policy
from cw.core.policies.clockwork import BUFFER_NS
from cw.errors import ConfigError
from cw.units import MS, SECOND
from tests.unit.scheduler_world import World, zipf


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
    assert 30 * MS - BUFFER_NS == 25 * MS


def test_very_short_slos_get_a_later_deadline_than_they_asked_for():
    """Below `schedule_ahead` and the buffer together, it runs what is late when it starts."""
    world = world_of(1)
    described = world.request(world.specs[0], 3 * MS)
    world.run_until(world.now_ns + 1 * MS)
    request = world.scheduler.books.requests[described.request_id]
    hold_ns = world.scheduler.policy.hold_until_ns(request)

    assert hold_ns == described.arrival_ns + 2 * MS + BUFFER_NS > described.deadline_ns


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
    with pytest.raises(ConfigError, match="'default' or 'clockwork'"):
        make_policy(SchedulerSettings(policy="clokwork"), None)
