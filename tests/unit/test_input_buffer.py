"""InputBuffer: every order of inputs, action, cancel, end and asking again."""

import attrs
import pytest

from cw.core import input_buffer
from cw.core.input_batch import key_of, slot_bytes
from cw.core.lane import Inputs
from cw.errors import AccessDenied, OutboxFull, ProtocolViolation
from cw.messages import Epoch, Outcome
from cw.units import MS, SECOND
from tests.unit.batches import KEY, brought, cancel_of, expect, finish_ok, infer, make, outputs


@pytest.mark.parametrize("inputs_first", [False, True])
def test_inputs_and_action_meet_in_either_order(inputs_first):
    """They come by different ways from different processes: no order can be relied on."""
    buffer = make()
    if inputs_first:
        assert buffer.offer(brought(1), now_ns=1) is None
        assert expect(buffer, now_ns=5) == [KEY]
    else:
        expect(buffer, now_ns=1)
        assert buffer.offer(brought(1), now_ns=5) is None

    assert buffer.batch(KEY).presence is Inputs.SOME
    assert buffer.batch(KEY).ready_ns is None
    assert buffer.offer(brought(0), now_ns=7) is None
    assert buffer.batch(KEY).presence is Inputs.ALL
    assert buffer.batch(KEY).ready_ns == 7
    assert [slot.position for slot in buffer.batch(KEY).start()] == [0, 1]
    finish_ok(buffer)
    assert outputs(buffer.answer(brought(1))) == [(b"\x01",)]
    assert outputs(buffer.answer(brought(1, 0))) == [(b"\x01",), (b"\x00",)]


def test_asking_again_gives_the_same_answer_until_the_last_deadline():
    """A gateway whose connection broke must not have to run the batch again."""
    buffer = make()
    expect(buffer)
    buffer.offer(brought(0, 1), now_ns=0)
    buffer.batch(KEY).start()
    finish_ok(buffer)
    first = buffer.answer(brought(0, 1))
    buffer.leave(brought(0, 1))
    buffer.expire(now_ns=50 * MS - 1)

    assert buffer.offer(brought(0, 1), now_ns=50 * MS - 1) == first
    buffer.expire(now_ns=50 * MS)
    assert len(buffer) == 0
    assert buffer.output_bytes == 0
    assert buffer.answer(brought(0, 1)).outcome is Outcome.TOO_LATE


def test_a_call_that_still_waits_outlives_the_deadline():
    """Its answer must be there when its task comes to run, however late that is."""
    buffer = make()
    buffer.offer(brought(0, 1), now_ns=0)
    expect(buffer)
    buffer.batch(KEY).start()
    finish_ok(buffer, now_ns=60 * MS)
    buffer.expire(now_ns=SECOND)

    assert buffer.answer(brought(0, 1)).outcome is Outcome.OK
    buffer.leave(brought(0, 1))
    buffer.expire(now_ns=3 * SECOND)
    assert len(buffer) == 0


def test_inputs_whose_action_never_comes_expire():
    """A dead controller must not leave its gateways' inputs in the memory."""
    buffer = make()
    assert buffer.offer(brought(0), now_ns=0) is None
    assert buffer.expire(now_ns=SECOND - 1) == []
    assert buffer.answer(brought(0)) is None

    assert buffer.expire(now_ns=SECOND) == [KEY]
    assert buffer.answer(brought(0)).outcome is Outcome.TOO_LATE
    assert buffer.input_bytes == 0


def test_a_wrong_ticket_gets_an_error_and_leaves_the_action_alone():
    """A ticket is what lets a gateway bring inputs: guessing must cost nobody anything."""
    buffer = make()
    assert buffer.offer(brought(0, 1, ticket=666), now_ns=0) is None
    assert expect(buffer) == [key_of(brought(ticket=666))]
    with pytest.raises(AccessDenied, match="not the ticket of action 1"):
        buffer.answer(brought(0, 1, ticket=666))
    with pytest.raises(AccessDenied):
        buffer.offer(brought(0, 1, ticket=667), now_ns=0)

    assert buffer.input_bytes == 0
    assert buffer.batch(KEY).presence is Inputs.NONE


@pytest.mark.parametrize("inputs_first", [False, True])
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (brought(2), "positions 0 to 1, got inputs for 2"),
        (brought(-1), "got inputs for -1"),
        (brought(0, data=b"short"[:3]), r"expected inputs of \(4,\) bytes"),
        (
            attrs.evolve(brought(0), slots=(attrs.evolve(brought(1).slots[0], position=0),)),
            "is request 100, attempt 1; got inputs of request 101",
        ),
    ],
)
def test_what_does_not_fit_gets_an_error_and_is_not_taken_in(bad, why, inputs_first):
    """A wrong size would end the device, a wrong request answer one caller with another's data."""
    buffer = make()
    if inputs_first:
        buffer.offer(bad, now_ns=0)
        expect(buffer)
        with pytest.raises(ProtocolViolation, match=why):
            buffer.answer(bad)
    else:
        expect(buffer)
        with pytest.raises(ProtocolViolation, match=why):
            buffer.offer(bad, now_ns=0)

    assert buffer.batch(KEY).presence is Inputs.NONE
    assert buffer.input_bytes == 0


def test_a_slot_cancelled_before_the_start_is_left_out():
    """Nobody waits for it, so nobody should wait for its inputs either."""
    buffer = make()
    expect(buffer)
    buffer.offer(brought(0), now_ns=0)

    assert buffer.cancel(cancel_of(1), now_ns=4) == KEY
    assert buffer.batch(KEY).presence is Inputs.ALL
    assert buffer.batch(KEY).ready_ns == 4
    assert [slot.position for slot in buffer.batch(KEY).start()] == [0]
    finish_ok(buffer)
    assert buffer.batch(KEY).ran == (True, False)
    assert buffer.answer(brought(1)).outcome is Outcome.CANCELLED


def test_a_cancel_may_come_before_its_action():
    """A gateway's cancel overtakes the controller's action as easily as its inputs do."""
    buffer = make()
    buffer.offer(brought(0, 1), now_ns=0)
    assert buffer.cancel(cancel_of(0), now_ns=0) is None
    expect(buffer)

    assert [slot.position for slot in buffer.batch(KEY).start()] == [1]
    assert buffer.input_bytes == slot_bytes((b"data",))


def test_a_slot_cancelled_after_the_start_loses_its_output():
    """It ran and is metered, but what nobody wants must not fill the memory."""
    buffer = make()
    expect(buffer)
    buffer.offer(brought(0, 1), now_ns=0)
    buffer.batch(KEY).start()
    buffer.cancel(cancel_of(0), now_ns=0)
    finish_ok(buffer)

    assert buffer.batch(KEY).ran == (True, True)
    assert outputs(buffer.answer(brought(0, 1))) == [None, (b"\x01",)]
    buffer.cancel(cancel_of(1), now_ns=0)
    assert outputs(buffer.answer(brought(0, 1))) == [None, None]
    assert buffer.output_bytes == 0


def test_inputs_after_the_start_are_told_so_at_once():
    """Their gateway can ask for another attempt while the batch still runs."""
    buffer = make()
    expect(buffer)
    buffer.offer(brought(0), now_ns=0)
    buffer.batch(KEY).start()

    assert buffer.offer(brought(1), now_ns=0).outcome is Outcome.INPUTS_LATE
    assert buffer.offer(brought(0), now_ns=0) is None
    finish_ok(buffer)
    assert buffer.answer(brought(1)).outcome is Outcome.INPUTS_LATE
    assert buffer.answer(brought(0)).outcome is Outcome.OK


def test_an_action_that_did_not_start_says_why():
    """Every call is answered, with the reason that its gateway passes on."""
    buffer = make()
    expect(buffer)
    buffer.offer(brought(0, 1), now_ns=0)
    buffer.finish(KEY, Outcome.NOT_RESIDENT, now_ns=0, detail="model 1 is cold")

    answer = buffer.answer(brought(0, 1))
    assert (answer.outcome, answer.detail) == (Outcome.NOT_RESIDENT, "model 1 is cold")
    assert outputs(answer) == [None, None]
    assert buffer.input_bytes == 0


def test_a_new_epoch_makes_older_inputs_stale():
    """Their action will never come: its controller is gone."""
    buffer = make()
    assert buffer.offer(brought(0), now_ns=0) is None

    assert buffer.begin_epoch(Epoch(4)) == [KEY]
    assert buffer.answer(brought(0)).outcome is Outcome.STALE_EPOCH
    assert buffer.offer(brought(1), now_ns=0).outcome is Outcome.STALE_EPOCH
    assert buffer.offer(brought(1, epoch=Epoch(4)), now_ns=0) is None


def test_inputs_over_the_bound_are_refused_whole():
    """A flood must not take the executor's memory, nor half a call confuse its gateway."""
    buffer = make(max_input_bytes=2 * slot_bytes((b"data",)))
    expect(buffer, infer(slots=3))
    buffer.offer(brought(0), now_ns=0)
    with pytest.raises(OutboxFull, match="ask again"):
        buffer.offer(brought(1, 2), now_ns=0)

    assert buffer.input_bytes == slot_bytes((b"data",))
    assert buffer.offer(brought(1), now_ns=0) is None


def test_outputs_over_the_bound_push_out_the_oldest_that_nobody_waits_for():
    """A lost answer to a second asking costs an attempt; a full memory costs the executor."""
    one = slot_bytes((b"\x00",))
    buffer = make(max_output_bytes=2 * one)
    for action_id in (1, 2, 3):
        action = infer(slots=1, action_id=action_id)
        expect(buffer, attrs.evolve(action, slots=infer(slots=1).slots))
        call = brought(0, action_id=action_id)
        buffer.offer(call, now_ns=0)
        buffer.batch(key_of(call)).start()
        finish_ok(buffer, key_of(call))
        if action_id != 1:
            buffer.leave(call)

    assert outputs(buffer.answer(brought(0, action_id=1))) == [(b"\x00",)]
    assert outputs(buffer.answer(brought(0, action_id=2))) == [None]
    assert "dropped to make room" in buffer.answer(brought(0, action_id=2)).detail
    assert outputs(buffer.answer(brought(0, action_id=3))) == [(b"\x00",)]
    assert buffer.output_bytes == 2 * one


def test_outputs_that_a_call_waited_for_give_way_once_it_has_them():
    """The bound holds again as soon as the answers are out, not only at the next action."""
    buffer = make(max_output_bytes=0)
    expect(buffer)
    buffer.offer(brought(0, 1), now_ns=0)
    buffer.batch(KEY).start()
    finish_ok(buffer)

    assert buffer.output_bytes > 0
    buffer.leave(brought(0, 1))
    assert buffer.output_bytes == 0


@pytest.mark.parametrize("inputs_first", [False, True])
def test_a_position_named_twice_in_one_call_is_taken_once(inputs_first):
    """What a confused gateway sends must not end the executor."""
    buffer = make()
    if inputs_first:
        buffer.offer(brought(0, 0), now_ns=0)
        expect(buffer)
    else:
        expect(buffer)
        buffer.offer(brought(0, 0), now_ns=0)

    assert buffer.input_bytes == slot_bytes((b"data",))
    assert len(buffer.batch(KEY).start()) == 1


def test_a_call_that_brings_nothing_is_an_error():
    """It could only wait, and bounds are on what calls bring."""
    with pytest.raises(ProtocolViolation, match="at least one slot"):
        make().offer(brought(), now_ns=0)


def test_early_cancels_are_bounded(monkeypatch):
    """Cancels of what never comes must not gather for months; the oldest is forgotten."""
    monkeypatch.setattr(input_buffer, "_EARLY_CANCELS_MAX", 1)
    buffer = make()
    buffer.cancel(cancel_of(0), now_ns=0)
    buffer.cancel(cancel_of(1), now_ns=0)
    expect(buffer)
    buffer.offer(brought(0), now_ns=0)

    assert [slot.position for slot in buffer.batch(KEY).start()] == [0]
    assert buffer.batch(KEY).presence is Inputs.ALL


def test_ended_actions_are_bounded_however_far_their_deadlines(monkeypatch):
    """Deadlines may lie minutes ahead, and a lane ends a thousand actions a second."""
    monkeypatch.setattr(input_buffer, "_ENDED_MAX", 2)
    buffer = make()
    for action_id in range(5):
        expect(buffer, infer(action_id=action_id))
        buffer.finish(key_of(brought(0, action_id=action_id)), Outcome.TOO_LATE, now_ns=0)

    assert len(buffer) == 2


def test_an_action_sent_twice_is_the_controllers_fault():
    """Two batches under one key would answer each other's callers."""
    buffer = make()
    expect(buffer)

    with pytest.raises(ProtocolViolation, match="expected each action once"):
        expect(buffer)
