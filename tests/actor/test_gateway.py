"""The gateway: exactly one answer to each call, by its deadline, whatever it is told or is not."""

import trio

from cw.messages import (
    AttemptFailed,
    Cancel,
    Descriptor,
    FailureKind,
    Notices,
    RefusalReason,
    Settled,
)
from cw.units import MS, SECOND
from tests.actor.fakes import MODEL, make_model
from tests.actor.gateway_fakes import OTHER, running_gateway


async def test_output_in_time_is_the_answer(autojump_clock):
    """The plain path: promise, assignment, output, and the controller hears that it was kept."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.promise(descriptor)
        await trio.sleep(0.004)
        rig.controller.assign(descriptor)
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)
        assert answer.promised
        assert (answer.timing.total_ns, answer.timing.predicted_ns) == (14 * MS, 20 * MS)
        assert (answer.timing.device_ns, answer.timing.batch_size) == (10 * MS, 1)
        assert rig.controller.ends() == [(1, "kept")]
        (settled,) = rig.controller.told(Settled)
        assert settled.finished_ns == descriptor.arrival_ns + 14 * MS


async def test_descriptor_is_in_the_controllers_time(autojump_clock):
    """The clocks differ by seconds; a deadline on the wrong one is already over, or never comes."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()

        assert descriptor.arrival_ns == rig.controller.now_ns()
        assert 99 * MS < descriptor.deadline_ns - descriptor.arrival_ns <= 100 * MS
        asked.scope.cancel()


async def test_late_output_is_thrown_away_at_the_deadline(autojump_clock):
    """The client was told when to expect the answer: not a moment later, and never twice."""
    async with running_gateway() as rig:
        rig.executor.takes_ns = 150 * MS
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())
        answer = await asked.answer()

        assert asked.took_ns == 100 * MS
        assert answer.failure.kind is FailureKind.LATE
        assert answer.promised
        await trio.sleep(0.1)
        assert rig.controller.ends() == [(1, "late")]
        assert rig.controller.told(AttemptFailed) == []


async def test_output_at_the_deadline_itself_is_late(autojump_clock):
    """Two tasks wake at that instant, in any order: the answer must not depend on which."""
    async with running_gateway() as rig:
        rig.executor.takes_ns = 100 * MS
        asked = rig.ask()
        rig.controller.assign(await rig.controller.descriptor())

        assert (await asked.answer()).failure.kind is FailureKind.LATE
        assert rig.controller.ends() == [(1, "late")]


async def test_without_any_decision_the_answer_is_a_refusal(autojump_clock):
    """What was never promised is not a broken promise, even when the controller says nothing."""
    async with running_gateway() as rig:
        asked = rig.ask()
        answer = await asked.answer()

        assert asked.took_ns == 100 * MS
        assert answer.refusal.reason is RefusalReason.OVERLOAD
        assert not answer.promised
        assert rig.controller.ends() == [(1, "late")]


async def test_refusal_says_when_as_a_duration_from_the_call(autojump_clock):
    """A client has no use for an instant on the controller's clock."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        await trio.sleep(0.005)
        earliest_ns = descriptor.arrival_ns + 250 * MS
        rig.controller.refuse(descriptor, earliest_finish_ns=earliest_ns)
        answer = await asked.answer()

        assert asked.took_ns == 5 * MS
        assert answer.refusal.earliest_finish_ns == 250 * MS
        assert rig.controller.ends() == [], "the controller ended it itself"


async def test_refusal_with_a_finish_in_the_past_is_not_negative(autojump_clock):
    """The clocks' error may put it before the call; a negative duration is no advice."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.refuse(descriptor, earliest_finish_ns=descriptor.arrival_ns - 1)

        assert (await asked.answer()).refusal.earliest_finish_ns == 0


async def test_abandon_ends_a_promise(autojump_clock):
    """A broken promise is told at once: the caller still has time to go elsewhere."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.promise(descriptor)
        rig.controller.abandon(descriptor)
        answer = await asked.answer()

        assert asked.took_ns == 0
        assert answer.failure.kind is FailureKind.EXECUTOR_LOST
        assert answer.promised
        assert rig.controller.ends() == []


async def test_abandon_of_a_later_attempt_than_the_known_is_heeded(autojump_clock):
    """Attempt 2 may be given up before it was ever assigned: waiting on is of no use then."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor)
        await trio.sleep(0.002)
        rig.controller.abandon(descriptor, attempt=2)
        answer = await asked.answer()

        assert asked.took_ns == 2 * MS
        assert answer.failure.kind is FailureKind.EXECUTOR_LOST


async def test_decisions_after_the_answer_change_nothing(autojump_clock):
    """They cross with the settlement on the wire, all the time."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.refuse(descriptor)
        rig.controller.abandon(descriptor)
        rig.controller.assign(descriptor)
        answer = await asked.answer()
        rig.controller.promise(descriptor)

        assert answer.refusal is not None
        await trio.sleep(0.02)
        assert rig.executor.calls == []


async def test_second_attempt_elsewhere_answers(autojump_clock):
    """An executor's death must not break its promises while there is time for another."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor)
        await trio.sleep(0.005)
        rig.controller.gateway.tell(Notices(executors_lost=(1,)))
        failed = await rig.controller.until(lambda: rig.controller.told(AttemptFailed) or None)
        rig.controller.assign(descriptor, executor=OTHER, attempt=2)
        answer = await asked.answer()

        assert [each.attempt for each in failed] == [1]
        assert answer.outputs == (b"dcba",)
        assert asked.took_ns == 15 * MS
        assert rig.controller.ends() == [(2, "kept")]


async def test_outputs_of_a_stale_attempt_are_ignored(autojump_clock):
    """At most one attempt is current, or a request could be answered and metered twice."""
    async with running_gateway() as rig:
        rig.other.takes_ns = 30 * MS
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor)
        await trio.sleep(0.005)
        rig.controller.assign(descriptor, executor=OTHER, attempt=2)
        await asked.answer()

        assert asked.took_ns == 35 * MS, "not 10 ms, when attempt 1 gave its output"
        assert rig.controller.ends() == [(2, "kept")]


async def test_stale_decisions_are_ignored(autojump_clock):
    """What was said of attempt 1 while attempt 2 was begun is not about attempt 2."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.assign(descriptor, attempt=2)
        rig.controller.abandon(descriptor, attempt=1)
        rig.controller.assign(descriptor, executor=OTHER, attempt=1)

        assert (await asked.answer()).outputs == (b"dcba",)
        assert rig.other.calls == []


async def test_cancel_before_the_decision_is_told_once(autojump_clock):
    """The scheduler stops planning for a caller that went away."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        asked.scope.cancel()
        await asked.done.wait()
        rig.controller.assign(descriptor)
        await trio.sleep(0.2)

        assert rig.controller.told(Cancel) == [Cancel(request_id=descriptor.request_id, attempt=1)]
        assert rig.controller.ends() == [(1, "cancel")]
        assert rig.executor.calls == [], "nobody's inputs are carried"


async def test_cancel_after_assignment_leaves_the_neighbour_alone(autojump_clock):
    """One call carries a whole batch: it must not be any one client's to take along."""
    async with running_gateway() as rig:
        leaving, staying = rig.ask(b"gone"), rig.ask(b"here")
        first = await rig.controller.descriptor(1)
        second = await rig.controller.descriptor(2)
        if first.request_id > second.request_id:
            first, second = second, first
        rig.controller.assign(first, second)
        await trio.sleep(0.005)
        leaving.scope.cancel()
        answer = await staying.answer()

        assert answer.outputs in {(b"ereh",), (b"enog",)}
        assert len(rig.executor.calls) == 1
        cancelled = [each.request_id for each in rig.executor.cancels]
        assert cancelled == [each.request_id for each in rig.controller.told(Cancel)]
        assert len(cancelled) == 1
        assert sorted(rig.controller.ends()) == [(1, "cancel"), (1, "kept")]


async def test_calls_that_can_never_be_served_cost_the_controller_nothing(autojump_clock):
    """A client's mistake is answered where it is made, and says what was expected."""
    async with running_gateway() as rig:
        answers = [
            await rig.ask(model="nobody").answer(),
            await rig.ask(name="wrong").answer(),
            await rig.ask(b"abc").answer(),
            await rig.ask(slo_ns=0).answer(),
            await rig.ask(slo_ns=SECOND**2).answer(),
        ]

        assert [answer.failure.kind for answer in answers] == [
            FailureKind.UNKNOWN_MODEL,
            FailureKind.INVALID_INPUT,
            FailureKind.INVALID_INPUT,
            FailureKind.INVALID_SLO,
            FailureKind.INVALID_SLO,
        ]
        assert rig.controller.told(Descriptor) == []


async def test_full_book_refuses_busy(autojump_clock):
    """Memory is bounded by the gateway, not by the number of its clients."""
    async with running_gateway(max_open_requests=2) as rig:
        held = [rig.ask(), rig.ask()]
        await rig.controller.descriptor(2)
        refused = await rig.ask().answer()

        assert refused.refusal.reason is RefusalReason.BUSY
        assert len(rig.controller.told(Descriptor)) == 2
        for asked in held:
            asked.scope.cancel()


async def test_full_payload_bound_refuses_busy(autojump_clock):
    """Few large requests fill memory as well as many small ones; room comes back with answers."""
    async with running_gateway(max_open_bytes=7) as rig:
        held = rig.ask()
        await rig.controller.descriptor()
        refused = await rig.ask().answer()
        held.scope.cancel()
        await held.done.wait()
        taken = rig.ask()
        await rig.controller.descriptor(2)

        assert refused.refusal.reason is RefusalReason.BUSY
        taken.scope.cancel()


async def test_full_outbox_refuses_at_once(autojump_clock):
    """A controller that is behind must not be given more, nor the client left waiting."""
    async with running_gateway() as rig:
        rig.controller.is_full = True
        asked = rig.ask()
        answer = await asked.answer()

        assert answer.refusal.reason is RefusalReason.OVERLOAD
        assert asked.took_ns == 0
        rig.controller.is_full = False


async def test_removed_model_is_unknown_to_new_calls_and_serves_the_old(autojump_clock):
    """A removal finishes what was promised and takes nothing new."""
    async with running_gateway() as rig:
        asked = rig.ask()
        descriptor = await rig.controller.descriptor()
        rig.controller.promise(descriptor)
        rig.controller.gateway.tell(Notices(models_removed=(MODEL.model_id,)))
        refused = await rig.ask().answer()
        rig.controller.assign(descriptor)

        assert refused.failure.kind is FailureKind.UNKNOWN_MODEL
        assert (await asked.answer()).outputs == (b"dcba",)


async def test_models_come_and_go_by_notices(autojump_clock):
    """Clients ask by name; the same name may come back with other contents."""
    async with running_gateway() as rig:
        other = make_model("n")
        rig.controller.gateway.tell(Notices(models_added=(other,), models_removed=(12345,)))

        assert rig.gateway.models == {"m": MODEL, "n": other}
