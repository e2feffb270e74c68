"""ExecutorActor: what it tells its controller, in which order things happen, and rejoining."""

import pytest
import trio

from cw.actors.clock import now_ns
from cw.errors import ArchiveInvalid, DeviceFault, HostMemoryFull, OutboxFull, PeerDisconnected
from cw.messages import Epoch, Outcome
from cw.units import MS, SECOND
from tests.actor.fakes import (
    MODEL,
    FakeController,
    FakeDevice,
    make_model,
    running_executor,
)

OTHER = make_model("other")


async def test_an_action_is_told_in_the_controllers_time(autojump_clock):
    """The profile and the timeline are built from these instants: one clock for all of them."""
    async with running_executor() as rig:
        await rig.warm()
        told_ns = rig.controller.now_ns()
        rig.controller.order(rig.controller.infer(1, [7], earliest_ns=10 * MS))
        await trio.sleep(0.004)
        answer = await rig.port.infer(rig.controller.inputs(1, {0: 7}))
        result = await rig.controller.result(1)

        assert answer.outcome is Outcome.OK
        assert answer.slots[0].outputs == (b"7000",)
        assert answer.device_ns == 3 * MS
        assert result.received_ns == told_ns
        assert result.ready_ns == pytest.approx(told_ns + 4 * MS, abs=10)
        assert result.start_ns == pytest.approx(told_ns + 10 * MS, abs=10)
        assert result.end_ns == pytest.approx(told_ns + 13 * MS, abs=10)
        assert (result.device_ns, result.ran) == (3 * MS, (True,))


async def test_a_probe_needs_no_inputs(autojump_clock):
    """Profiles are measured before anybody asks for the model."""
    async with running_executor() as rig:
        await rig.warm()
        rig.controller.order(rig.controller.infer(1))
        result = await rig.controller.result(1)

        assert (result.outcome, result.device_ns, result.ran) == (Outcome.OK, 3 * MS, ())


@pytest.mark.parametrize("shared_lanes", [False, True])
async def test_load_runs_beside_infer_only_where_lanes_are_apart(shared_lanes, autojump_clock):
    """A GPU copies while it computes; one CPU thread can't, and the plan says so, too."""
    async with running_executor(device=FakeDevice(shared_lanes=shared_lanes)) as rig:
        await rig.warm()
        rig.controller.order(rig.controller.prepare(1, OTHER))
        await rig.controller.result(1)
        rig.controller.order(rig.controller.infer(2), rig.controller.load(3, OTHER))
        await rig.controller.result(3)

        apart_ns = rig.device.starts("load")[-1] - rig.device.starts("infer")[-1]
        assert apart_ns == pytest.approx(3 * MS if shared_lanes else 0, abs=10)


async def test_unload_waits_for_the_models_last_infer_and_load_for_the_pages(autojump_clock):
    """The controller books pages as free when it sends UNLOAD: the order must hold across lanes."""
    async with running_executor(device=FakeDevice(pages_total=1)) as rig:
        await rig.warm()
        control = rig.controller
        control.order(
            control.prepare(1, OTHER),
            control.infer(2, earliest_ns=30 * MS, latest_ns=40 * MS),
            control.unload(3),
            control.load(4, OTHER),
            control.infer(5, model=OTHER, latest_ns=100 * MS),
        )
        outcomes = [(await control.result(action)).outcome for action in range(1, 6)]

        assert outcomes == [Outcome.OK] * 5
        order = [(method, model) for method, model, _ in rig.device.calls[-4:]]
        assert order == [
            ("infer", MODEL.model_id),
            ("unload", MODEL.model_id),
            ("load", OTHER.model_id),
            ("infer", OTHER.model_id),
        ]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda c: c.infer(1, model=make_model("unheard")), Outcome.UNKNOWN_MODEL),
        (lambda c: c.load(1, make_model("unheard")), Outcome.UNKNOWN_MODEL),
        (lambda c: c.infer(1, model=OTHER), Outcome.NOT_RESIDENT),
        (lambda c: c.load(1, make_model("big", pages=9)), Outcome.PAGES_EXHAUSTED),
        (lambda c: c.load(1, OTHER, latest_ns=0), Outcome.OK),
        (lambda c: c.unload(1, OTHER), Outcome.OK),
        (lambda c: c.unload(1, OTHER, forget=True), Outcome.OK),
    ],
)
async def test_what_cannot_be_done_is_answered_at_once(make, expected, autojump_clock):
    """A wrong plan costs one action each, and the controller learns why in a round trip."""
    async with running_executor() as rig:
        for action_id, model in enumerate((OTHER, make_model("big", pages=9)), start=50):
            rig.controller.order(rig.controller.prepare(action_id, model))
            await rig.controller.result(action_id)
        began_ns = now_ns()
        rig.controller.order(make(rig.controller))
        result = await rig.controller.result(1)

        assert result.outcome is expected
        assert now_ns() - began_ns <= 5 * MS
        assert (result.device_ns > 0) == (rig.device.calls[-1][0] == "load")


async def test_a_program_that_cannot_be_prepared_says_why(autojump_clock):
    """Registration fails with the reason; the executor serves its other models on."""
    device = FakeDevice(refuses_prepare=ArchiveInvalid("weights lie about themselves"))
    async with running_executor(device=device) as rig:
        rig.controller.order(rig.controller.prepare(1))
        result = await rig.controller.result(1)

        assert result.outcome is Outcome.INVALID
        assert result.detail == "weights lie about themselves"
        device.refuses_prepare = None
        await rig.warm()


async def test_full_host_memory_is_no_fault_of_the_model(autojump_clock):
    """The controller looks for another executor; this one serves its other models on."""
    device = FakeDevice(refuses_prepare=HostMemoryFull("expected 45 MiB, got 3 MiB"))
    async with running_executor(device=device) as rig:
        rig.controller.order(rig.controller.prepare(1))
        result = await rig.controller.result(1)

        assert result.outcome is Outcome.HOST_MEMORY_FULL
        assert result.detail == "expected 45 MiB, got 3 MiB"


async def test_a_full_queue_answers_instead_of_growing(autojump_clock):
    """Every accepted action has room for its result; what is over the bound is told so."""
    async with running_executor(max_queued_actions=2) as rig:
        await rig.warm()
        control = rig.controller
        far = [control.infer(n, earliest_ns=SECOND, latest_ns=2 * SECOND) for n in range(1, 4)]
        control.order(*far)
        result = await control.result(3)

        assert result.outcome is Outcome.TOO_LATE
        assert "at most 2 waiting actions" in result.detail
        assert (await control.result(2)).outcome is Outcome.OK


async def test_orders_that_come_before_the_clock_is_good_are_kept(autojump_clock):
    """A controller sends orders as soon as it has welcomed: they must not be judged by no clock."""

    class Eager(FakeController):
        async def join_executor(self, hello, executor):
            answer = await FakeController.join_executor(self, hello, executor)
            self.order(self.prepare(1))
            return answer

    async with running_executor(controller=Eager()) as rig:
        assert (await rig.controller.result(1)).outcome is Outcome.OK


async def test_a_stale_epochs_orders_are_not_run(autojump_clock):
    """A deposed controller's messages may still be on their way."""
    async with running_executor() as rig:
        rig.controller.order(rig.controller.prepare(1), epoch=Epoch(0))

        assert (await rig.controller.result(1)).outcome is Outcome.STALE_EPOCH
        assert rig.device.calls == []


async def test_a_new_controller_learns_what_is_prepared_and_resident(autojump_clock):
    """Its state is soft: all it knows of a device is what the hello says."""
    async with running_executor() as rig:
        await rig.warm()
        rig.controller.order(rig.controller.prepare(1, OTHER))
        await rig.controller.result(1)
        rig.controller.go_down()
        await trio.sleep(2)
        rig.controller.come_back(epoch=Epoch(2), ahead_ns=-7 * SECOND)
        began_ns = now_ns()
        await rig.controller.joined(2)

        hello = rig.controller.hellos[-1]
        assert set(hello.prepared) == {MODEL.model_id, OTHER.model_id}
        assert hello.resident == (MODEL.model_id,)
        assert now_ns() - began_ns <= SECOND // 2
        rig.controller.order(rig.controller.infer(5))
        result = await rig.controller.result(5)
        assert result.outcome is Outcome.OK
        assert result.end_ns == pytest.approx(rig.controller.now_ns(), abs=MS)


async def test_the_hello_waits_for_a_load_in_progress(autojump_clock):
    """Else the new controller would sell the pages that the LOAD is filling."""
    async with running_executor(device=FakeDevice(load_ns=SECOND)) as rig:
        rig.controller.order(rig.controller.prepare(1), rig.controller.load(2))
        await rig.controller.result(1)
        await trio.sleep(0.1)
        rig.controller.close()
        await rig.controller.joined(2)

        assert rig.controller.hellos[-1].resident == (MODEL.model_id,)


async def test_redials_back_off_but_stay_frequent(autojump_clock):
    """A controller that is away must not be hammered, nor wait long for its executors."""
    async with running_executor() as rig:
        rig.controller.go_down()
        before = rig.controller.dials
        await trio.sleep(10)

        assert 30 <= rig.controller.dials - before <= 50


async def test_a_silent_controller_is_lost(autojump_clock):
    """A stopped controller keeps its connection; its standby must find free executors."""
    async with running_executor() as rig:
        rig.controller.is_silent = True
        await trio.sleep(1.1)
        rig.controller.is_silent = False
        rig.controller.come_back(epoch=Epoch(2), ahead_ns=0)
        await rig.controller.joined(2)

        assert len(rig.controller.hellos) == 2


async def test_an_older_controller_is_not_obeyed(autojump_clock):
    """Two controllers at a time: the deposed one must not get the device back."""
    async with running_executor(controller=FakeController(epoch=Epoch(5))) as rig:
        rig.controller.come_back(epoch=Epoch(4), ahead_ns=0)
        rig.controller.close()
        await trio.sleep(1)

        assert rig.executor._epoch == 5
        with pytest.raises(PeerDisconnected):
            rig.controller.order(rig.controller.prepare(1))


async def test_an_action_sent_twice_makes_the_executor_join_anew(autojump_clock):
    """Two batches under one name would answer each other's callers: join anew."""
    async with running_executor() as rig:
        await rig.warm()
        action = rig.controller.infer(1, [7])
        rig.controller.order(action, action)
        await rig.controller.joined(2)

        assert rig.controller.hellos[-1].resident == (MODEL.model_id,)


async def test_a_controller_that_takes_no_results_is_given_up(autojump_clock):
    """It would plan on lanes that it believes to be busy for ever."""

    class Deaf(FakeController):
        def tell(self, results):
            raise OutboxFull("no room")

    async with running_executor(controller=Deaf()) as rig:
        rig.controller.order(rig.controller.prepare(1))
        await rig.controller.joined(2)

        assert rig.controller.hellos[-1].prepared == (MODEL.model_id,)


async def test_a_controller_that_does_not_let_join_is_dialled_again(autojump_clock):
    """A dial that hangs must not keep the executor out for good."""

    class Hanging(FakeController):
        async def join_executor(self, hello, executor):
            if self.dials == 1:
                await trio.sleep_forever()
            return await FakeController.join_executor(self, hello, executor)

    began_ns = now_ns()
    async with running_executor(controller=Hanging()) as rig:
        assert rig.controller.dials == 2
        assert SECOND <= now_ns() - began_ns <= 2 * SECOND


async def test_a_contradicting_plan_makes_the_executor_join_anew(autojump_clock):
    """LOAD of a model that is warm: the controller's picture is wrong, a hello mends it."""
    async with running_executor() as rig:
        await rig.warm()
        rig.controller.order(rig.controller.load(1))
        result = await rig.controller.result(1)
        await rig.controller.joined(2)

        assert result.outcome is Outcome.INVALID
        assert "is warm" in result.detail
        assert rig.controller.hellos[-1].resident == (MODEL.model_id,)


async def test_a_device_fault_is_told_to_all_and_ends_the_process(autojump_clock):
    """Only a restart mends a device; until then nobody may wait for what will not come."""
    device, controller = FakeDevice(breaks_on="infer"), FakeController()
    calls = []

    async def live():
        async with running_executor(device=device, controller=controller) as rig:
            await rig.warm()
            controller.order(controller.infer(1, [7]))
            calls.append(rig.call(controller.inputs(1, {0: 7})))
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await live()

    assert raised.group_contains(DeviceFault, match="broke the fake device")
    assert controller.results[-1].outcome is Outcome.DEVICE_FAULT
    assert controller.told_at_last_ping == len(controller.results)
    assert calls[0].answer.outcome is Outcome.DEVICE_FAULT
