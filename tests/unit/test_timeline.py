"""Timelines: predictions give way to measurements, and silence does not stop the clock."""

from cw.core.timeline import BusyShare, Committed, Lane, PipeDelay
from cw.messages import ActionId, Load, ModelId, Window
from cw.units import MS, SECOND


def committed(number, *, sent_ns=0, ready_ns=0, start_ns=0, busy_ns=5 * MS):
    action = Load(
        action_id=ActionId(number),
        model_id=ModelId(1),
        planned_start_ns=start_ns,
        expected_ns=busy_ns,
        window=Window(earliest_ns=0, latest_ns=start_ns),
    )
    return Committed(
        action=action,
        sent_ns=sent_ns,
        ready_ns=ready_ns,
        start_ns=start_ns,
        busy_ns=busy_ns,
        latest_ns=start_ns,
        cargo=None,
    )


def test_a_lane_is_free_when_its_last_action_ends():
    """Every promise behind it starts from this instant."""
    lane = Lane()
    lane.commit(committed(1))
    lane.commit(committed(2, start_ns=5 * MS))

    assert lane.free_ns(now_ns=0) == 10 * MS


def test_an_early_end_moves_what_stands_behind_it():
    """Work that takes less than its estimate makes room at once, or goodput is given away."""
    lane = Lane()
    lane.commit(committed(1))
    lane.commit(committed(2, start_ns=5 * MS))
    lane.finish(ActionId(1), start_ns=0, end_ns=3 * MS)

    assert lane.free_ns(now_ns=3 * MS) == 8 * MS


def test_what_waits_does_not_move_before_it_is_there():
    """A lane that falls idle early still waits for the next action's inputs."""
    lane = Lane()
    lane.commit(committed(1))
    lane.commit(committed(2, sent_ns=2 * MS, ready_ns=4 * MS, start_ns=5 * MS))
    lane.finish(ActionId(1), start_ns=0, end_ns=1 * MS)

    assert lane.free_ns(now_ns=3 * MS) == 9 * MS


def test_a_late_result_delays_the_prediction_with_the_clock():
    """Until the stalled action ends nothing behind it can be on time; planning must know that."""
    lane = Lane()
    lane.commit(committed(1))
    lane.commit(committed(2, start_ns=5 * MS))

    assert lane.free_ns(now_ns=6 * MS, return_ns=1 * MS) == 10 * MS
    assert lane.free_ns(now_ns=9 * MS, return_ns=1 * MS) == 13 * MS


def test_results_may_come_in_any_order():
    """Results of two lanes' threads race; none may be lost or counted twice."""
    lane = Lane()
    lane.commit(committed(1))
    lane.commit(committed(2, start_ns=5 * MS))

    assert lane.finish(ActionId(2), start_ns=0, end_ns=5 * MS) is not None
    assert lane.finish(ActionId(2), start_ns=0, end_ns=5 * MS) is None
    assert lane.finish(ActionId(9), start_ns=0, end_ns=5 * MS) is None
    # The other one is still out, and can't have run while this one did.
    assert lane.free_ns(now_ns=0) == 10 * MS


def test_silence_ends_after_a_bound():
    """An executor that is alive but lost an action must not hold its promises for ever."""
    lane = Lane()
    lane.commit(committed(1))

    assert lane.overdue(now_ns=1 * SECOND) is None
    assert lane.overdue(now_ns=2 * SECOND) is not None


def test_the_share_of_busy_time_forgets():
    """Utilisation is of the last seconds: an idle executor must not look busy."""
    busy = BusyShare()
    for second in range(4):
        busy.add(second * SECOND, second * SECOND + SECOND // 2)

    assert 0.3 < busy.share(now_ns=4 * SECOND) < 0.7
    assert busy.share(now_ns=60 * SECOND) < 0.05


def test_a_slow_pipe_raises_the_lead_up_to_its_bound():
    """Committed too late, a lane idles; committed too early, the plan is frozen."""
    pipe = PipeDelay(2 * MS, 10 * MS)
    assert pipe.lead_ns == 2 * MS
    for _ in range(10):
        pipe.learn_ready(sent_ns=0, ready_ns=4 * MS)
    assert pipe.lead_ns == pipe.delay_ns == 4 * MS
    for _ in range(100):
        pipe.learn_ready(sent_ns=0, ready_ns=40 * MS)

    assert pipe.lead_ns == 10 * MS


def test_the_pipe_learns_overhead_and_return():
    """What a lane is held beyond the device's own time is in every plan."""
    pipe = PipeDelay(2 * MS, 10 * MS)
    for _ in range(5):
        pipe.learn_overhead(300_000)
        pipe.learn_back(end_ns=0, now_ns=2 * MS)

    assert pipe.overhead_ns == 300_000
    assert pipe.return_ns == 2 * MS
