"""First come, first served: in order of arrival, whatever that costs; but promises hold.

A batch of 1, 2, 4, 8 takes 4.7, 5.8, 6.4, 7.7 ms.
"""

from cw import messages as m
from tests.unit.late_desks import busy_desk, riders
from tests.unit.scheduler_desk import of, sole


def test_who_came_first_goes_first_with_those_who_wait_for_the_same_model():
    """What makes it the baseline: neither deadlines nor batch sizes decide whose turn it is."""
    desk, running = busy_desk("fcfs")
    first, _ = desk.ask(400, model=1)
    urgent = [desk.ask(30, model=0)[0] for _ in range(3)]
    third, _ = desk.ask(400, model=1)
    action = sole(desk.answer(1, running), m.Infer)
    follower = sole(desk.answer(1, action, ms=5.8), m.Infer)

    assert riders(action) == [first.request_id, third.request_id]
    assert riders(follower) == [each.request_id for each in urgent]


def test_within_a_model_a_long_slo_goes_before_a_short_one_that_came_later():
    """It does not look at deadlines when it orders."""
    desk, running = busy_desk("fcfs")
    asked = [desk.ask(slo_ms)[0] for slo_ms in (400, 40, 400)]
    action = sole(desk.answer(1, running), m.Infer)

    assert riders(action) == [each.request_id for each in asked]


def test_a_batch_is_no_larger_than_its_most_urgent_rider_can_bear():
    """The death spiral of such servers: who is nearly late makes the batch small."""
    desk, running = busy_desk("fcfs")
    # Due 11 ms from now, less the margin; the lane is free in 4.7: room for 1 (9.4), not 2 (10.5).
    first, _ = desk.ask(11)
    for _ in range(7):
        desk.ask(90)
    action = sole(desk.answer(1, running), m.Infer)

    assert riders(action) == [first.request_id]


def test_nobody_is_refused_before_its_time_and_nobody_run_after_it():
    """It knows early that a request is lost, and says so late: what an early refusal is worth."""
    desk, running = busy_desk("fcfs")
    lost, commands = desk.ask(8)
    refused = of(commands, m.Refuse)
    commands = desk.answer(1, running)
    actions = of(commands, m.Infer)
    refused += of(commands, m.Refuse)
    due_ns = lost.deadline_ns - desk.scheduler.books.allowance_ns
    desk.now_ns = due_ns

    assert not refused
    assert not actions
    assert sole(desk.step(), m.Refuse).request_id == lost.request_id
