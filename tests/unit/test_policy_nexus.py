"""Nexus: squishy bin packing by hand, whose turn it is, and early drop.

On the desk a batch of 1, 2, 4, 8 takes 4.7, 5.8, 6.4, 7.7 ms.
"""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.events import ExecutorLost
from cw.core.policies.squishy import Session, pack
from cw.units import MS, SECOND
from tests.unit.late_desks import busy_desk, riders
from tests.unit.scheduler_desk import of, sole
from tests.unit.scheduler_world import World


def session(number, rate_rps, budget_ms, costs_ms=None, pages=1):
    costs_ms = costs_ms or [2 + count for count in range(1, 17)]  # l(b) = b + 2 ms
    return Session(
        model_id=m.ModelId(number),
        rate_per_ns=rate_rps / SECOND,
        budget_ns=int(budget_ms * MS),
        costs_ns=[int(ms * MS) for ms in (0, *costs_ms)],
        pages=pages,
    )


def plan(*sessions, devices=2, pages=10):
    return [
        (node.duty_ns / MS, {int(key): count for key, count in node.batches.items()})
        for node in pack(sessions, devices=devices, pages=pages)
    ]


def test_what_fills_a_device_gets_it_at_twice_the_batch_within_the_slo():
    """A request that just missed a batch waits for one and rides in the next."""
    # 2 (b + 2) <= 24: b = 10, 12 ms, 833 requests/s. Of 1,000 a sixth is left, one in 6 ms: three
    # take 18 ms to gather and 5 to run.
    assert plan(session(1, 1000, 24)) == [(12, {1: 10}), (18, {1: 3})]
    assert plan(session(1, 1000, 24), devices=1) == [(12, {1: 10})]


@pytest.mark.parametrize(("rate_rps", "batch", "duty_ms"), [(100, 4, 40), (200, 8, 40), (1, 1, 47)])
def test_what_is_left_gathers_as_long_as_its_slo_allows(rate_rps, batch, duty_ms):
    """b / r + l(b) <= SLO: the larger the batch, the longer it takes to gather."""
    assert plan(session(1, rate_rps, 50)) == [(duty_ms, {1: batch})]


def test_sessions_share_a_device_in_the_shorter_of_their_cycles():
    """Squishy: the batch of the one with the longer cycle shrinks to what comes in the shorter."""
    # Alone: 1 has 4 in 40 ms (6 ms of work), 2 has 10 in 100 ms (12 ms). In 40 ms: 4 and 4.
    assert plan(session(1, 100, 50), session(2, 100, 112)) == [(40, {1: 4, 2: 4})]


def test_what_does_not_fit_takes_another_device_and_is_squeezed_in_when_there_is_none():
    """Devices are given here: a cycle that takes too long leaves the rest to early drop."""
    busy = [session(number, 200, 30) for number in range(1, 6)]  # 4 in 20 ms: 6 ms of work each

    assert [len(batches) for _, batches in plan(*busy)] == [3, 2]
    assert [len(batches) for _, batches in plan(*busy, devices=1)] == [5]


def test_a_model_that_no_memory_is_left_for_is_in_no_plan():
    """Its requests are refused: the price of a plan that is made before they come."""
    nodes = plan(session(1, 100, 50, pages=6), session(2, 50, 50, pages=6), devices=1)

    assert nodes == [(40, {1: 4})]


def test_batches_that_cost_as_much_as_a_larger_one_are_not_planned():
    """A device that runs 1, 2 and 4 takes as long for 3 as for 4."""
    padded = session(1, 100, 45, costs_ms=[3, 4, 6, 6])

    assert padded.sizes == [1, 2, 4]
    assert padded.padded(3) == 4


def test_models_take_turns():
    """A duty cycle, not urgency, says who is next."""
    desk, running = busy_desk("nexus")
    for _ in range(3):
        desk.ask(90, model=1)
        desk.ask(60, model=0)
    commands, turns = desk.answer(1, running), []
    while infers := of(commands, m.Infer):
        turns.append(infers[0].model_id)
        for _ in range(2 if len(turns) < 3 else 0):
            desk.ask(60, model=turns[-1] - 1)
        commands = desk.answer(1, infers[0], ms=6.4)

    assert turns == [2, 1, 2, 1]


def test_heads_that_a_full_window_cannot_serve_are_dropped():
    """Early drop: a full batch of those behind is worth more than one of the oldest."""
    desk, running = busy_desk("nexus")
    # The lane is free in 4.7 ms; a window of 8 ends at 12.4: too late for the first, who is due
    # in 11 ms less the margin and alone would have been in time.
    lost, _ = desk.ask(11)
    others = [desk.ask(90)[0] for _ in range(8)]
    commands = desk.answer(1, running)

    assert riders(sole(commands, m.Infer)) == [each.request_id for each in others]
    assert [each.request_id for each in of(commands, m.Refuse)] == [lost.request_id]


def test_rates_decide_after_a_while_and_a_lost_device_is_planned_around():
    """A plan for executors that are no more would refuse a part of the models for seconds."""
    world = World(models=6, executors=2, settings=SchedulerSettings(policy="nexus"))
    world.register()
    world.offer(400, 3, 60 * MS)
    world.scheduler.validate()
    cycles = world.scheduler.policy._cycles
    before = {key: len(cycle.order) for key, cycle in cycles.items()}
    world.silent.add(2)
    world.feed(ExecutorLost(executor_id=m.ExecutorId(2)))
    kept = world.outcomes.kept
    world.offer(150, 2, 60 * MS)
    after = world.scheduler.policy._cycles

    assert set(before) == {1, 2}
    assert all(before.values())
    assert set(after) == {1}
    assert len(after[m.ExecutorId(1)].order) == 6
    assert world.outcomes.kept - kept > 0.9 * 150 * 2
