"""Shepherd's Flex: the largest batch that can still be in time, of whatever model.

A batch of 1, 2, 4, 8 takes 4.7, 5.8, 6.4, 7.7 ms.
"""

from cw import messages as m
from tests.unit.late_desks import busy_desk, riders
from tests.unit.scheduler_desk import of, sole


def test_the_largest_batch_goes_first_whoever_came_before():
    """Requests per device time are what it maximises: three go before one that is as urgent."""
    desk, running = busy_desk("shepherd")
    one, _ = desk.ask(90, model=1)
    three = [desk.ask(90, model=0)[0] for _ in range(3)]
    action = sole(desk.answer(1, running), m.Infer)
    follower = sole(desk.answer(1, action, ms=6.4), m.Infer)

    assert riders(action) == [each.request_id for each in three]
    assert riders(follower) == [one.request_id]


def test_of_equally_large_batches_the_most_urgent_goes_first():
    """Deadlines decide where sizes do not."""
    desk, running = busy_desk("shepherd")
    for _ in range(2):
        desk.ask(90, model=0)
    urgent = [desk.ask(40, model=1)[0] for _ in range(2)]
    action = sole(desk.answer(1, running), m.Infer)

    assert riders(action) == [each.request_id for each in urgent]


def test_only_what_is_feasible_counts_as_large():
    """Eight who could ride only in a late batch count as the one who can be in time."""
    desk, running = busy_desk("shepherd")
    # Due in 11 ms less the margin, the lane is free in 4.7: room for 1, not for 2.
    for _ in range(8):
        desk.ask(11, model=0)
    two = [desk.ask(90, model=1)[0] for _ in range(2)]
    action = sole(desk.answer(1, running), m.Infer)

    assert riders(action) == [each.request_id for each in two]


def test_who_cannot_be_in_time_is_dropped_when_a_batch_is_chosen():
    """A head that is lost must not make the batches of those behind it small."""
    desk, running = busy_desk("shepherd")
    lost, _ = desk.ask(8)
    others = [desk.ask(90)[0] for _ in range(4)]
    commands = desk.answer(1, running)

    assert riders(sole(commands, m.Infer)) == [each.request_id for each in others]
    assert [each.request_id for each in of(commands, m.Refuse)] == [lost.request_id]
