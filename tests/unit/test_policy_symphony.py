"""Symphony: the target batch, who is gathered and who dropped, and how long a batch is put off.

On the desk a batch of 1, 2, 4, 8 takes 4.7, 5.8, 6.4, 7.7 ms.
"""

import pytest

from cw import messages as m
from cw.core.policies.symphony import JITTER_NS, PERIOD_NS, TargetBatch, gather
from cw.units import MS, US
from tests.unit.late_desks import desk_of, place_of, riders
from tests.unit.scheduler_desk import of, sole

LINEAR_MS = [2 + count for count in range(1, 17)]
"""l(b) = b + 2 ms."""


def target_of(rate_rps, budget_ms):
    target = TargetBatch()
    count = int(rate_rps * PERIOD_NS / 1e9)
    for _ in range(count):
        target.count(now_ns=0)
    return target.size(place_of(LINEAR_MS), int(budget_ms * MS), now_ns=PERIOD_NS - 1)


@pytest.mark.parametrize(
    ("rate_rps", "budget_ms", "size"),
    [
        # b / r + b + 2 <= 50 with 1 / r = 10 ms: b = 4 (46 ms).
        (100, 50, 4),
        # 1 / r = 5 ms: 6 b + 2 <= 50, b = 8.
        (200, 50, 8),
        # r = 2/ms: n = 2 (b + 2) / b devices, so l (1 + 1/n) = b + 2 + b / 2 <= 20: b = 12.
        (2000, 20, 12),
        # The same without staggering would be 2 (b + 2) <= 20: b = 8.
        # No time for more than one.
        (100, 10, 1),
    ],
)
def test_the_target_batch_follows_the_rate(rate_rps, budget_ms, size):
    """Its heart: below one device's worth a batch must fill, above it devices are staggered."""
    assert target_of(rate_rps, budget_ms) == size


def test_the_rate_is_forgotten_with_its_periods():
    """A burst of five seconds ago must not keep the target up."""
    target = TargetBatch()
    for _ in range(100):
        target.count(now_ns=0)
    place = place_of(LINEAR_MS)

    assert target.size(place, 50 * MS, now_ns=0) == 16
    assert target.size(place, 50 * MS, now_ns=101 * PERIOD_NS) == 1


def test_heads_that_would_make_the_batch_small_are_dropped():
    """Three of four make the target in time without the first: it is given up for them."""
    # A batch of 2 starting at 0 ends at 4, of 3 at 5, of 4 at 6.
    found = gather(place_of(LINEAR_MS, [3, 9, 9, 9]), 3, 0)

    assert [each.request_id for each in found.dropped] == [0]
    assert [each.request_id for each in found.riders] == [1, 2, 3]


def test_a_head_that_the_target_batch_can_serve_rides_first():
    """Set aside for what all would take, but not for what will run: only the rest waits."""
    # All four would end at 6; the target of 2 ends at 4, in time for the first.
    found = gather(place_of(LINEAR_MS, [4, 9, 9, 9]), 2, 0)

    assert found.dropped == []
    assert [each.request_id for each in found.riders] == [0, 1]


def test_a_batch_grows_beyond_its_target_while_that_is_free():
    """Those who can ride along at nobody's cost do, whatever the target says."""
    # The first is due at 6: four end at 6, five at 7.
    found = gather(place_of(LINEAR_MS, [6, 9, 9, 9, 9]), 1, 0)

    assert [each.request_id for each in found.riders] == [0, 1, 2, 3]


def test_a_lone_request_waits_until_another_would_make_it_late():
    """Deferral: an idle device does not run what can still grow; the timer must ring for it."""
    desk = desk_of("symphony")
    asked, commands = desk.ask(50)
    due_ns = asked.deadline_ns - desk.scheduler.books.allowance_ns
    early = of(commands, m.Infer)
    desk.now_ns = desk.scheduler.wake_at_ns
    action = sole(desk.step(), m.Infer)

    assert not early
    assert riders(action) == [asked.request_id]
    assert abs(desk.now_ns - (due_ns - JITTER_NS - int(5.8 * MS))) < 100 * US


def test_it_goes_earlier_the_larger_it_is_and_at_once_when_it_is_full():
    """A third rider would take longer than a second, so two wait less than one."""
    desk = desk_of("symphony")
    first, _ = desk.ask(50)
    desk.ask(50)
    due_ns = first.deadline_ns - desk.scheduler.books.allowance_ns
    wake_ns = desk.scheduler.wake_at_ns
    for _ in range(5):
        desk.ask(50)
    _, commands = desk.ask(50)

    assert abs(wake_ns - (due_ns - JITTER_NS - int(6.4 * MS))) < 100 * US
    assert len(sole(commands, m.Infer).slots) == 8


def test_of_two_that_fall_due_together_one_device_serves_the_more_urgent():
    """And the other is lost: what deferral costs where there is nobody to stagger with."""
    desk = desk_of("symphony")
    second, _ = desk.ask(50.2, model=0)
    first, _ = desk.ask(50, model=1)
    desk.now_ns = second.deadline_ns - desk.scheduler.books.allowance_ns - int(5.8 * MS)
    action = sole(desk.step(), m.Infer)
    commands = desk.answer(1, action)

    assert riders(action) == [first.request_id]
    assert [each.request_id for each in of(commands, m.Refuse)] == [second.request_id]


def test_of_idle_devices_the_first_is_granted():
    """Load shows in how many devices work, not in how much each does."""
    desk = desk_of("symphony", executors=2)
    asked = [desk.ask(50, model=model)[0] for model in (0, 1)]
    due_ns = asked[0].deadline_ns - desk.scheduler.books.allowance_ns
    desk.now_ns = due_ns - JITTER_NS - int(5.8 * MS)
    sent = [(each.executor_id, riders(each.action)) for each in infers_of(desk.step())]
    desk.now_ns += 50 * US
    sent += [(each.executor_id, riders(each.action)) for each in infers_of(desk.step())]

    assert sent == [(1, [asked[0].request_id]), (2, [asked[1].request_id])]


def infers_of(commands):
    return [each for each in commands if isinstance(getattr(each, "action", None), m.Infer)]
