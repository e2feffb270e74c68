"""What the executors of one process share: a connection each way, a clock, and a buffer of inputs.

A thousand emulated executors to a machine would be a thousand connections to the controller and to
every gateway, and four thousand pings a second. Hosted executors join over *one* connection, of
which one of them keeps the heartbeat for all, and gateways find them all at one address, where an
action's key says whose it is. They share the fate of their connection: whoever leaves it closes it,
and all join anew.

Neighbours: `executor.py` is one of them; `compose.executors` puts a process together.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import trio

from cw.actors.data_port import DataPort
from cw.actors.heartbeat import Pinged, keep_heartbeat
from cw.config import ExecutorSettings, LinkSettings
from cw.core.clock_sync import ClockSync
from cw.core.input_batch import ActionKey
from cw.core.input_buffer import InputBuffer
from cw.errors import CwError
from cw.rpc.ports import ControllerPort, DialController


class Hosted(Protocol):
    """An executor, as its host sees it."""

    def inputs_changed(self, key: ActionKey) -> None:
        """Look at an action whose inputs may be complete."""
        ...


class ExecutorHost:
    """One process's share in a cluster, for all executors in it.

    Args:
        dial: Connects to the controller; once at a time, whoever asks first.
        settings: Bounds of the buffer, which all share.
        link: How long a peer may be silent.
    """

    def __init__(
        self, dial: DialController, settings: ExecutorSettings, link: LinkSettings
    ) -> None:
        self.owners: Final[dict[ActionKey, Hosted]] = {}
        """Whose each open action is; bounded by what executors accept."""
        self.buffer: Final = input_buffer(settings, link)
        self.data_port: Final = DataPort(self.buffer, self._inputs_changed)
        self.clock = ClockSync()
        """The controller's, as learnt on the connection that stands now."""
        self._dial = dial
        self._dialling = trio.Lock()
        self._port: ControllerPort | None = None
        self._synced = trio.Event()
        self._is_beating = False
        self._nursery: trio.Nursery | None = None

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold the connection and keep the data port until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self.data_port.run)
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[ControllerPort]:
        """Give the connection that stands, or dial: a `DialController` for each executor.

        Raises:
            PeerDisconnected: Nobody answers there.
        """
        async with self._dialling:
            if self._port is None:
                assert self._nursery is not None, "the host must run before its executors"
                port = await self._nursery.start(self._hold)
            else:
                port = self._port
        try:
            yield port
        finally:
            port.close()

    async def _hold(self, task_status: trio.TaskStatus[ControllerPort]) -> None:
        is_up = False
        try:
            async with self._dial() as port:
                self.clock, self._synced, self._is_beating = ClockSync(), trio.Event(), False
                self._port, is_up = port, True
                task_status.started(port)
                await port.wait_closed()
        except CwError:
            if not is_up:
                raise  # whoever dialled learns of it; later, all learn it from their sessions
        finally:
            self._port = None

    async def keep_heartbeat(
        self,
        peer: Pinged,
        clock: ClockSync,
        *,
        heartbeat_ns: int,
        silence_ns: int,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Ping for all, or rely on the one that does; started once the clock is good.

        Raises:
            PeerSilent: No answer came within `silence_ns`.
            PeerDisconnected: The connection broke.
        """
        if self._is_beating:
            await self._synced.wait()
            task_status.started()
            return
        self._is_beating, synced = True, self._synced
        async with trio.open_nursery() as nursery:

            async def beat(task_status: trio.TaskStatus[None]) -> None:
                await keep_heartbeat(
                    peer,
                    clock,
                    heartbeat_ns=heartbeat_ns,
                    silence_ns=silence_ns,
                    task_status=task_status,
                )

            await nursery.start(beat)
            synced.set()
            task_status.started()

    def _inputs_changed(self, key: ActionKey) -> None:
        owner = self.owners.get(key)
        if owner is not None:  # otherwise its action has not come yet, or is over
            owner.inputs_changed(key)


def input_buffer(settings: ExecutorSettings, link: LinkSettings) -> InputBuffer:
    """Make a buffer with the bounds of the settings."""
    return InputBuffer(
        max_input_bytes=settings.max_waiting_input_bytes,
        max_output_bytes=settings.max_kept_output_bytes,
        patience_ns=link.silence_ns,
    )
