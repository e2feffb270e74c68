"""Whoever goes away, takes nothing of anybody else along."""

import attrs
import pytest
import trio

from cw.actors.clock import now_ns
from cw.errors import AccessDenied, OutboxFull
from cw.messages import Attempt, CancelSlot, Epoch, Outcome, RequestId
from cw.units import MS
from tests.actor.fakes import running_executor


def cancel(request):
    return CancelSlot(request_id=RequestId(request), attempt=Attempt(1))


@pytest.mark.parametrize("by_gateway", [False, True])
async def test_cancel_before_the_start_leaves_the_slot_out(by_gateway, autojump_clock):
    """Its neighbours run at once instead of waiting for inputs that nobody will bring."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7, 8]))
        call = rig.call(control.inputs(1, {1: 8}))
        await trio.sleep(0.005)
        if by_gateway:
            rig.port.tell([cancel(7)])
        else:
            control.order(cancels=(cancel(7),))
        cancelled_ns = now_ns()
        answer = await call.result()

        assert answer.slots[0].outputs == (b"8000",)
        assert rig.device.starts("infer") == [pytest.approx(cancelled_ns, abs=10)]
        assert (await control.result(1)).ran == (False, True)


async def test_cancel_of_all_slots_frees_the_lane_at_once(autojump_clock):
    """What nobody waits for must not hold the lane until `latest`."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7]))
        began_ns = now_ns()
        rig.port.tell([cancel(7)])
        result = await control.result(1)

        assert (result.outcome, result.ran) == (Outcome.CANCELLED, (False,))
        assert now_ns() == began_ns


async def test_cancel_after_the_start_throws_the_output_away(autojump_clock):
    """It ran and is metered; nobody gets it, and its neighbour gets its own."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7, 8]))
        call = rig.call(control.inputs(1, {0: 7, 1: 8}))
        await trio.sleep(0.001)
        assert len(rig.device.starts("infer")) == 1
        rig.port.tell([cancel(7)])
        answer = await call.result()

        assert [slot.outputs for slot in answer.slots] == [None, (b"8000",)]
        assert (await control.result(1)).ran == (True, True)


@pytest.mark.parametrize("after_ms", [1, 11])
async def test_a_gateway_that_vanishes_costs_the_others_nothing(after_ms, autojump_clock):
    """Before the start or after it: its call ends, what it brought stays, the batch runs whole."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7, 8], earliest_ns=10 * MS))
        vanishing = rig.call(control.inputs(1, {0: 7}))
        other = rig.call(control.inputs(1, {1: 8}))
        await trio.sleep(after_ms / 1000)
        vanishing.scope.cancel()

        assert (await other.result()).slots[0].outputs == (b"8000",)
        assert vanishing.answer is None
        assert (await control.result(1)).ran == (True, True)
        again = await rig.port.infer(control.inputs(1, {0: 7}))
        assert again.slots[0].outputs == (b"7000",)


@pytest.mark.parametrize("inputs_first", [False, True])
async def test_action_and_inputs_come_in_either_order(inputs_first, autojump_clock):
    """They come from two processes by two ways."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        action, inputs = control.infer(1, [7]), control.inputs(1, {0: 7})
        if inputs_first:
            call = rig.call(inputs)
            await trio.sleep(0.002)
            control.order(action)
        else:
            control.order(action)
            await trio.sleep(0.002)
            call = rig.call(inputs)
        second_ns = now_ns()

        assert (await call.result()).slots[0].outputs == (b"7000",)
        assert rig.device.starts("infer") == [pytest.approx(second_ns, abs=10)]


async def test_inputs_whose_action_never_comes_are_answered(autojump_clock):
    """A gateway must not hang on a controller that died between its two messages."""
    async with running_executor() as rig:
        began_ns = now_ns()
        answer = await rig.port.infer(rig.controller.inputs(1, {0: 7}))

        assert answer.outcome is Outcome.TOO_LATE
        assert answer.slots[0].outputs is None
        assert 1000 * MS <= now_ns() - began_ns <= 1100 * MS


async def test_outputs_asked_for_twice_are_given_twice_and_run_once(autojump_clock):
    """A connection that broke under the answer must not cost an attempt."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7]))
        first = rig.call(control.inputs(1, {0: 7}))
        at_the_same_time = rig.call(control.inputs(1, {0: 7}))
        answer = await first.result()
        again = await rig.port.infer(control.inputs(1, {0: 7}))

        assert answer.slots[0].outputs == (b"7000",)
        for other in (again, await at_the_same_time.result()):
            # All but how long each call itself took.
            other = attrs.evolve(other, executor_ns=answer.executor_ns, waited_ns=answer.waited_ns)
            assert other == answer
        assert len(rig.device.starts("infer")) == 1
        await trio.sleep(0.2)
        assert len(rig.executor._buffer) == 0


@pytest.mark.parametrize("garbage_first", [False, True])
async def test_a_garbage_ticket_gets_an_error_and_costs_nobody_anything(
    garbage_first, autojump_clock
):
    """Neither can it bring inputs for others, nor delay or displace those who may."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        if garbage_first:
            garbage = rig.call(control.inputs(1, {0: 7}, ticket=666))
            await trio.sleep(0.001)
            control.order(control.infer(1, [7]))
        else:
            control.order(control.infer(1, [7]))
            garbage = rig.call(control.inputs(1, {0: 7}, ticket=666))
        await trio.sleep(0.001)
        with pytest.raises(AccessDenied, match="not the ticket"):
            await garbage.result()
        assert rig.device.starts("infer") == []
        answer = await rig.port.infer(control.inputs(1, {0: 7}))

        assert answer.slots[0].outputs == (b"7000",)


async def test_a_flood_of_early_inputs_is_refused_whole(autojump_clock):
    """Inputs without an action are bounded in bytes; the refused gateway asks again."""
    async with running_executor(max_waiting_input_bytes=600) as rig:
        await rig.warm()
        control = rig.controller
        calls = [rig.call(control.inputs(n, {0: n})) for n in (1, 2)]
        await trio.sleep(0.001)
        with pytest.raises(OutboxFull):
            await rig.port.infer(control.inputs(3, {0: 3}))
        control.order(control.infer(1, [1]), control.infer(2, [2]))

        assert [(await call.result()).outcome for call in calls] == [Outcome.OK] * 2


async def test_promises_outlive_their_controller(autojump_clock):
    """The batch was ordered and its inputs are there: a dead controller is no reason to drop it."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7], earliest_ns=100 * MS, latest_ns=120 * MS))
        call = rig.call(control.inputs(1, {0: 7}))
        await trio.sleep(0.01)
        control.go_down()

        assert (await call.result()).slots[0].outputs == (b"7000",)


async def test_a_new_epoch_drops_what_has_not_started(autojump_clock):
    """The new controller plans on an idle device: old actions would be in its way."""
    async with running_executor() as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7], earliest_ns=500 * MS, latest_ns=600 * MS))
        call = rig.call(control.inputs(1, {0: 7}))
        early = rig.call(control.inputs(2, {0: 8}))
        await trio.sleep(0.01)
        control.come_back(epoch=Epoch(2), ahead_ns=-3 * 10**9)
        control.close()
        await control.joined(2)

        assert (await call.result()).outcome is Outcome.STALE_EPOCH
        assert (await early.result()).outcome is Outcome.STALE_EPOCH
        late = await rig.port.infer(control.inputs(3, {0: 9}, epoch=Epoch(1)))
        assert late.outcome is Outcome.STALE_EPOCH
        control.order(control.infer(1, [7]))
        answer = await rig.port.infer(control.inputs(1, {0: 7}))
        assert answer.slots[0].outputs == (b"7000",)
        assert [result.outcome for result in control.results if result.action_id == 1] == [
            Outcome.OK
        ]
