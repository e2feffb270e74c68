"""What the policies that promise late share: no promise is broken by choice, no LOAD starves."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import Decide, SendAction
from cw.core.policies import POLICIES
from cw.units import MS, SECOND
from tests.unit.late_desks import busy_desk, desk_of, riders
from tests.unit.scheduler_desk import of, sole
from tests.unit.scheduler_world import V100_MS, World, zipf

LATE = [name for name in POLICIES if name != "default"]


def world_of(policy, **changes):
    world = World(settings=SchedulerSettings(policy=policy), **changes)
    world.register()
    world.commands.clear()
    return world


@pytest.mark.parametrize("policy", LATE)
def test_nothing_is_promised_before_it_is_sent(policy):
    """Their promise is the assignment: nothing can make it untrue but the device."""
    world = world_of(policy, models=4, noise=0.0)
    world.offer(300, 2, 60 * MS)
    decisions = [each.decision for each in world.commands if isinstance(each, Decide)]

    assert any(isinstance(each, m.Assign) for each in decisions)
    assert not any(isinstance(each, m.Promise) for each in decisions)


@pytest.mark.parametrize("policy", LATE)
@pytest.mark.parametrize(("rate", "slo_ms"), [(100, 50), (700, 50), (700, 12)])
def test_no_promise_is_broken_by_choice(policy, rate, slo_ms):
    """What takes as long as estimated is kept, at any load: else they could not be compared."""
    world = world_of(policy, models=6, noise=0.0, validate=True)
    world.offer(rate, 1, slo_ms * MS, weights=zipf(6))

    assert world.outcomes.kept > 0
    assert world.outcomes.broken_promises == 0
    assert world.outcomes.kept + world.outcomes.refused.total() > 0.95 * rate * 0.8


@pytest.mark.parametrize("policy", LATE)
def test_a_lane_without_noise_answers_at_least_half_of_what_it_could(policy):
    """None of them may collapse: fifteen models at 1.4 times what the device can do."""
    world = world_of(policy, models=15, durations_ms=V100_MS)
    world.offer(1100, 2, 100 * MS)

    assert world.outcomes.kept > 0.5 * 765 * 2


@pytest.mark.parametrize("policy", LATE)
def test_who_was_promised_and_lost_its_place_goes_first(policy):
    """A promise holds whatever the policy would choose: before more urgent ones of its model."""
    desk, running = busy_desk(policy)
    for _ in range(2):
        desk.ask(60)
    promised, _ = desk.ask(300, promised=True)  # as its gateway resubmits it to a new epoch
    action = sole(desk.answer(1, running), m.Infer)

    assert riders(action) == [promised.request_id]


@pytest.mark.parametrize("policy", [name for name in LATE if name != "nexus"])
def test_loads_and_batches_take_turns_where_both_lanes_are_one(policy):
    """Under load a LOAD that waits for an idle lane waits for ever, and an INFER behind LOADs too.

    Four of six models fit in memory. Without turns 2 to 101 LOADs were ordered here; with LOADs
    always first 850 requests were kept, and less the more were asked. (Nexus loads what it plans.)
    """
    world = world_of(policy, models=6, pages=4, shared=True)
    world.offer(1000, 2, 200 * MS)
    loads = sum(
        isinstance(each, SendAction) and isinstance(each.action, m.Load) for each in world.commands
    )

    assert 150 < loads < 400
    assert world.outcomes.kept > 1100
    assert len(world.outcomes.kept_of) == 6
    assert world.outcomes.broken_promises == 0


@pytest.mark.parametrize("policy", LATE)
def test_cancelled_requests_leave_nothing_behind(policy):
    """Queues of their own must not hand out who is gone: policies are not told of ends."""
    desk = desk_of(policy)
    desk.ask(90)
    asked = [desk.ask(90)[0] for _ in range(9)]
    gone = {each.request_id for each in asked[::2]}
    for request_id in gone:
        desk.step(m.Cancel(request_id=request_id, attempt=m.Attempt(1)))
    served = []
    for _ in range(30):
        commands = desk.step()
        for executor in desk.scheduler.books.executors.values():
            while (front := executor.infer.front) is not None:
                served += [rider.request_id for rider in front.cargo.requests if rider is not None]
                desk.answer(executor.executor_id, front.action, ms=7.7)
        wake_ns = desk.scheduler.wake_at_ns
        desk.now_ns = max(desk.now_ns, wake_ns or 0)
        assert not of(commands, m.Abandon)
        if not desk.scheduler.books.waiting:
            break

    assert not gone & set(served)
    assert not desk.scheduler.books.waiting
    assert desk.now_ns < 100 * SECOND
