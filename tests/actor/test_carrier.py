"""Lost executors and controllers: what waits for them still gets its one answer."""

import trio

from cw.errors import OutboxFull, PeerDisconnected, ProtocolViolation
from cw.messages import (
    AttemptFailed,
    Descriptor,
    Epoch,
    FailureKind,
    Notices,
    Outcome,
    RefusalReason,
    gateway_of,
)
from cw.units import MS, SECOND
from tests.actor.gateway_fakes import OTHER, FakeController, running_gateway

# --- executors ------------------------------------------------------------------------------------


async def test_broken_data_connection_is_redialled_and_asked_again(autojump_clock):
    """A broken connection is not a dead executor: it has the outputs, or will have them."""
    async with running_gateway() as rig:
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        await trio.sleep(0.005)
        rig.executor.close()
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)
        assert rig.executor.dials == 2
        first, second = rig.executor.calls
        assert first == second, "the same call, so that the executor knows it again"
        assert rig.controller.told(AttemptFailed) == []


async def test_connection_that_stood_is_redialled_at_once(autojump_clock):
    """A pause between dials costs as much as a batch, and promises hang on it."""
    async with running_gateway() as rig:
        await trio.sleep(0.06)
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        await trio.sleep(0.005)
        rig.executor.close()
        await asked.answer()
        rig.controller.close()
        await rig.controller.until(lambda: len(rig.controller.hellos) == 2)

        assert asked.took_ns == 15 * MS
        assert trio.current_time() - asked.began_s < 0.016


async def test_port_that_a_call_found_broken_is_dialled_anew(autojump_clock):
    """The call may learn of it before the connection does; asking it on and on would spin."""
    async with running_gateway() as rig:
        rig.executor.error = PeerDisconnected("the connection broke")
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)
        assert rig.executor.dials == 2
        assert len(rig.executor.calls) == 2


async def test_inputs_wait_for_an_executor_that_is_still_being_dialled(autojump_clock):
    """An assignment may come before the connection stands."""
    async with running_gateway() as rig:
        rig.executor.is_up = False
        rig.executor.close()
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        await trio.sleep(0.01)
        rig.executor.is_up = True

        assert (await asked.answer()).outputs == (b"dcba",)


async def test_executor_without_room_is_asked_again(autojump_clock):
    """Its buffer is full for a batch's duration; giving the attempt up would cost far more."""
    async with running_gateway() as rig:
        rig.executor.error = OutboxFull("no room for the inputs: ask again")
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())

        assert (await asked.answer()).outputs == (b"dcba",)
        assert asked.took_ns < 15 * MS
        assert rig.controller.told(AttemptFailed) == []


async def test_refused_call_fails_the_attempt_with_the_reason(autojump_clock):
    """The controller can try elsewhere, and its story should say why it had to."""
    async with running_gateway() as rig:
        rig.executor.error = ProtocolViolation("a tensor has another size. " + "x" * 1000)
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor)
        (failed,) = await rig.controller.until(lambda: rig.controller.told(AttemptFailed) or None)

        assert failed.request_id == descriptor.request_id
        assert failed.detail.startswith("a tensor has another size")
        assert len(failed.detail) == 500, "a peer's text is not passed on whole"
        rig.controller.abandon(descriptor)
        assert (await asked.answer()).failure is not None


async def test_batch_that_did_not_run_fails_its_attempts(autojump_clock):
    """The executor says why no output came; only the controller may begin another attempt."""
    async with running_gateway() as rig:
        rig.executor.outcome = Outcome.INPUTS_LATE
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor)
        (failed,) = await rig.controller.until(lambda: rig.controller.told(AttemptFailed) or None)
        rig.controller.assign(descriptor, executor=OTHER, attempt=2)

        assert failed.detail == "inputsLate"
        assert (await asked.answer()).outputs == (b"dcba",)


async def test_assignment_to_an_unknown_executor_fails_the_attempt(autojump_clock):
    """It was lost while the assignment was on its way: nobody would ever answer."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor, executor=99)
        (failed,) = await rig.controller.until(lambda: rig.controller.told(AttemptFailed) or None)
        rig.controller.assign(descriptor, attempt=2)

        assert failed.detail == "the executor was lost"
        assert (await asked.answer()).outputs == (b"dcba",)


async def test_loss_while_dialling_fails_the_attempt(autojump_clock):
    """Whoever waits for a connection must learn that none will ever come."""
    async with running_gateway() as rig:
        rig.executor.is_up = False
        rig.executor.close()
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        await trio.sleep(0.03)
        rig.controller.gateway.tell(Notices(executors_lost=(1,)))
        await rig.controller.until(lambda: rig.controller.told(AttemptFailed) or None)

        assert (await asked.answer()).failure.kind is FailureKind.LATE


async def test_connection_that_is_silent_past_a_deadline_is_dialled_anew(autojump_clock):
    """A network that swallows everything keeps connections open: one call's loss must be enough."""
    async with running_gateway() as rig:
        await trio.sleep(0.01)
        rig.executor.takes_ns = SECOND
        first = rig.ask()
        rig.controller.assign(await rig.controller.descriptor(1))
        await first.answer()
        rig.executor.takes_ns = 10 * MS
        second = rig.ask()
        rig.controller.assign(await rig.controller.descriptor(2))

        assert (await second.answer()).outputs == (b"dcba",)
        assert rig.executor.dials == 2


async def test_slow_call_does_not_put_a_lively_connection_in_doubt(autojump_clock):
    """Redialling would ask every call in progress again."""
    async with running_gateway() as rig:
        rig.executor.takes_ns = 150 * MS
        slow = rig.ask()
        rig.controller.assign(await rig.controller.descriptor(1))
        await trio.sleep(0.01)
        rig.executor.takes_ns = 10 * MS
        quick = rig.ask()
        rig.controller.assign(await rig.controller.descriptor(2))
        await quick.answer()

        assert (await slow.answer()).failure.kind is FailureKind.LATE
        await trio.sleep(0.1)
        assert rig.executor.dials == 1


# --- the controller -------------------------------------------------------------------------------


async def test_without_a_controller_calls_are_refused_at_once(autojump_clock):
    """The caller has time to use another gateway, if it is told now."""
    async with running_gateway() as rig:
        rig.controller.go_down()
        await trio.sleep(0.01)
        asked = rig.ask()
        answer = await asked.answer()

        assert answer.refusal.reason is RefusalReason.NO_EXECUTOR
        assert asked.took_ns == 0


async def test_new_controller_hears_of_open_requests(autojump_clock):
    """State is soft: what was promised in one reign is placed first in the next."""
    async with running_gateway() as rig:
        plain = rig.ask(slo_ns=SECOND)
        first = await rig.controller.descriptor(1)
        promised = rig.ask(slo_ns=SECOND)
        second = await rig.controller.descriptor(2)
        rig.controller.promise(second)
        rig.controller.go_down()
        await trio.sleep(0.1)
        rig.controller.epoch, rig.controller.ahead_ns = Epoch(2), 50 * SECOND
        rig.controller.is_up = True
        await rig.controller.descriptor(4)
        again = rig.controller.told(Descriptor)[2:]

        assert [(each.request_id, each.attempt, each.promised) for each in again] == [
            (second.request_id, 2, True),
            (first.request_id, 2, False),
        ]
        assert [hello.previous_id for hello in rig.controller.hellos] == [None, 7]
        now_ns = rig.controller.now_ns()
        assert now_ns < again[0].deadline_ns < now_ns + SECOND, "on the new controller's clock"
        rig.controller.assign(*again, attempt=2)
        assert (await plain.answer()).outputs == (b"dcba",)
        assert (await promised.answer()).outputs == (b"dcba",)


async def test_gateway_that_gets_another_id_renames_its_requests(autojump_clock):
    """Decisions find their gateway by the request's id: under the old one another would get them.

    The new controller may have given the id away before this gateway was back.
    """
    async with running_gateway() as rig:
        asked = rig.ask(slo_ns=SECOND)
        await rig.controller.descriptor()
        rig.controller.new_id = 8
        rig.controller.epoch = Epoch(2)
        rig.controller.close()
        again = await rig.controller.descriptor(2)

        assert gateway_of(again.request_id) == 8
        rig.controller.assign(again, attempt=again.attempt)
        assert (await asked.answer()).outputs == (b"dcba",)


async def test_outputs_keep_a_promise_without_a_controller(autojump_clock):
    """The executor goes on without it, and so must the way back to the client."""
    async with running_gateway() as rig:
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        rig.controller.go_down()
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)


async def test_deadline_between_two_controllers_is_answered(autojump_clock):
    """The new one's clock is not known yet at that moment: nothing may depend on it."""
    async with running_gateway() as rig:
        asked = rig.ask()
        rig.controller.promise(await rig.controller.descriptor())
        rig.controller.is_silent = True
        rig.controller.close()  # it is dialled again, and hangs
        answer = await asked.answer()

        assert asked.took_ns == 100 * MS
        assert answer.failure.kind is FailureKind.LATE


async def test_silent_controller_is_given_up_and_dialled_again(autojump_clock):
    """A stopped process keeps its connection; nothing but its silence tells."""
    async with running_gateway() as rig:
        rig.controller.is_silent = True
        await trio.sleep(1.3)
        refused = await rig.ask().answer()
        rig.controller.is_silent = False
        await rig.controller.until(lambda: len(rig.controller.hellos) == 2)
        await trio.sleep(0.001)
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())

        assert refused.refusal.reason is RefusalReason.NO_EXECUTOR
        assert (await asked.answer()).outputs == (b"dcba",)


async def test_controller_that_is_silent_at_first_is_waited_for(autojump_clock):
    """The gateway says that it serves once it does, even if its first dials came to nothing."""
    controller = FakeController(is_silent=True)

    async def wake_up():
        await trio.sleep(2.5)
        controller.is_silent = False

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wake_up)
        async with running_gateway(controller=controller) as rig:
            asked = rig.ask()
            rig.controller.refuse(await rig.controller.descriptor())

            assert (await asked.answer()).refusal is not None


async def test_controller_of_an_older_epoch_is_not_obeyed(autojump_clock):
    """It was replaced and does not know it: two controllers would plan the same device."""
    async with running_gateway(controller=FakeController(epoch=Epoch(5))) as rig:
        rig.controller.epoch = Epoch(4)
        rig.controller.close()
        await trio.sleep(0.3)
        refused = await rig.ask().answer()
        rig.controller.epoch = Epoch(6)
        await trio.sleep(0.1)
        asked = rig.ask()
        rig.controller.refuse(await rig.controller.descriptor())

        assert refused.refusal.reason is RefusalReason.NO_EXECUTOR
        assert (await asked.answer()).refusal.reason is RefusalReason.OVERLOAD


async def test_settlement_that_can_not_be_told_ends_the_session(autojump_clock):
    """Forgotten, the controller's book would hold the request; a new session starts a new book."""
    async with running_gateway() as rig:
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        rig.controller.is_full = True
        await asked.answer()
        rig.controller.is_full = False
        await rig.controller.until(lambda: len(rig.controller.hellos) == 2)

        assert rig.controller.ends() == []
