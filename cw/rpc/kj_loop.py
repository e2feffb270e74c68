"""Cap'n Proto's own C++ RPC (pycapnp) driven by Trio: no asyncio loop and no second thread.

pycapnp asks its "asyncio loop" for five things only: ``call_soon``, ``create_future``,
``create_task``, ``call_exception_handler`` and ``create_connection``.  :class:`KjLoop` gives them
out of Trio's parts, so that ``await capability.method()`` is an ordinary Trio wait: deadlines and
nursery cancels work, and a cancel tells the peer.  While it is open no asyncio library can run in
the thread, and there is one such loop per thread.

Neighbours: ``kj_calls`` (server calls), ``kj_transport`` (sockets and streams), ``kj_flow``
(limits), ``kj_connection`` (listen, serve, connect: what the rest of ``cw.rpc`` uses).

First steps without a task, against a task per call: 35,000 calls/s against 26,000 with 64 in
flight, sequential median 148 us against 191 us (64 B over TCP, two processes, medians of three
runs; AMD EPYC, Python 3.11.7, trio 0.35.0, pycapnp 2.2.4).
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import capnp
import trio
from trio.lowlevel import Abort, RaiseCancelT, current_task, reschedule, wait_task_rescheduled

from cw.rpc.kj_calls import Outcome, ServerCall
from cw.rpc.kj_errors import open_plain_nursery

log = logging.getLogger(__name__)


class FlushableTransport(Protocol):
    """What the loop must know of a transport."""

    nursery: trio.Nursery

    def flush(self) -> None:
        """Write what was queued in this pump."""


class Handle:
    """A callback that waits for its turn."""

    __slots__ = ("args", "callback", "is_cancelled")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        """Made by :meth:`KjLoop.call_soon`."""
        self.callback = callback
        self.args = args
        self.is_cancelled = False

    def cancel(self) -> None:
        """Never call it."""
        self.is_cancelled = True


class Future(Outcome):
    """The answer to a call of ours, awaited by one Trio task."""

    _waiter: trio.lowlevel.Task | None = None

    def set_result(self, value: object) -> None:
        """Settle with a value and wake the waiter."""
        self._settle(value, None)

    def set_exception(self, error: Exception) -> None:
        """Settle with an error and wake the waiter."""
        self._settle(None, error)

    def _settle(self, value: object, error: Exception | None) -> None:
        if self._is_done:
            return
        self._finish(value, error=error)
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            reschedule(waiter)

    def __await__(self) -> Generator[Any, Any, object]:
        """Wait for the answer; a cancel here drops the call, and the peer is told."""
        if not self._is_done:
            assert self._waiter is None, "two tasks await one call"
            self._waiter = current_task()
            yield from wait_task_rescheduled(self._abandon).__await__()  # noqa: ASYNC105
        return self.result()

    def _abandon(self, _: RaiseCancelT) -> Abort:
        self._waiter = None
        self._finish(is_cancelled=True)
        return Abort.SUCCEEDED


class KjLoop:
    """The object that pycapnp takes for the running asyncio loop.

    Turns queued by Trio tasks are run by one pump task, in Trio's next step: the calls and answers
    of a whole step then leave in one write per connection, which takes a quarter off the work under
    load and costs a lone call nothing that can be measured.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        """Run calls that belong to no connection (made within the process) in ``nursery``."""
        self.nursery = nursery
        self._ready: deque[Handle] = deque()
        self._to_flush: list[FlushableTransport] = []
        self._origin: FlushableTransport | None = None
        self._is_pumping = False
        self._is_closed = False
        self._parked: trio.lowlevel.Task | None = None

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Any = None) -> Handle:
        """Queue a callback for the next pump."""
        handle = Handle(callback, args)
        self._ready.append(handle)
        if self._parked is not None and not self._is_pumping:
            parked, self._parked = self._parked, None
            reschedule(parked)
        return handle

    def create_future(self) -> Future:
        """Return an answer to be awaited."""
        return Future(self)

    def create_task(self, coro: Coroutine[Any, Any, object], **_: Any) -> ServerCall:
        """Begin to serve a call: its first step runs before this returns."""
        nursery = self.nursery if self._origin is None else self._origin.nursery
        return ServerCall(self, coro, nursery)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what pycapnp has nobody to raise to."""
        log.error("kj message=%s", context.get("message"), exc_info=context.get("exception"))

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: object = None,
        port: object = None,
        *,
        make_transport: Callable[["KjLoop", Any], Any],
    ) -> tuple[Any, Any]:
        """Join a pycapnp protocol to the transport that ``make_transport`` builds."""
        protocol = protocol_factory()
        transport = make_transport(self, protocol)
        protocol.connection_made(transport)
        return transport, protocol

    def get_debug(self) -> bool:
        """Never in asyncio's debug mode."""
        return False

    def is_closed(self) -> bool:
        """Tell whether :func:`open_kj` has ended."""
        return self._is_closed

    @property
    def has_turns(self) -> bool:
        """True when callbacks are queued for the next pump."""
        return bool(self._ready)

    def flush_later(self, transport: FlushableTransport) -> None:
        """Have ``transport`` flushed when the turns of this pump are done."""
        self._to_flush.append(transport)

    def pump(self, origin: FlushableTransport | None = None) -> None:
        """Run every queued turn, then write what they produced.

        Args:
            origin: The transport whose bytes caused these turns: calls begun in them are its.
                The caller pumps without it first, so that nobody else's turns are queued.
        """
        if self._is_pumping:
            return
        self._is_pumping = True
        self._origin = origin
        ready = self._ready
        try:
            while ready or self._to_flush:
                while ready:
                    handle = ready.popleft()
                    if not handle.is_cancelled:
                        try:
                            handle.callback(*handle.args)
                        except Exception:
                            log.exception("kj turn failed callback=%r", handle.callback)
                flushing, self._to_flush = self._to_flush, []
                for transport in flushing:
                    transport.flush()
        finally:
            self._is_pumping = False
            self._origin = None

    async def run_pump(self) -> None:
        """Pump whenever a callback was queued from outside of a pump."""
        while True:
            self.pump()
            self._parked = current_task()
            await wait_task_rescheduled(self._unpark)

    def _unpark(self, _: RaiseCancelT) -> Abort:
        self._parked = None
        return Abort.SUCCEEDED

    def mark_closed(self) -> None:
        """Take note that :func:`open_kj` has ended."""
        self._is_closed = True


@asynccontextmanager
async def open_kj() -> AsyncIterator[KjLoop]:
    """Open Cap'n Proto RPC for this thread, for the length of an ``async with`` block.

    It must enclose every connection and every use of a capability, and closes last.

    Yields:
        The loop.

    Raises:
        RuntimeError: Another loop, of asyncio or of this kind, is running in the thread.
    """
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "an event loop already runs in this thread; open_kj() needs a thread without one"
        )
    async with open_plain_nursery() as pump_nursery, open_plain_nursery() as nursery:
        loop = KjLoop(nursery)
        asyncio._set_running_loop(loop)  # type: ignore[arg-type]
        pump_scope = trio.CancelScope(shield=True)  # Calls' ends must be heard during a cancel.

        async def run_pump() -> None:
            with pump_scope:
                await loop.run_pump()

        pump_nursery.start_soon(run_pump)
        kj = capnp.kj_loop()
        await kj.__aenter__()
        try:
            yield loop
        finally:
            nursery.cancel_scope.cancel()
            try:
                await _close(loop, kj, nursery)
            finally:
                loop.mark_closed()
                asyncio._set_running_loop(None)
                pump_scope.cancel()


async def _close(loop: KjLoop, kj: Any, nursery: trio.Nursery) -> None:
    """Leave pycapnp's loop in order: closing it with calls under way aborts the process."""
    with trio.CancelScope(shield=True):
        while nursery.child_tasks:
            await trio.lowlevel.checkpoint()
            loop.pump()
        leaving = kj.__aexit__(None, None, None)
        with suppress(StopIteration):  # It waits for nothing but the calls cancelled just now.
            while True:
                leaving.send(None)
                loop.pump()
