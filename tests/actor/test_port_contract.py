"""One suite for all ports, in memory and over Cap'n Proto: what actors may rely on either way.

Both run on a virtual clock, Cap'n Proto over Trio's memory streams: what waits for ever makes the
clock jump, and `fail_after` then ends the test at once.
"""

import pytest
import trio

from cw import errors, messages
from cw.config import LinkSettings
from cw.rpc.peer_errors import BY_NAME
from tests.actor.port_ways import (
    CLUSTER,
    EXECUTOR_HELLO,
    HELLO,
    SPEC,
    STATUS,
    VERSIONS,
    Controller,
    Executor,
    Gateway,
    InMemory,
    OverCapnp,
    Told,
)

SMALL_OUTBOX = LinkSettings(outbox_messages=10)


@pytest.fixture(params=[InMemory, OverCapnp])
def way(request):
    return request.param(LinkSettings())


@pytest.fixture(params=[InMemory, OverCapnp])
def narrow_way(request):
    return request.param(SMALL_OUTBOX)


def cancel_of(request_id):
    return messages.Cancel(request_id=request_id, attempt=1)


def promise_of(request_id):
    promise = messages.Promise(request_id=request_id, attempt=1, predicted_finish_ns=2)
    return messages.Notices(decisions=(promise,))


def batch(*tensors):
    slots = tuple(
        messages.SlotInputs(position=at, request_id=at, attempt=1, arrival_ns=0, tensors=(tensor,))
        for at, tensor in enumerate(tensors)
    )
    return messages.BatchInputs(epoch=1, action_id=2, ticket=3, slots=slots)


async def test_1000_tells_each_way_keep_their_order(way, autojump_clock):
    """The scheduler's events and the gateway's decisions mean something in their order only."""
    controller, gateway = Controller(), Told()
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            _, session = await port.join_gateway(HELLO, gateway)
            for at in range(1000):
                session.tell([cancel_of(at)])
                controller.peer.tell(promise_of(at))
                if at % 50 == 0:
                    await trio.lowlevel.checkpoint()

            assert await controller.session.wait_for(1000) == [cancel_of(at) for at in range(1000)]
            assert (await gateway.wait_for(1001))[1:] == [promise_of(at) for at in range(1000)]


async def test_newcomer_is_told_before_it_is_welcomed(way, autojump_clock):
    """A gateway that knew no model between its welcome and the notices would fail requests."""
    controller, gateway = Controller(), Told()
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            welcome, _ = await port.join_gateway(HELLO, gateway)

            assert gateway.told == [messages.Notices(models_added=(SPEC,))]
            assert welcome == messages.GatewayWelcome(epoch=3, gateway_id=9)
            assert controller.hello == HELLO


async def test_executor_takes_orders_and_reports(way, autojump_clock):
    """The executor's half of a controller's door, which gateways do not use."""
    controller, executor = Controller(), Told()
    order = messages.Orders(epoch=3, cancels=(messages.CancelSlot(request_id=1, attempt=1),))
    result = messages.ActionResult(
        action_id=1,
        outcome=messages.Outcome.TOO_LATE,
        received_ns=1,
        ready_ns=1,
        start_ns=2,
        end_ns=3,
        device_ns=0,
    )
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            welcome, session = await port.join_executor(EXECUTOR_HELLO, executor)
            controller.peer.tell(order)
            session.tell([result])

            assert welcome == messages.ExecutorWelcome(epoch=3, executor_id=4)
            assert controller.hello == EXECUTOR_HELLO
            assert await executor.wait_for(1) == [order]
            assert await controller.session.wait_for(1) == [result]
            assert await session.ping(5) == messages.Pong(received_ns=6, replied_ns=7)


async def test_full_outbox_takes_nothing_and_loses_nothing(narrow_way, autojump_clock):
    """A sender that is told OutboxFull sheds exactly those messages, and no other."""
    controller = Controller()
    with trio.fail_after(60):
        async with narrow_way.controller(controller) as port:
            _, session = await port.join_gateway(HELLO, Told())
            session.tell([cancel_of(at) for at in range(8)])
            with pytest.raises(errors.OutboxFull, match="at most 10"):
                session.tell([cancel_of(at) for at in range(100, 103)])
            session.tell([cancel_of(8), cancel_of(9)])

            assert await controller.session.wait_for(10) == [cancel_of(at) for at in range(10)]
            session.tell([cancel_of(10)])
            assert (await controller.session.wait_for(11))[-1] == cancel_of(10)


async def test_full_inbox_at_the_receiver_ends_the_connection(way, autojump_clock):
    """What was not taken in is lost in the middle: nothing after it may pass as complete."""
    controller = Controller()
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            _, session = await port.join_gateway(HELLO, Told())
            controller.session.failure = errors.OutboxFull("the inbox is full")
            session.tell([cancel_of(1)])
            await session.wait_closed()
            await controller.peer.wait_closed()

            with pytest.raises(errors.PeerDisconnected):
                session.tell([cancel_of(2)])


async def test_session_answers(way, autojump_clock):
    """Every question of a gateway to its controller, with its answer."""
    controller = Controller()
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            _, session = await port.join_gateway(HELLO, Told())

            assert await session.ping(5) == messages.Pong(received_ns=6, replied_ns=7)
            assert (await session.model_status(17)).steps_done == 17
            assert await session.status() == CLUSTER
            await session.add_model(SPEC)
            assert controller.session.told == [SPEC]
            with pytest.raises(errors.UnknownModel, match="no model 5"):
                await session.remove_model(5)


async def test_cancel_reaches_the_peer(way, autojump_clock):
    """A client that leaves must not keep an executor's slot busy."""
    executor = Executor()
    executor.answers = False
    with trio.fail_after(60):
        async with way.executor(executor) as port:
            with trio.move_on_after(1) as scope:
                await port.infer(batch(b"x"))

            assert scope.cancelled_caught
            await executor.cancelled.wait()


async def test_calls_do_not_hold_up_what_is_told(way, autojump_clock):
    """An executor answers only when the action has ended; its cancels must come before."""
    executor = Executor()
    executor.answers = False
    cancel = messages.CancelSlot(request_id=0, attempt=1)
    with trio.fail_after(60):
        async with way.executor(executor) as port, trio.open_nursery() as nursery:
            nursery.start_soon(port.infer, batch(b"x"))
            await executor.begun.wait()
            port.tell([cancel])

            assert await executor.wait_for(1) == [cancel]
            nursery.cancel_scope.cancel()


async def test_end_of_the_peer_is_seen_at_once(way, autojump_clock):
    """Whoever waits for a dead peer must know now: there may be time for another attempt."""
    executor = Executor()
    executor.answers = False
    started = trio.current_time()
    with trio.fail_after(60):
        async with way.executor(executor) as port:
            async with trio.open_nursery() as nursery:

                async def infer():
                    with pytest.raises(errors.PeerDisconnected):
                        await port.infer(batch(b"x"))

                nursery.start_soon(infer)
                nursery.start_soon(infer)
                await executor.begun.wait()
                way.kill()
                await port.wait_closed()

            await executor.cancelled.wait()
            with pytest.raises(errors.PeerDisconnected):
                port.tell([messages.CancelSlot(request_id=0, attempt=1)])
            with pytest.raises(errors.PeerDisconnected):
                await port.infer(batch(b"x"))
            port.close()
            port.close()

    assert trio.current_time() - started < 1


async def test_end_of_the_dialler_is_seen_by_the_dialled(way, autojump_clock):
    """The controller mourns a gateway by this alone."""
    controller = Controller()
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            _, session = await port.join_gateway(HELLO, Told())
            session.close()
            await controller.peer.wait_closed()
            await port.wait_closed()

            with pytest.raises(errors.PeerDisconnected):
                controller.peer.tell(promise_of(1))


async def test_the_dialled_can_hang_up(way, autojump_clock):
    """The controller drops a silent gateway through the port that it holds of it."""
    controller = Controller()
    with trio.fail_after(60):
        async with way.controller(controller) as port:
            _, session = await port.join_gateway(HELLO, Told())
            controller.peer.close()
            await session.wait_closed()


@pytest.mark.parametrize("name", sorted(BY_NAME))
async def test_errors_keep_their_type(way, autojump_clock, name):
    """A caller decides by the type what to do next, so the wire must not blur it."""
    executor = Executor()
    executor.error = BY_NAME[name]("what came: and what to do")
    with trio.fail_after(60):
        async with way.executor(executor) as port:
            with pytest.raises(errors.CwError) as caught:
                await port.infer(batch(b"x"))

    assert type(caught.value) is BY_NAME[name]
    assert str(caught.value) == "what came: and what to do"


@pytest.mark.parametrize(
    "error",
    [ValueError("bang"), errors.PeerDisconnected("the peer's peer"), errors.PeerSilent("hush")],
)
async def test_other_errors_are_the_peers_own(way, autojump_clock, error):
    """A peer's bug, or its own lost connection, says nothing of this link, which goes on."""
    executor = Executor()
    executor.error = error
    with trio.fail_after(60):
        async with way.executor(executor) as port:
            with pytest.raises(errors.RemoteFailed, match=str(error)) as caught:
                await port.infer(batch(b"x"))
            executor.error = None

            assert type(caught.value) is errors.RemoteFailed
            assert (await port.infer(batch(b"x"))).slots[0].outputs == (b"x",)


async def test_large_payloads_arrive_whole(way, autojump_clock):
    """Eight images of 600 KB in one call, as a batch of a vision model has them."""
    images = [bytes([at]) * 600_000 for at in range(8)]
    with trio.fail_after(60):
        async with way.executor(Executor()) as port:
            outputs = await port.infer(batch(*map(memoryview, images)))

    assert [bytes(slot.outputs[0]) for slot in outputs.slots] == images


async def test_login_gives_what_the_key_opens(way, autojump_clock):
    """What a client may do is what it holds; a wrong key holds nothing."""
    gateway = Gateway()
    tensor = messages.Tensor(name="x", datatype="UINT8", shape=(3,), data=memoryview(b"abc"))
    call = messages.InferCall(model="resnet50", inputs=(tensor,), slo_ns=100)
    with trio.fail_after(60):
        async with way.serving(gateway) as port:
            with pytest.raises(errors.AccessDenied):
                await port.login("wrong")
            with pytest.raises(errors.AccessDenied):
                await port.admin("tenant")
            tenant = await port.login("tenant")

            assert (await tenant.infer(call)).outputs == (b"abc",)
            assert list(await tenant.models()) == [STATUS]
            assert await tenant.status() == CLUSTER
            with pytest.raises(errors.UnknownModel, match="no model alexnet"):
                await tenant.model_status("alexnet")


OFFER = messages.UploadOffer(manifest_sha256="ab12", sizes={"model.toml": 3})


async def test_upload_comes_whole(way, autojump_clock):
    """Each chunk says where it belongs and what its checksum is, and the answer has the number."""
    gateway = Gateway()
    with trio.fail_after(60):
        async with way.serving(gateway) as port:
            admin = await port.admin("admin")
            await admin.allow_program("ab12")
            upload = await admin.begin_upload(OFFER)
            await upload.write("model.toml", b"1", offset=0, crc32=2**32 - 1)
            await upload.write("model.toml", b"2", offset=2**40, crc32=0)

            assert upload.token == gateway.token
            assert await upload.progress() == {"model.toml": 7}
            assert await upload.commit() == SPEC
            assert (await upload.commit(hold=True)).version == 9
            await admin.remove_model("resnet50")
            assert gateway.pieces == [
                "ab12",
                OFFER,
                ("model.toml", b"1", 0, 2**32 - 1),
                ("model.toml", b"2", 2**40, 0),
                "resnet50",
            ]


async def test_upload_outlives_its_connection(way, autojump_clock):
    """It can be gone on with by its token, over another connection."""
    gateway = Gateway()
    with trio.fail_after(60):
        async with way.serving(gateway) as port:
            token = (await (await port.admin("admin")).begin_upload(OFFER)).token
        assert not gateway.discarded.is_set()
        async with way.serving(gateway) as port:
            admin = await port.admin("admin")
            with pytest.raises(errors.UnknownUpload, match="no upload other"):
                await admin.resume_upload("other")
            upload = await admin.resume_upload(token)
            assert upload.token == token
            await upload.discard()

            assert gateway.discarded.is_set()


async def test_versions_are_told_and_routed(way, autojump_clock):
    """What an administrator orders reaches the gateway whole, and so does what came of it."""
    gateway = Gateway()
    order = messages.RouteOrder(
        name="m", switch_to=2, shares=(messages.Share(version=3, percent=10),), is_whole=False
    )
    with trio.fail_after(60):
        async with way.serving(gateway) as port:
            admin = await port.admin("admin")
            assert tuple(await admin.versions("m")) == VERSIONS
            assert tuple(await admin.route_model(order)) == VERSIONS
            assert gateway.pieces == [order]
