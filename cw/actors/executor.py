"""An executor: one device, its lanes, and the controller that it works for.

It decides nothing. It joins the controller (and joins anew whenever that is lost), hands each
action to its lane as soon as it comes, and tells how it ended. Gateways bring inputs to its
`data_port`.

Follow one action: `ControllerLink.tell` -> `_take` (here: window onto this clock, its turn, its
lane) -> `LaneActor` -> device -> `InputBuffer` (outputs) -> `action_ended` (here: wake gateways'
calls, tell the result, write the record).

While no controller is there, INFERs that were accepted still run: gateways wait for their outputs,
and a promise outlives the controller that made it. Once a new controller has welcomed this executor
they are dropped, since it plans on a device with nothing to do.
"""

import logging
import math
from functools import partial
from typing import Final

import trio

from cw.actors.clock import now_ns, trio_time
from cw.actors.controller_link import ControllerLink
from cw.actors.data_port import DataPort
from cw.actors.executor_host import ExecutorHost, input_buffer
from cw.actors.heartbeat import keep_heartbeat
from cw.actors.lane import LaneActor
from cw.actors.meters import ExecutorMeter
from cw.actors.queued import Ended, Queued, local_window, model_of, record_of, result_of
from cw.actors.telemetry import Telemetry
from cw.actors.weights_cache import LocateModel, WeightsCache
from cw.config import ExecutorSettings, LinkSettings
from cw.core.input_batch import ActionKey
from cw.devices.device import Device
from cw.errors import (
    DeviceFault,
    PeerDisconnected,
    PeerSilent,
    ProtocolViolation,
    RemoteFailed,
)
from cw.messages import (
    Action,
    Epoch,
    ExecutorHello,
    Incarnation,
    Infer,
    ModelSpec,
    Orders,
    Outcome,
    Prepare,
)
from cw.rpc.ports import ControllerPort, DialController, ExecutorSession, Peer
from cw.units import SECOND, format_ms

logger = logging.getLogger(__name__)

_REDIAL_FIRST_S: Final = 0.02
_REDIAL_MAX_S: Final = 0.25
"""Waits between dials. Short, since a new controller has a second to learn of all executors; they
are too few to need jitter."""


class ExecutorActor:
    """One executor process.

    Args:
        name: For people; unique in the cluster.
        incarnation: This life of it; another one after each restart.
        device: What runs the models. The caller closes it.
        locate: Finds and checks models' files (`weights_cache.StoreLocator`).
        dial: Connects to the controller.
        settings: Bounds of queues and buffers.
        link: Heartbeat and silence.
        telemetry: Where records of actions go, if anywhere.
        host: What it shares with other executors of its process, if there are any: then that
            runs the data port and the telemetry.
        meter: Writes down what is used, if anybody does.
    """

    def __init__(
        self,
        *,
        name: str,
        incarnation: Incarnation,
        device: Device,
        locate: LocateModel,
        dial: DialController,
        settings: ExecutorSettings,
        link: LinkSettings,
        telemetry: Telemetry | None = None,
        host: ExecutorHost | None = None,
        meter: ExecutorMeter | None = None,
    ) -> None:
        self._name = name
        self._incarnation = incarnation
        self._data_address = ""
        self._device = device
        described = device.describe()
        self._device_name = f"{described.kind} {described.name}"
        self._dial = dial
        self._settings = settings
        self._link_settings = link
        self._telemetry = telemetry
        self._meter = meter
        self.session: ExecutorSession | None = None
        """The controller, while there is one."""
        self._weights = WeightsCache(device, locate)
        self._host = host
        self._buffer = host.buffer if host else input_buffer(settings, link)
        self.data_port: Final = (
            host.data_port if host else DataPort(self._buffer, self.inputs_changed)
        )
        """What gateways bring inputs to; satisfies `InferencePort`."""
        self._infer_lane = LaneActor(self, device, self._weights, self._buffer)
        self._load_lane = (
            self._infer_lane
            if described.shared_lanes
            else LaneActor(self, device, self._weights, self._buffer)
        )
        self._lanes = tuple(dict.fromkeys((self._infer_lane, self._load_lane)))
        self._turn = 0
        self._epoch = Epoch(0)
        self._action_ended = trio.lowlevel.ParkingLot()

    async def run(
        self,
        *,
        data_address: str,
        task_status: trio.TaskStatus[DataPort] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled, with whatever controller can be reached.

        Args:
            data_address: Where gateways reach `data_port`; known once that is served.
            task_status: Started, with the data port, once gateways may be let in.

        Raises:
            DeviceFault: The device broke. The result was told; restart the process.
        """
        self._data_address = data_address
        faults: list[DeviceFault] = []
        try:
            async with trio.open_nursery() as nursery:
                for lane in self._lanes:
                    nursery.start_soon(lane.run)
                if self._host is None:
                    nursery.start_soon(self.data_port.run)
                if self._telemetry is not None and self._host is None:
                    nursery.start_soon(self._telemetry.run)
                task_status.started(self.data_port)
                await self._keep_joined()
        except* DeviceFault as group:
            faults += [error for error in _leaves(group) if isinstance(error, DeviceFault)]
        if faults:
            raise faults[0]

    # --- the controller ---

    async def _keep_joined(self) -> None:
        wait_s = _REDIAL_FIRST_S
        while True:
            epoch_before = self._epoch
            try:
                await self._serve_one_controller()
            except* (PeerDisconnected, RemoteFailed, ProtocolViolation, OSError) as group:
                why = "; ".join(str(error) for error in _leaves(group))
                logger.info("controller_lost executor=%s why=%r", self._name, why)
            wait_s = _REDIAL_FIRST_S if self._epoch != epoch_before else wait_s
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, _REDIAL_MAX_S)

    async def _serve_one_controller(self) -> None:
        """Dial, join, and work for a controller until it is lost.

        Raises:
            PeerDisconnected: It is lost, or was not there.
        """
        silence_ns = self._link_settings.silence_ns
        with trio.move_on_after(silence_ns / SECOND) as joining:
            async with self._dial() as controller:
                await self._join(controller, joining)
        raise PeerSilent(
            f"expected the controller to let this executor join within {format_ms(silence_ns)}"
        )

    async def _join(self, controller: ControllerPort, joining: trio.CancelScope) -> None:
        joining.deadline = math.inf  # a PREPARE may take seconds
        await self._settle_weights()
        joining.deadline = trio_time(now_ns() + self._link_settings.silence_ns)
        link = ControllerLink(self._take, self._host.clock if self._host else None)
        try:
            welcome, session = await controller.join_executor(self._hello(), link)
            if welcome.epoch < self._epoch:
                raise ProtocolViolation(
                    f"expected a controller of epoch {self._epoch} or later, got one of "
                    f"{welcome.epoch}: it has been replaced and should stop"
                )
            async with trio.open_nursery() as nursery:
                beat = partial(
                    self._host.keep_heartbeat if self._host else keep_heartbeat,
                    session,
                    link.clock,
                    heartbeat_ns=self._link_settings.heartbeat_ns,
                    silence_ns=self._link_settings.silence_ns,
                )
                await nursery.start(beat)
                joining.deadline = math.inf
                self._begin(link, welcome.epoch)
                link.start(welcome, session)
                self.session = session
                logger.info(
                    "joined executor=%s id=%d epoch=%d", self._name, link.executor_id, link.epoch
                )
                nursery.start_soon(_close_when_gone, session, link)
                await link.wait_closed()
                raise PeerDisconnected("the controller closed the session, or was given up")
        finally:
            self.session = None
            link.close()

    def _hello(self) -> ExecutorHello:
        return ExecutorHello(
            name=self._name,
            incarnation=self._incarnation,
            data_address=self._data_address,
            device=self._device.describe(),
            prepared=self._weights.prepared,
            resident=self._weights.resident,
        )

    async def _settle_weights(self) -> None:
        """End what changes residency, so that the hello says what stays true."""
        for lane in self._lanes:
            lane.drop(lambda queued: not isinstance(queued.action, Infer))
        while any(
            not isinstance(queued.action, Infer)
            for lane in self._lanes
            for queued in lane.in_flight
        ):
            await self._action_ended.park()

    def _begin(self, link: ControllerLink, epoch: Epoch) -> None:
        """Drop what came before: the controller plans on a device with nothing to do."""
        self._epoch = epoch
        for lane in self._lanes:
            lane.drop(lambda queued: queued.link is not link)
        self.data_port.wake(self._buffer.begin_epoch(epoch))

    # --- actions ---

    def _take(self, link: ControllerLink, orders: Orders) -> None:
        """Hand orders to the lanes."""
        self.data_port.tell(orders.cancels)
        now = now_ns()
        try:
            for action in orders.actions:
                self._accept(link, orders.epoch, action, now)
        except ProtocolViolation as exc:
            logger.error("controller_distrusted executor=%s why=%r", self._name, str(exc))
            link.close()

    def _accept(self, link: ControllerLink, epoch: Epoch, action: Action, now: int) -> None:
        if epoch != link.epoch:
            self._refuse(link, action, Outcome.STALE_EPOCH, f"this is epoch {link.epoch}", now)
            return
        if sum(len(lane) for lane in self._lanes) >= self._settings.max_queued_actions:
            detail = f"expected at most {self._settings.max_queued_actions} waiting actions"
            self._refuse(link, action, Outcome.TOO_LATE, detail, now)
            return
        if isinstance(action, Prepare):
            self._weights.announce(action.model)
        key = self._expect(link, action, now) if isinstance(action, Infer) else None
        self._turn += 1
        queued = Queued(
            action=action,
            link=link,
            turn=self._turn,
            received_ns=now,
            window=local_window(link, action, now_ns=now),
            key=key,
        )
        self._weights.residency.announce(model_of(action), self._turn)
        lane = self._infer_lane if isinstance(action, Infer | Prepare) else self._load_lane
        lane.put(queued)

    def _expect(self, link: ControllerLink, action: Infer, now: int) -> ActionKey | None:
        """Let an INFER's inputs meet it; a probe has none."""
        if not action.slots:
            return None
        spec = self._weights.spec(action.model_id)
        early = self._buffer.expect(
            link.epoch,
            action,
            None if spec is None else spec.inputs,
            keep_until_ns=link.clock.to_local_ns(max(slot.deadline_ns for slot in action.slots)),
            now_ns=now,
        )
        self.data_port.wake(early)
        key = ActionKey(epoch=link.epoch, action_id=action.action_id, ticket=action.ticket)
        if self._host is not None:
            self._host.owners[key] = self
        return key

    def _refuse(
        self, link: ControllerLink, action: Action, outcome: Outcome, detail: str, now: int
    ) -> None:
        """Answer an action that is not even queued."""
        queued = Queued(action=action, link=link, turn=0, received_ns=now, window=None, key=None)
        ended = Ended(
            outcome=outcome,
            start_ns=now,
            end_ns=now,
            ready_ns=now,
            ran=(False,) * len(action.slots) if isinstance(action, Infer) else (),
            detail=detail,
        )
        self._report(queued, ended)

    def inputs_changed(self, key: ActionKey) -> None:
        """Look at an action whose inputs may be complete."""
        self._infer_lane.poke_for(key)

    # --- the lanes' host ---

    def action_begins(self, queued: Queued) -> None:
        """Write down that it does, before anything is used."""
        if self._meter is not None:
            self._meter.began(queued, self._spec_of(queued.action))

    def _spec_of(self, action: Action) -> ModelSpec | None:
        return action.model if isinstance(action, Prepare) else self._weights.spec(action.model_id)

    def action_ended(self, queued: Queued, ended: Ended) -> None:
        """Let the lanes go on, then wake the gateways' calls and tell the controller.

        Telling takes as long as a few operators of a network. After a batch it waits until the lane
        has begun its next action, which then runs meanwhile: one turn of the event loop.
        """
        self._weights.residency.finish(model_of(queued.action), queued.turn)
        self._action_ended.unpark_all()
        for lane in self._lanes:
            lane.poke()
        if ended.outcome is Outcome.OK and queued.key is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(self._tell, queued, ended)
        else:
            self._tell(queued, ended)

    def _tell(self, queued: Queued, ended: Ended) -> None:
        if self._meter is not None:  # before anybody hears of it
            self._meter.ended(queued, ended, self._spec_of(queued.action))
        if queued.key is not None:
            self.data_port.wake((queued.key,))
            if self._host is not None:
                self._host.owners.pop(queued.key, None)
        self._report(queued, ended)

    def _report(self, queued: Queued, ended: Ended) -> None:
        """Tell the controller how an action ended, and write it down."""
        result = result_of(queued, ended)
        queued.link.report(result)
        if self._telemetry is None:
            return
        action = queued.action
        spec = self._spec_of(action)
        record = record_of(
            queued,
            result,
            executor=self._name,
            device=self._device_name,
            model="" if spec is None else spec.name,
        )
        self._telemetry.record(record)

    async def device_broke(self, queued: Queued) -> None:
        """Wait until the controller has surely read the result, or a heartbeat has passed."""
        if queued.link.is_closed:
            return
        with trio.move_on_after(self._link_settings.heartbeat_ns / SECOND):
            try:
                await queued.link.session.ping(now_ns())
            except (PeerDisconnected, RemoteFailed) as exc:
                logger.warning("fault_untold executor=%s why=%r", self._name, str(exc))


async def _close_when_gone(peer: Peer, link: ControllerLink) -> None:
    await peer.wait_closed()
    link.close()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
