"""The scheduler when things fail: another attempt if time allows, and one answer in any case."""

import pytest

from cw import messages as m
from cw.config import SchedulerSettings
from cw.core.commands import AnnounceModel, DropExecutor, SendCancel
from cw.core.events import ExecutorLost, GatewayLost, ModelRemoved, TimerFired
from cw.errors import UnknownModel
from tests.unit.scheduler_desk import Desk, of, sole

FIRST = m.ExecutorId(1)
EARLY = SchedulerSettings(hold_ratio=0.25)


# --- failures -------------------------------------------------------------------------------------


def test_a_lost_executors_work_is_tried_elsewhere_in_time():
    """The death of one device must not break a promise that another can keep."""
    desk = Desk(executors=2)
    described, commands = desk.ask(60)
    executor_id = sole(commands, m.Assign).executor_id
    commands = desk.step(ExecutorLost(executor_id=executor_id), ms=5)
    assign = sole(commands, m.Assign)

    assert assign.executor_id != executor_id
    assert [each.attempt for each in assign.assignments] == [2]
    desk.answer(assign.executor_id, sole(commands, m.Infer))
    desk.settle(described, attempt=2)
    assert desk.scheduler.tally.kept == 1


def test_a_lost_executors_work_is_abandoned_where_no_time_is_left():
    """The gateway must be told, or the client waits until its deadline for nothing."""
    desk = Desk(executors=2)
    described, commands = desk.ask(20)
    executor_id = sole(commands, m.Assign).executor_id
    abandon = sole(desk.step(ExecutorLost(executor_id=executor_id), ms=18), m.Abandon)

    assert abandon.request_id == described.request_id
    assert abandon.failure.kind is m.FailureKind.EXECUTOR_LOST
    assert desk.scheduler.tally.broken == {"executorLost": 1}


def test_planned_work_of_a_lost_executor_keeps_its_attempt():
    """No try was made of it yet, so none is counted."""
    desk = Desk(executors=2, settings=EARLY)
    promised = [sole(desk.ask(80)[1], (m.Promise, m.Assign)) for _ in range(20)]
    lost = desk.scheduler.books.executors[FIRST]
    planned = [each for batch in lost.plan.batches for each in batch.requests]
    desk.step(ExecutorLost(executor_id=FIRST))

    assert promised
    assert planned
    assert all(each.attempt == 1 for each in planned)
    assert all(each.request_id in desk.scheduler.books.requests for each in planned)


def test_missing_inputs_get_another_attempt():
    """An input that was delayed on its way is no reason to break the promise."""
    desk = Desk()
    _, commands = desk.ask(80)
    commands = desk.answer(FIRST, sole(commands, m.Infer), ran=(False,))

    assert [each.attempt for each in sole(commands, m.Assign).assignments] == [2]


def test_a_rejected_action_gets_another_attempt():
    """A window missed by jitter costs a round trip, not the request."""
    desk = Desk()
    _, commands = desk.ask(80)
    commands = desk.answer(FIRST, sole(commands, m.Infer), m.Outcome.TOO_LATE)

    assert [each.attempt for each in sole(commands, m.Assign).assignments] == [2]


def test_outputs_lost_on_the_way_get_another_attempt_only_once():
    """The same report twice, or one of an earlier attempt, must not start a third try."""
    desk = Desk()
    described, commands = desk.ask(90)
    desk.answer(FIRST, sole(commands, m.Infer))
    failed = m.AttemptFailed(
        request_id=described.request_id, attempt=m.Attempt(1), detail="connection reset"
    )
    commands = desk.step(failed, failed)

    assert [each.attempt for each in sole(commands, m.Assign).assignments] == [2]
    assert not of(desk.step(failed), m.Assign)


def test_a_device_fault_drops_the_executor_and_saves_its_riders():
    """A broken device answers nothing right; its riders have another chance elsewhere."""
    desk = Desk(executors=2)
    _, commands = desk.ask(80)
    assign, action = sole(commands, m.Assign), sole(commands, m.Infer)
    commands = desk.answer(
        assign.executor_id, action, m.Outcome.DEVICE_FAULT, detail="illegal address"
    )

    assert "illegal address" in sole(commands, DropExecutor).reason
    assert sole(commands, m.Assign).executor_id != assign.executor_id


def test_an_executor_that_is_silent_on_an_action_is_dropped():
    """Alive but silent, it would hold its promises for ever."""
    desk = Desk(executors=2)
    _, commands = desk.ask(50)
    assign = sole(commands, m.Assign)
    commands = desk.step(TimerFired(), ms=3000)

    assert sole(commands, DropExecutor).executor_id == assign.executor_id
    assert assign.executor_id not in desk.scheduler.books.executors


def test_weights_that_are_not_there_are_loaded_again():
    """The executor knows better than the books."""
    desk = Desk()
    _, commands = desk.ask(90)
    commands = desk.answer(FIRST, sole(commands, m.Infer), m.Outcome.NOT_RESIDENT, ms=1)
    load = sole(commands, m.Load)
    commands += desk.answer(FIRST, load, ms=2)

    assert [each.attempt for each in sole(commands, m.Assign).assignments] == [2]


def test_pages_that_are_not_there_are_made():
    """By the books there was room: the books were wrong, so idle weights go."""
    desk = Desk(models=3)
    _, commands = desk.ask(300)
    commands = desk.answer(FIRST, sole(commands, m.Infer), m.Outcome.NOT_RESIDENT, ms=1)
    commands = desk.answer(FIRST, sole(commands, m.Load), m.Outcome.PAGES_EXHAUSTED, ms=1)

    assert len(of(commands, m.Unload)) == 2
    assert of(commands, m.Load)


def test_a_model_that_the_executor_forgot_is_brought_up_again():
    """A restarted cache must not end in a loop of rejections."""
    desk = Desk()
    _, commands = desk.ask(90)
    commands = desk.answer(FIRST, sole(commands, m.Infer), m.Outcome.UNKNOWN_MODEL, ms=1)

    assert of(commands, m.Prepare)


def test_a_result_of_nothing_known_is_ignored():
    """UNLOADs answer, too, and results of actions given up come late."""
    desk = Desk()
    _, commands = desk.ask(90)
    action = sole(commands, m.Infer)
    desk.answer(FIRST, action)

    assert not desk.answer(FIRST, action)
    assert not desk.answer(m.ExecutorId(77), action)


# --- ends -----------------------------------------------------------------------------------------


def test_a_cancelled_request_leaves_its_slot_empty():
    """Its neighbours in the batch must not notice."""
    desk = Desk()
    described, commands = desk.ask(50)
    commands = desk.step(m.Cancel(request_id=described.request_id, attempt=m.Attempt(1)))

    assert sole(commands, SendCancel).request_id == described.request_id
    assert desk.scheduler.tally.failed == {"cancelled": 1}
    assert not desk.step(m.Cancel(request_id=described.request_id, attempt=m.Attempt(1)))


def test_a_lost_gateway_takes_its_requests_with_it():
    """Nobody waits for the answers; the lane is for those who do."""
    desk = Desk()
    for gateway in (1, 2, 2, 2):
        desk.ask(80, gateway=gateway)
    desk.step(GatewayLost(gateway_id=m.GatewayId(2)))
    left = desk.scheduler.books.requests.values()

    assert [each.gateway_id for each in left] == [1]


def test_late_is_explained_by_the_result_that_comes_after():
    """The gateway answers at the deadline; why it was late is known only when the action ends."""
    desk = Desk()
    described, commands = desk.ask(20)
    action = sole(commands, m.Infer)
    desk.now_ns = described.deadline_ns + 1
    desk.settle(described, m.SettledAs.LATE)
    assert not desk.scheduler.tally.broken
    desk.now_ns = described.arrival_ns
    desk.answer(FIRST, action, ms=40)

    assert desk.scheduler.tally.broken == {"ranLong": 1}


def test_a_removed_model_finishes_what_it_promised_and_then_is_forgotten():
    """Removing a model is no reason to break a promise."""
    desk = Desk(settings=EARLY)
    described, commands = desk.ask(80)
    waiting, _ = desk.ask(80)
    model_id = described.model_id
    commands += desk.step(ModelRemoved(model_id=model_id))
    assert [each.ready for each in of(commands, AnnounceModel)] == [False]
    assert not of(commands, m.Unload)
    commands = desk.answer(FIRST, of(commands, m.Infer)[0])
    desk.settle(described)
    commands += desk.answer(FIRST, of(commands, m.Infer)[0])
    commands = desk.settle(waiting)

    assert [each.forget for each in of(commands, m.Unload)] == [True]
    assert desk.scheduler.tally.kept == 2
    with pytest.raises(UnknownModel, match="no model has the id"):
        desk.scheduler.model_status(model_id, now_ns=desk.now_ns)
