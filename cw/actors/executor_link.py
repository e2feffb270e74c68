"""Executor links: a gateway's data connections, one per executor, redialled when they break.

A broken connection is not a dead executor: until the controller says that it is lost, the link
dials again, and what was asked is asked again (the executor keeps its outputs for that). Nor is a
connection alive because it stands: one that let a call's deadline pass in silence is dialled anew.
"""

import logging
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.errors import CwError, PeerDisconnected
from cw.rpc.ports import DialExecutor, InferencePort

logger = logging.getLogger(__name__)

_REDIAL_S: Final = 0.02
"""From one dial of an executor to the next. A connection that broke after having stood for longer
is dialled at once, since promises hang on it."""


@attrs.define(eq=False)
class ExecutorLink:
    """One executor's data port, whenever there is one."""

    address: str
    dial: DialExecutor
    users: int = attrs.field(default=0, init=False)
    """Executors at the address."""
    heard_ns: int = attrs.field(default=0, init=False)
    """When anything was last heard on the connection; on this process's clock."""
    _port: InferencePort | None = attrs.field(default=None, init=False)
    _connected: trio.Event = attrs.field(factory=trio.Event, init=False)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    async def run(self) -> None:
        """Keep the connection until `stop`."""
        with self._scope:
            while True:
                dialled_s = trio.current_time()
                try:
                    async with self.dial(self.address) as port:
                        self._port = port
                        self.heard_ns = now_ns()
                        self._connected.set()
                        await port.wait_closed()
                except (CwError, OSError) as exc:
                    logger.debug("dial failed address=%s error=%r", self.address, str(exc))
                finally:
                    self._port = None
                    if self._connected.is_set():
                        self._connected = trio.Event()
                await trio.sleep_until(dialled_s + _REDIAL_S)
        # Whoever still waits must learn that nothing comes any more.
        self._connected.set()

    def stop(self) -> None:
        """Hang up for good: the executor is lost."""
        self._scope.cancel()

    def give_up(self, port: InferencePort) -> None:
        """Dial anew instead of this port, which was found broken; a later one is left alone."""
        if port is self._port:
            self._port = None
            self._connected = trio.Event()
            port.close()

    def doubt(self, since_ns: int) -> None:
        """Dial anew if nothing was heard since then, though an answer was due."""
        if self._port is not None and self.heard_ns < since_ns:
            logger.warning("silent connection address=%s", self.address)
            self.give_up(self._port)

    @property
    def port(self) -> InferencePort | None:
        """The port now, if connected."""
        return self._port

    async def wait_port(self) -> InferencePort:
        """Return the port, waiting for the dial if need be.

        Raises:
            PeerDisconnected: The link was stopped.
        """
        while self._port is None:
            if self._scope.cancel_called:
                raise PeerDisconnected(f"the executor at {self.address} is lost")
            await self._connected.wait()
        return self._port
