"""The scheduler's sequences: honest windows, batches, tickets, epochs, and what it shows."""

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import Decide, SendAction
from cw.core.events import ExecutorJoined, ExecutorLost, ModelAdded, RequestArrived, TimerFired
from cw.core.scheduler import Scheduler
from cw.units import MS, SECOND
from tests.unit.scheduler_desk import Desk, of, sole
from tests.unit.scheduler_world import World, device, spec

FIRST, SECOND_ONE = m.ExecutorId(1), m.ExecutorId(2)


# --- windows, tickets, batches --------------------------------------------------------------------


def test_a_window_opens_now_and_closes_while_all_riders_are_in_time():
    """Too early an end rejects work needlessly, too late a one runs what nobody needs."""
    desk = Desk()
    described, commands = desk.ask(50)
    action = sole(commands, m.Infer)

    assert action.window.earliest_ns == desk.now_ns
    assert action.window.latest_ns + action.expected_ns <= described.deadline_ns
    assert action.window.latest_ns >= desk.now_ns + 2 * MS


def test_a_window_does_not_let_a_lane_wait_at_the_cost_of_others():
    """A lane waits for inputs until `latest`: with a long SLO that could be seconds."""
    desk = Desk()
    _, commands = desk.ask(400)

    assert sole(commands, m.Infer).window.latest_ns <= desk.now_ns + 105 * MS


def test_slots_carry_the_true_deadline_and_the_attempt():
    """Executor and gateway go by these; the margin is the planner's own."""
    desk = Desk()
    described, commands = desk.ask(50)
    (slot,) = sole(commands, m.Infer).slots

    assert (slot.request_id, slot.deadline_ns, slot.attempt) == (
        described.request_id,
        described.deadline_ns,
        1,
    )


def test_tickets_match_and_cannot_be_told_from_earlier_ones():
    """Whoever guesses a ticket could bring inputs to another tenant's batch."""
    desk, seen = Desk(), set()
    for _ in range(20):
        described, commands = desk.ask(50)
        assign, action = sole(commands, m.Assign), sole(commands, m.Infer)
        assert assign.ticket == action.ticket
        assert assign.action_id == action.action_id
        seen.add(action.ticket)
        desk.answer(FIRST, action)
        desk.settle(described)

    assert len(seen) == 20
    assert all(abs(one - other) > 1000 for one in seen for other in seen if one != other)


def test_those_who_arrive_while_the_lane_is_busy_share_a_batch():
    """Batches are what the throughput under load is made of."""
    desk = Desk()
    _, commands = desk.ask(50)
    for _ in range(3):
        desk.ask(50)
    batch = sole(desk.answer(FIRST, sole(commands, m.Infer)), m.Infer)

    assert len(batch.slots) == 3
    assert batch.batch_size == 4


def test_each_gateway_is_told_of_its_own_riders():
    """Positions are the executor's; a gateway learns only those of its own requests."""
    desk = Desk()
    _, commands = desk.ask(50)
    for gateway in (1, 2, 1):
        desk.ask(50, gateway=gateway)
    assigns = of(desk.answer(FIRST, sole(commands, m.Infer)), m.Assign)

    assert sorted(len(each.assignments) for each in assigns) == [1, 2]
    positions = [one.position for each in assigns for one in each.assignments]
    assert sorted(positions) == [0, 1, 2]


def test_a_lane_is_given_work_before_it_is_free():
    """Committed only when it falls idle, a lane would idle for the pipe's delay each time."""
    desk = Desk()
    _, commands = desk.ask(100)
    desk.ask(100, model=1)
    free_ns = sole(commands, m.Infer).expected_ns + desk.now_ns
    desk.now_ns = desk.scheduler.wake_at_ns
    commands = desk.step(TimerFired())

    assert of(commands, m.Infer)
    assert desk.now_ns < free_ns + 1 * MS


def test_an_alarm_never_rings_for_ever():
    """A timer at exactly the instant at which nothing can be done yet would spin."""
    desk = Desk()
    for _ in range(6):
        desk.ask(200)
    rung, until_ns = 0, desk.now_ns + SECOND // 10
    while (wake_ns := desk.scheduler.wake_at_ns) is not None and wake_ns < until_ns:
        assert wake_ns > desk.now_ns
        desk.now_ns = wake_ns
        desk.step(TimerFired())
        rung += 1

    assert rung < 200


# --- epochs and views -----------------------------------------------------------------------------


def test_what_an_earlier_epoch_promised_comes_before_what_is_new():
    """A controller's death must not break its promises."""
    desk = Desk()
    for _ in range(60):
        desk.ask(60)
    described, commands = desk.ask(30, promised=True, attempt=3)

    assert not of(commands, m.Refuse)
    request = desk.scheduler.books.requests[described.request_id]
    assert request.batch is not None or request.committed is not None
    assert request.attempt == 3


def test_promises_of_an_earlier_epoch_wait_for_their_executor():
    """Gateways may find the new controller before the executors do."""
    desk = Desk()
    fresh = Scheduler(SchedulerSettings(), epoch=m.Epoch(2), ticket_seed=1)
    desk.scheduler = fresh
    desk.step(*[ModelAdded(spec=each) for each in desk.world.specs])
    described, commands = desk.ask(200, promised=True, attempt=1)
    assert not of(commands, (m.Refuse, m.Abandon))
    assert described.request_id in fresh.books.requests


def test_a_resubmitted_request_is_not_taken_twice():
    """A gateway that reconnects tells everything again."""
    desk = Desk()
    described, _ = desk.ask(80)

    assert not of(desk.step(RequestArrived(descriptor=described)), (m.Promise, m.Assign))
    assert desk.scheduler.tally.requests == 1


def test_an_executor_that_joins_prepared_and_resident_serves_at_once():
    """A new controller must not make warm executors load everything again."""
    desk = Desk(models=1)
    model = desk.world.specs[0]
    desk.step(ExecutorLost(executor_id=FIRST))
    commands = desk.step(
        ExecutorJoined(
            executor_id=SECOND_ONE,
            name="again",
            device=device(),
            prepared=(model.model_id,),
            resident=(model.model_id,),
        )
    )
    while of(commands, m.Infer):
        commands = desk.answer(SECOND_ONE, of(commands, m.Infer)[0])
    _, commands = desk.ask(50)

    assert not of(commands, (m.Prepare, m.Load))
    assert of(commands, m.Assign)


def test_the_story_tells_each_step():
    """What support asks first: what happened to this one request."""
    desk = Desk()
    described, commands = desk.ask(50)
    desk.answer(FIRST, sole(commands, m.Infer))
    desk.settle(described)
    story = desk.scheduler.story(described.request_id)

    assert [line.split(" ms ")[1].split(",")[0].split(" ")[0] for line in story] == [
        "arrived",
        "assigned",
        "ran",
        "settled:",
    ]
    assert desk.scheduler.story(m.RequestId(5)) == []


def test_status_shows_executors_models_and_counts():
    """`cw status` is made of this."""
    desk = Desk()
    desk.ask(50)
    desk.ask(50)
    status = desk.scheduler.status(now_ns=desk.now_ns)

    assert [each.state for each in status.executors] == ["serving"]
    assert status.executors[0].pages_total - status.executors[0].pages_free == 2
    assert status.queued == 1
    assert status.ledger.requests == 2
    assert {each.state for each in status.models} == {m.ModelState.READY}


def test_the_same_events_give_the_same_commands():
    """A run that fails must fail again from its seed."""
    runs = []
    for _ in range(2):
        world = World(models=5, executors=2, seed=3)
        world.register()
        world.offer(600, 1, 40 * MS)
        runs.append(world.commands)

    assert runs[0] == runs[1]


def test_models_beyond_the_bound_fail_with_the_reason():
    """A bound that is reached silently is a mystery."""
    scheduler = Scheduler(SchedulerSettings(max_models=1), epoch=m.Epoch(1), ticket_seed=1)
    scheduler.handle(ModelAdded(spec=spec(0)), ModelAdded(spec=spec(1)), now_ns=0)

    assert "max_models" in scheduler.model_status(spec(1).model_id, now_ns=0).detail


def test_decisions_go_to_the_gateway_of_the_request():
    """Another gateway's answer would be nobody's."""
    desk = Desk()
    _, commands = desk.ask(50, gateway=9)

    assert {each.gateway_id for each in commands if isinstance(each, Decide)} == {9}
    assert {each.executor_id for each in commands if isinstance(each, SendAction)} == {FIRST}
