"""One gateway before two cells: each request has one answer, whichever controllers live."""

from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from cw.actors.cells import CellRouter
from cw.actors.gateway import GatewayActor
from cw.config import GatewaySettings, LinkSettings
from cw.core.cells import home_order
from cw.errors import PeerDisconnected
from cw.messages import Descriptor, FailureKind, InferCall, RefusalReason, Tensor
from cw.units import MS
from tests.actor.fakes import MODEL
from tests.actor.gateway_fakes import EXECUTOR, Asked, FakeController, FakeExecutor

HOME, OTHER = home_order(MODEL.model_id, 2)


@attrs.frozen
class Rig:
    """A router with the controllers and executors of its two cells."""

    router: CellRouter
    controllers: tuple
    executors: tuple
    nursery: trio.Nursery

    def ask(self, *, slo_ns=100 * MS):
        asked = Asked()
        tensor = Tensor(name="x", datatype="UINT8", shape=(4,), data=b"abcd")
        call = InferCall(model="m", inputs=(tensor,), slo_ns=slo_ns)
        self.nursery.start_soon(asked.run, self.router, call)
        return asked

    async def until_joined(self, cell):
        while self.router.cells[cell].session is None:
            await trio.sleep(0.001)


@asynccontextmanager
async def two_cells(*, controllers=None):
    """Run a gateway before two cells of one executor each."""
    controllers = controllers or tuple(FakeController(executors=(EXECUTOR,)) for _ in range(2))
    executors = (FakeExecutor(), FakeExecutor())
    cells = [
        GatewayActor(
            name="g1",
            settings=GatewaySettings(),
            link=LinkSettings(),
            dial_controller=controller.dial,
            dial_executor=lambda _, executor=executor: executor.dial(),
        )
        for controller, executor in zip(controllers, executors, strict=True)
    ]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            router = CellRouter(cells)
            await nursery.start(router.run)
            rig = Rig(router, controllers, executors, nursery)
            for cell, controller in enumerate(controllers):
                if controller.is_up:
                    await rig.until_joined(cell)
            yield rig
            await trio.sleep(0.3)
            assert [len(cell.book) for cell in cells] == [0, 0]
            nursery.cancel_scope.cancel()


async def test_request_goes_to_its_models_home(autojump_clock):
    """One cell alone hears of it: batches fill there, and the other has nothing to forget."""
    async with two_cells() as rig:
        asked = rig.ask()
        rig.controllers[HOME].assign(await rig.controllers[HOME].descriptor())
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)
        assert rig.controllers[OTHER].told(Descriptor) == []


async def test_refused_request_is_tried_once_elsewhere(autojump_clock):
    """What one cell has no room for another may have; its answer is the one that counts."""
    async with two_cells() as rig:
        asked = rig.ask()
        rig.controllers[HOME].refuse(await rig.controllers[HOME].descriptor())
        second = await rig.controllers[OTHER].descriptor()
        rig.controllers[OTHER].assign(second)
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)
        assert second.deadline_ns - second.arrival_ns <= 100 * MS


async def test_refused_everywhere_tells_the_earlier_finish(autojump_clock):
    """A caller that is sent away should come back when the first of the cells could have him."""
    async with two_cells() as rig:
        asked = rig.ask()
        home, other = rig.controllers[HOME], rig.controllers[OTHER]
        first = await home.descriptor()
        home.refuse(first, earliest_finish_ns=first.arrival_ns + 150 * MS)
        second = await other.descriptor()
        other.refuse(second, earliest_finish_ns=second.arrival_ns + 250 * MS)
        answer = await asked.answer()

        assert answer.refusal.reason is RefusalReason.OVERLOAD
        assert answer.refusal.earliest_finish_ns == pytest.approx(150 * MS, abs=MS)


async def test_refusal_at_the_deadline_is_not_tried_again(autojump_clock):
    """There is no time left in which another cell could do anything."""
    async with two_cells() as rig:
        answer = await rig.ask().answer()

        assert answer.refusal.reason is RefusalReason.OVERLOAD
        assert len(rig.controllers[HOME].told(Descriptor)) == 1
        assert rig.controllers[OTHER].told(Descriptor) == []


async def test_waiting_request_moves_when_its_controller_dies(autojump_clock):
    """Nobody has begun it: the other cell can still answer before the deadline."""
    async with two_cells() as rig:
        asked = rig.ask()
        await rig.controllers[HOME].descriptor()
        rig.controllers[HOME].go_down()
        rig.controllers[OTHER].assign(await rig.controllers[OTHER].descriptor())
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)


async def test_running_request_is_answered_without_its_controller(autojump_clock):
    """Its executor goes on: asked elsewhere, too, it would run twice."""
    async with two_cells() as rig:
        rig.executors[HOME].takes_ns = 30 * MS
        asked = rig.ask()
        rig.controllers[HOME].assign(await rig.controllers[HOME].descriptor())
        await trio.sleep(0.005)
        rig.controllers[HOME].go_down()
        answer = await asked.answer()

        assert answer.outputs == (b"dcba",)
        assert rig.controllers[OTHER].told(Descriptor) == []


async def test_promise_that_no_cell_can_keep_is_broken_and_not_refused(autojump_clock):
    """Promised, then refused, would hide a broken promise among the refusals."""
    async with two_cells() as rig:
        asked = rig.ask()
        descriptor = await rig.controllers[HOME].descriptor()
        rig.controllers[HOME].promise(descriptor)
        await trio.sleep(0.001)
        rig.controllers[HOME].go_down()
        rig.controllers[OTHER].refuse(await rig.controllers[OTHER].descriptor())
        answer = await asked.answer()

        assert answer.promised
        assert answer.failure.kind is FailureKind.LATE


async def test_dead_cell_is_left_out_and_used_again_when_it_is_back(autojump_clock):
    """One cell serves alone meanwhile; afterwards home is home again."""
    async with two_cells() as rig:
        home, other = rig.controllers[HOME], rig.controllers[OTHER]
        home.go_down()
        await trio.sleep(0.01)
        asked = rig.ask()
        other.assign(await other.descriptor())
        assert (await asked.answer()).outputs == (b"dcba",)

        home.is_up = True
        await rig.until_joined(HOME)
        asked = rig.ask()
        home.assign(await home.descriptor())
        assert (await asked.answer()).outputs == (b"dcba",)


async def test_one_controller_is_enough_to_start_and_none_is_said_honestly(autojump_clock):
    """A gateway that waited for all cells would make each a single point of failure."""
    controllers = tuple(FakeController(executors=(EXECUTOR,), is_up=up) for up in (True, False))
    async with two_cells(controllers=controllers) as rig:
        asked = rig.ask()
        controllers[0].assign(await controllers[0].descriptor())
        assert (await asked.answer()).outputs == (b"dcba",)

        controllers[0].go_down()
        await trio.sleep(0.01)
        answer = await rig.ask().answer()
        assert answer.refusal.reason is RefusalReason.NO_EXECUTOR


async def test_models_change_only_while_all_cells_can_be_told(autojump_clock):
    """A cell that missed a removal would serve the model again, one that missed one never."""
    async with two_cells() as rig:
        rig.controllers[OTHER].go_down()
        await trio.sleep(0.01)

        with pytest.raises(PeerDisconnected, match="got 1"):
            await rig.router.session.add_model(MODEL)
