"""Stand-ins around an executor: a device with scripted durations, a controller with its own clock.

They are plain objects that satisfy the protocols; nothing in them is mocked or patched. All of it
stands still under `autojump_clock`.
"""

from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio

from cw.actors.clock import now_ns, trio_time
from cw.actors.executor import ExecutorActor
from cw.actors.weights_cache import ModelFiles
from cw.config import ExecutorSettings, LinkSettings
from cw.devices.device import DeviceReport, InferReport
from cw.errors import DeviceFault, PeerDisconnected, StartMissed
from cw.messages import (
    ActionId,
    Attempt,
    BatchInputs,
    Datatype,
    DeviceDescription,
    Epoch,
    ExecutorId,
    ExecutorWelcome,
    Incarnation,
    Infer,
    Load,
    ModelSpec,
    Orders,
    Pong,
    Prepare,
    RequestId,
    Slot,
    SlotInputs,
    TensorSpec,
    Ticket,
    Unload,
    Window,
    model_id_for,
)
from cw.units import MS, PAGE_BYTES, SECOND

FAR_NS = 3600 * SECOND


def make_model(name="m", *, pages=1):
    """A model of one 4-byte input and output."""
    return ModelSpec(
        model_id=model_id_for(name, "a" * 64, "b" * 64),
        name=name,
        program_sha256="a" * 64,
        weights_sha256="b" * 64,
        image_bytes=pages * PAGE_BYTES,
        inputs=(TensorSpec(name="x", datatype=Datatype.UINT8, shape=(4,)),),
        outputs=(TensorSpec(name="y", datatype=Datatype.UINT8, shape=(4,)),),
        batch_sizes=(1, 2, 4, 8),
    )


MODEL = make_model()


@attrs.define
class FakeDevice:
    """Takes as long as its script says; an output is its input, reversed."""

    pages_total: int = 4
    shared_lanes: bool = False
    infer_ns: int = 3 * MS
    load_ns: int = 5 * MS
    prepare_ns: int = 20 * MS
    calls: list = attrs.Factory(list)
    """(method, model id, start in ns), in the order of starts."""
    pages: dict = attrs.Factory(dict)
    breaks_on: str = ""
    refuses_prepare: Exception | None = None
    waiting: int = 0
    """Calls that the device has, but has not begun; of the lane that was used last."""
    _running: set = attrs.Factory(set)
    _turns: dict = attrs.Factory(dict)

    def describe(self):
        return DeviceDescription(
            kind="fake",
            name="fake",
            pages_total=self.pages_total,
            shared_lanes=self.shared_lanes,
            load_bytes_per_second=SECOND,
        )

    def starts(self, method):
        return [start_ns for name, _, start_ns in self.calls if name == method]

    async def _take(self, method, model_id, duration_ns, *, lane, window=None):
        turn = self._turns.setdefault(lane, trio.StrictFIFOLock())
        self.waiting = turn.statistics().tasks_waiting + turn.locked()
        assert self.waiting <= 1, f"more than one call waits behind another on the {lane} lane"
        async with turn:
            self.waiting = turn.statistics().tasks_waiting
            return await self._take_turn(method, model_id, duration_ns, lane, window)

    async def _take_turn(self, method, model_id, duration_ns, lane, window):
        if window is not None:
            await trio.sleep_until(trio_time(window.earliest_ns))
            if now_ns() > window.latest_ns:
                raise StartMissed(f"{method} of model {model_id} was too late")
        start_ns = now_ns()
        self.calls.append((method, model_id, start_ns))
        self._running.add(lane)
        await trio.sleep(duration_ns / SECOND)
        self._running.discard(lane)
        if self.breaks_on == method:
            raise DeviceFault(f"{method} broke the fake device")
        return {
            "start_ns": start_ns,
            "end_ns": start_ns + duration_ns,
            "device_ns": duration_ns,
            "running_ns": duration_ns,
        }

    async def prepare(self, model, program, weights, *, is_allowed=False):
        if self.refuses_prepare is not None:
            raise self.refuses_prepare
        report = await self._take("prepare", model.model_id, self.prepare_ns, lane="infer")
        return DeviceReport(**report)

    async def load(self, model_id, pages, *, window=None):
        taken = {page for held in self.pages.values() for page in held}
        assert not taken & set(pages), "a page was given to two models"
        self.pages[model_id] = tuple(pages)
        lane = "infer" if self.shared_lanes else "load"
        try:
            report = await self._take("load", model_id, self.load_ns, lane=lane, window=window)
        except StartMissed:
            del self.pages[model_id]
            raise
        return DeviceReport(**report)

    async def unload(self, model_id):
        assert "infer" not in self._running or self.calls[-1][1] != model_id, "UNLOAD under INFER"
        self.calls.append(("unload", model_id, now_ns()))
        del self.pages[model_id]
        await trio.lowlevel.checkpoint()

    async def infer(self, model_id, batch_size, inputs, *, window=None):
        assert model_id in self.pages, "INFER of a model without pages"
        report = await self._take("infer", model_id, self.infer_ns, lane="infer", window=window)
        outputs = tuple((bytes(tensors[0])[::-1],) for tensors in inputs)
        return InferReport(**report, outputs=outputs)

    async def forget(self, model_id):
        self.calls.append(("forget", model_id, now_ns()))
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        await trio.lowlevel.checkpoint()


async def locate_anything(model):
    """Find every model, without a store."""
    await trio.lowlevel.checkpoint()
    return ModelFiles(program=Path("program"), weights=Path("weights"))


@attrs.define(eq=False)
class FakeController:
    """A controller whose clock is ahead, and whose connection can be cut; also its own session."""

    epoch: Epoch = attrs.Factory(lambda: Epoch(1))
    ahead_ns: int = 5 * SECOND
    hellos: list = attrs.Factory(list)
    results: list = attrs.Factory(list)
    dials: int = 0
    is_up: bool = True
    is_silent: bool = False
    executor: object = None
    told_at_last_ping: int = 0
    """Results that had come when it was pinged last."""
    _closed: trio.Event = attrs.Factory(trio.Event)
    _changed: trio.Event = attrs.Factory(trio.Event)

    @asynccontextmanager
    async def dial(self):
        await trio.lowlevel.checkpoint()
        self.dials += 1
        if not self.is_up:
            raise PeerDisconnected("nothing listens")
        self._closed = trio.Event()
        yield self

    async def join_executor(self, hello, executor):
        await trio.lowlevel.checkpoint()
        self.hellos.append(hello)
        self.executor = executor
        self._notify()
        welcome = ExecutorWelcome(epoch=self.epoch, executor_id=ExecutorId(len(self.hellos)))
        return welcome, self

    def tell(self, results):
        self.results.extend(results)
        self._notify()

    async def ping(self, sent_ns):
        if self.is_silent:
            await trio.sleep_forever()
        self.told_at_last_ping = len(self.results)
        await trio.lowlevel.checkpoint()
        return Pong(received_ns=self.now_ns(), replied_ns=self.now_ns())

    async def wait_closed(self):
        await self._closed.wait()

    def close(self):
        self._closed.set()

    def now_ns(self):
        return now_ns() + self.ahead_ns

    def go_down(self):
        """Die, and let nobody dial."""
        self.is_up = False
        self.close()

    def come_back(self, *, epoch, ahead_ns):
        """Be another controller, with another clock."""
        self.epoch, self.ahead_ns, self.is_up = epoch, ahead_ns, True

    def order(self, *actions, cancels=(), epoch=None):
        """Send orders to the executor that joined last."""
        self.executor.tell(
            Orders(epoch=self.epoch if epoch is None else epoch, actions=actions, cancels=cancels)
        )

    async def result(self, action_id):
        """Wait for an action's result."""
        return await self.until(
            lambda: next((r for r in self.results if r.action_id == action_id), None)
        )

    async def joined(self, times):
        """Wait until executors have joined so many times, and are told of a good clock."""
        await self.until(lambda: len(self.hellos) >= times)
        await trio.sleep(0.001)

    async def until(self, found):
        while (value := found()) in {None, False}:
            await self._changed.wait()
        return value

    def _notify(self):
        self._changed.set()
        self._changed = trio.Event()

    # --- actions, with windows on this controller's clock, relative to its now ---

    def window(self, earliest_ns, latest_ns):
        now = self.now_ns()
        return Window(earliest_ns=now + earliest_ns, latest_ns=now + latest_ns)

    def prepare(self, action_id, model=MODEL):
        window = self.window(0, FAR_NS)
        return Prepare(
            action_id=ActionId(action_id),
            model=model,
            planned_start_ns=window.earliest_ns,
            expected_ns=20 * MS,
            window=window,
        )

    def load(self, action_id, model=MODEL, *, earliest_ns=0, latest_ns=FAR_NS):
        window = self.window(earliest_ns, latest_ns)
        return Load(
            action_id=ActionId(action_id),
            model_id=model.model_id,
            planned_start_ns=window.earliest_ns,
            expected_ns=5 * MS,
            window=window,
        )

    def unload(self, action_id, model=MODEL, *, forget=False):
        return Unload(action_id=ActionId(action_id), model_id=model.model_id, forget=forget)

    def infer(self, action_id, requests=(), model=MODEL, *, earliest_ns=0, latest_ns=20 * MS):
        window = self.window(earliest_ns, latest_ns)
        deadline_ns = self.now_ns() + latest_ns + 30 * MS
        return Infer(
            action_id=ActionId(action_id),
            model_id=model.model_id,
            batch_size=max(1, len(requests)),
            slots=tuple(
                Slot(request_id=RequestId(request), attempt=Attempt(1), deadline_ns=deadline_ns)
                for request in requests
            ),
            ticket=Ticket(1000 + action_id),
            planned_start_ns=window.earliest_ns,
            expected_ns=3 * MS,
            window=window,
        )

    def inputs(self, action_id, places, *, ticket=None, epoch=None):
        """What a gateway brings; `places` maps positions to request ids."""
        return BatchInputs(
            epoch=self.epoch if epoch is None else epoch,
            action_id=ActionId(action_id),
            ticket=Ticket(1000 + action_id if ticket is None else ticket),
            slots=tuple(
                SlotInputs(
                    position=position,
                    request_id=RequestId(request),
                    attempt=Attempt(1),
                    arrival_ns=self.now_ns(),
                    tensors=(b"%04d" % request,),
                )
                for position, request in places.items()
            ),
        )


@attrs.frozen
class Rig:
    """A running executor with what is around it."""

    executor: ExecutorActor
    device: FakeDevice
    controller: FakeController
    nursery: trio.Nursery

    @property
    def port(self):
        return self.executor.data_port

    async def warm(self, model=MODEL, *, first_id=9000):
        """Bring a model onto the device."""
        self.controller.order(
            self.controller.prepare(first_id, model), self.controller.load(first_id + 1, model)
        )
        await self.controller.result(first_id + 1)

    def call(self, inputs):
        """Bring inputs in a task of their own."""
        call = Call()
        self.nursery.start_soon(call.run, self.port, inputs)
        return call


@attrs.define(eq=False)
class Call:
    """A gateway's call in progress."""

    answer: object = None
    error: Exception | None = None
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)
    done: trio.Event = attrs.Factory(trio.Event)

    async def run(self, port, inputs):
        with self.scope:
            try:
                self.answer = await port.infer(inputs)
            except Exception as error:  # the test looks at it
                self.error = error
        self.done.set()

    async def result(self):
        await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.answer


@asynccontextmanager
async def running_executor(*, device=None, controller=None, telemetry=None, **settings):
    """Run an executor that has joined a controller; stop it when the block is left."""
    device = device or FakeDevice()
    controller = controller or FakeController()
    executor = ExecutorActor(
        name="e1",
        incarnation=Incarnation(1),
        device=device,
        locate=locate_anything,
        dial=controller.dial,
        settings=ExecutorSettings(**settings),
        link=LinkSettings(),
        telemetry=telemetry,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(executor.run, data_address="memory:e1"))
        await controller.joined(1)
        yield Rig(executor, device, controller, nursery)
        nursery.cancel_scope.cancel()
