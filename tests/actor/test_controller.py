"""The controller: events in, commands out, in order, at once; and peers that can't keep up are cut.

The scheduler here follows a script; `test_one_process.py` has the real one.
"""

import attrs
import pytest
import trio
import trio.testing

from cw.actors.clock import now_ns
from cw.actors.controller import ControllerActor
from cw.actors.gateway import GatewayActor
from cw.config import GatewaySettings, LinkSettings, SchedulerSettings
from cw.core.commands import Decide, DropExecutor, SendAction, SendCancel
from cw.core.events import (
    ActionDone,
    ExecutorJoined,
    ExecutorLost,
    GatewayLost,
    ModelAdded,
    ModelRemoved,
    RequestArrived,
    TimerFired,
)
from cw.core.scheduler import Scheduler
from cw.errors import ModelConflict, PeerDisconnected, UnknownModel
from cw.messages import (
    ActionId,
    ActionResult,
    Attempt,
    Cancel,
    CancelSlot,
    Epoch,
    ExecutorAddress,
    ExecutorId,
    GatewayHello,
    GatewayId,
    ModelState,
    Notices,
    Orders,
    Outcome,
    RequestId,
    Route,
)
from cw.rpc.memory import MemoryNetwork
from cw.units import MS, SECOND
from tests.actor.controller_fakes import FakePeer, descriptor, refuse, running_controller, unload
from tests.actor.fakes import MODEL, make_model

# --- deciding -------------------------------------------------------------------------------------


async def test_what_comes_together_is_decided_together(autojump_clock):
    """A batch is better planned with all that is known; and one step costs less than many."""
    async with running_controller() as rig:
        _, executor_id, executor = await rig.join_executor()
        _, _, gateway = await rig.join_gateway()
        before = len(rig.core.steps)
        result = ActionResult(
            action_id=ActionId(1),
            outcome=Outcome.OK,
            received_ns=0,
            ready_ns=0,
            start_ns=0,
            end_ns=0,
            device_ns=0,
        )
        cancel = Cancel(request_id=RequestId(1), attempt=Attempt(1))
        gateway.tell((descriptor(1), descriptor(2), cancel))
        executor.tell((result,))
        await rig.settle()

        ((_, events),) = rig.core.steps[before:]
        assert events == (
            RequestArrived(descriptor=descriptor(1)),
            RequestArrived(descriptor=descriptor(2)),
            cancel,
            ActionDone(executor_id=executor_id, result=result),
        )


async def test_one_step_is_one_message_to_each_peer_in_order(autojump_clock):
    """Executors carry orders out in the order told; one message costs less than many."""
    async with running_controller() as rig:
        first, first_id, _ = await rig.join_executor("e1")
        second, second_id, _ = await rig.join_executor("e2")
        gateway, gateway_id, _ = await rig.join_gateway()
        gateway.told.clear()
        await rig.order(
            SendAction(executor_id=first_id, action=unload(1)),
            SendAction(executor_id=second_id, action=unload(2)),
            Decide(gateway_id=gateway_id, decision=refuse(7)),
            SendCancel(executor_id=first_id, request_id=RequestId(9), attempt=Attempt(2)),
            SendAction(executor_id=first_id, action=unload(3)),
            Decide(gateway_id=gateway_id, decision=refuse(8)),
        )

        assert first.told == [
            Orders(
                epoch=Epoch(3),
                actions=(unload(1), unload(3)),
                cancels=(CancelSlot(request_id=RequestId(9), attempt=Attempt(2)),),
            )
        ]
        assert second.told == [Orders(epoch=Epoch(3), actions=(unload(2),))]
        assert gateway.told == [Notices(decisions=(refuse(7), refuse(8)))]


async def test_commands_for_those_who_left_are_dropped(autojump_clock):
    """Their loss is on its way to the scheduler as an event; nobody else must suffer for it."""
    async with running_controller() as rig:
        peer, executor_id, _ = await rig.join_executor()
        await rig.order(
            SendAction(executor_id=ExecutorId(99), action=unload(1)),
            SendCancel(executor_id=ExecutorId(99), request_id=RequestId(1), attempt=Attempt(1)),
            Decide(gateway_id=GatewayId(99), decision=refuse(1)),
            DropExecutor(executor_id=ExecutorId(99), reason="gone"),
            SendAction(executor_id=executor_id, action=unload(2)),
        )

        assert [orders.actions for orders in peer.told] == [(unload(2),)]


async def test_timer_fires_when_asked_to_the_nanosecond(autojump_clock):
    """A step that comes late delays a lane; the first wish may give way to an earlier one."""
    async with running_controller() as rig:
        began_ns = now_ns()
        rig.core.wakes_ns = [began_ns + 500 * MS, began_ns + 3 * MS]
        await rig.order()
        await rig.order()
        await trio.sleep(1)

        assert rig.core.steps[2:] == [(began_ns + 3 * MS, (TimerFired(),))]


async def test_timer_that_is_due_already_fires_at_once(autojump_clock):
    """The step that asked may itself have taken longer than what was left."""
    async with running_controller() as rig:
        await trio.sleep(1)
        began_ns = now_ns()
        rig.core.wakes_ns = [began_ns - 5, began_ns]
        await rig.order()

        assert [at_ns for at_ns, _ in rig.core.steps] == [began_ns] * 3


# --- peers ----------------------------------------------------------------------------------------


async def test_full_outbox_cuts_its_peer_off_and_no_other(autojump_clock):
    """Waiting for one would stop all; forgetting a message would leave two different books."""
    async with running_controller() as rig:
        slow, slow_id, _ = await rig.join_executor("slow")
        quick, quick_id, _ = await rig.join_executor("quick")
        deaf, deaf_id, _ = await rig.join_gateway()
        slow.is_full = deaf.is_full = True
        await rig.order(
            SendAction(executor_id=slow_id, action=unload(1)),
            Decide(gateway_id=deaf_id, decision=refuse(1)),
            SendAction(executor_id=quick_id, action=unload(2)),
        )

        assert [slow.closed.is_set(), deaf.closed.is_set()] == [True, True]
        assert len(quick.told) == 1
        assert set(rig.core.events(ExecutorLost, GatewayLost)) == {
            ExecutorLost(executor_id=slow_id),
            GatewayLost(gateway_id=deaf_id),
        }


async def test_silent_peer_is_lost_within_the_bound(autojump_clock):
    """A stopped process keeps its socket; its promises must move while there is time."""
    async with running_controller() as rig:
        silent, silent_id, _ = await rig.join_executor("silent")
        lively, _, session = await rig.join_executor("lively")
        began_ns = now_ns()

        async def ping_on():
            while True:
                await trio.sleep(0.25)
                await session.ping(now_ns())

        rig.nursery.start_soon(ping_on)
        await silent.closed.wait()

        assert SECOND < now_ns() - began_ns <= SECOND + 250 * MS
        await rig.settle()
        assert rig.core.events(ExecutorLost) == [ExecutorLost(executor_id=silent_id)]
        assert not lively.closed.is_set()


async def test_what_a_lost_peer_still_says_is_not_heard(autojump_clock):
    """Its requests were cancelled; one taken in after that would wait for nobody."""
    async with running_controller() as rig:
        peer, gateway_id, session = await rig.join_gateway()
        peer.close()
        await rig.settle()
        with pytest.raises(PeerDisconnected, match="join anew"):
            session.tell((descriptor(1),))

        assert rig.core.events(GatewayLost) == [GatewayLost(gateway_id=gateway_id)]
        assert rig.core.events(RequestArrived) == []


async def test_executor_that_rejoins_replaces_its_earlier_life(autojump_clock):
    """The new process is proof that the old one is gone, before the silence could show it."""
    async with running_controller() as rig:
        old, old_id, _ = await rig.join_executor()
        gateway, _, _ = await rig.join_gateway()
        gateway.told.clear()
        _, new_id, _ = await rig.join_executor(address="address-2")

        assert old.closed.is_set()
        assert new_id != old_id
        changes = rig.core.events(ExecutorJoined, ExecutorLost)[-2:]
        assert changes[0] == ExecutorLost(executor_id=old_id), "lost first, or both could be used"
        assert changes[1].executor_id == new_id
        assert gateway.told == [
            Notices(
                executors_joined=(ExecutorAddress(executor_id=new_id, address="address-2"),),
                executors_lost=(old_id,),
            )
        ]


async def test_gateway_that_comes_back_keeps_its_id(autojump_clock):
    """Its open requests carry the id; the earlier connection may not have been seen to break."""
    async with running_controller() as rig:
        old, gateway_id, _ = await rig.join_gateway()
        new, again_id, session = await rig.join_gateway(previous_id=gateway_id)
        session.tell((descriptor(1),))
        await rig.order(Decide(gateway_id=gateway_id, decision=refuse(1)))

        assert again_id == gateway_id
        assert old.closed.is_set()
        assert new.told[-1].decisions == (refuse(1),)
        lost, arrived = rig.core.events(GatewayLost, RequestArrived)
        assert isinstance(lost, GatewayLost)
        assert isinstance(arrived, RequestArrived), "what it resubmits is not cancelled with it"


async def test_ids_of_an_earlier_reign_are_not_given_twice(autojump_clock):
    """Two gateways under one id would get each other's decisions."""
    async with running_controller() as rig:
        _, first_id, _ = await rig.join_gateway("old", previous_id=GatewayId(5))
        _, second_id, _ = await rig.join_gateway("new")
        _, third_id, _ = await rig.join_gateway("other", previous_id=GatewayId(5))

        assert first_id == 5
        assert len({first_id, second_id, third_id}) == 3


async def test_newcomer_is_told_of_models_and_executors(autojump_clock):
    """A gateway serves what it knows: it has to know all before its first request."""
    async with running_controller(models=[MODEL]) as rig:
        _, executor_id, _ = await rig.join_executor()
        gateway, _, _ = await rig.join_gateway()

        assert gateway.told == [
            Notices(
                models_added=(MODEL,),
                routes=(Route(name=MODEL.name, current=MODEL.model_id),),
                executors_joined=(ExecutorAddress(executor_id=executor_id, address="address-1"),),
            )
        ]


async def test_end_of_the_controller_hangs_up_on_all(autojump_clock):
    """They dial the next one at once instead of waiting for silence."""
    async with running_controller() as rig:
        executor, _, _ = await rig.join_executor()
        gateway, _, _ = await rig.join_gateway()
        rig.nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await rig.controller.wait_closed()

            assert executor.closed.is_set()
            assert gateway.closed.is_set()


# --- the catalog ----------------------------------------------------------------------------------


async def test_catalog_takes_a_model_once(autojump_clock):
    """Clients ask by name: it must mean one thing, whoever adds what twice."""
    async with running_controller() as rig:
        gateway, _, session = await rig.join_gateway()
        await session.add_model(MODEL)
        await session.add_model(MODEL)
        with pytest.raises(ModelConflict, match="another manifest"):
            await session.add_model(attrs.evolve(MODEL, batch_sizes=(1, 3)))
        await session.remove_model(MODEL.model_id)
        with pytest.raises(UnknownModel):
            await session.remove_model(MODEL.model_id)
        await rig.settle()

        assert rig.core.events(ModelAdded, ModelRemoved) == [
            ModelAdded(spec=MODEL),
            ModelRemoved(model_id=MODEL.model_id),
        ]
        added = [spec for notices in gateway.told for spec in notices.models_added]
        assert added == [MODEL]


async def test_model_that_returns_within_one_step_stays_at_the_gateways(autojump_clock):
    """A gateway applies additions before removals: told of both, it would end without the model."""
    async with running_controller(models=[MODEL]) as rig:
        gateway, _, session = await rig.join_gateway()
        served = GatewayActor(
            name="g1",
            settings=GatewaySettings(),
            link=LinkSettings(),
            dial_controller=None,
            dial_executor=None,
        )
        served._nursery = rig.nursery
        await session.remove_model(MODEL.model_id)
        await session.add_model(MODEL)
        await rig.settle()
        for notices in gateway.told:
            served.tell(notices)

        assert served.models == {"m": MODEL}


async def test_model_has_a_status_right_after_it_was_added(autojump_clock):
    """`cw model add` asks at once, before the scheduler has taken its next step."""
    core = Scheduler(SchedulerSettings(), epoch=Epoch(1), ticket_seed=1)
    controller = ControllerActor(core=core, epoch=Epoch(1), link=LinkSettings())
    network = MemoryNetwork()
    network.serve("controller", controller)
    async with trio.open_nursery() as nursery:
        await nursery.start(controller.run)
        async with network.connect_controller("controller") as port:
            _, session = await port.join_gateway(GatewayHello(name="g1"), FakePeer())
            await session.add_model(MODEL)
            status = await session.model_status(MODEL.model_id)
            with pytest.raises(UnknownModel):
                await session.model_status(make_model("other").model_id)

            assert status.state is ModelState.REGISTERING
            assert [each.spec for each in (await session.status()).models] == [MODEL]
        nursery.cancel_scope.cancel()


async def test_executors_of_one_process_share_their_signs_of_life(autojump_clock):
    """A thousand emulated executors must not ping a thousand times: one of them does for all."""
    async with running_controller() as rig:
        mute, *_ = await rig.join_executor(name="mute", address="host")
        _, _, session = await rig.join_executor(name="pinging", address="host")
        alone, *_ = await rig.join_executor(name="alone")
        for _ in range(8):
            await session.ping(0)
            await trio.sleep(0.25)

        assert not mute.closed.is_set()
        assert alone.closed.is_set()
