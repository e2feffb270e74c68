"""A connection in memory: two directions with delay and order, a bound, cutting and stalling.

Knows nothing of ports; `memory` builds them on it.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import attrs
import trio

from cw.actors.clock import now_ns, trio_time
from cw.errors import CwError, OutboxFull, PeerDisconnected
from cw.rpc.peer_errors import error_as_if_from_peer

log = logging.getLogger(__name__)

T = TypeVar("T")


class Direction:
    """One way of a link: what is posted happens at the other end, in order, after the delay."""

    def __init__(self, delay_ns: Callable[[], int], *, is_instant: bool = False) -> None:
        """Ask `delay_ns` for the delay of each thing posted.

        Args:
            delay_ns: Gives a delay.
            is_instant: Nothing waits: what is posted happens before the poster goes on.
        """
        self._delay_ns = delay_ns
        self.is_instant: Final = is_instant
        self._posted: deque[tuple[int, Callable[[], None]]] = deque()
        self._last_due_ns = 0
        self._idle = trio.lowlevel.ParkingLot()
        self.is_stalled = False

    def post(self, action: Callable[[], None]) -> None:
        """Have `action` run at the other end."""
        if self.is_instant and not self.is_stalled:
            action()
            return
        self._last_due_ns = max(self._last_due_ns, now_ns() + self._delay_ns())
        self._posted.append((self._last_due_ns, action))
        self._idle.unpark()

    def stall(self) -> None:
        """Let nothing more through."""
        self.is_stalled = True

    async def run(self) -> None:
        """Let things through, until cancelled."""
        while True:
            if not self._posted or self.is_stalled:
                await self._idle.park()
                continue
            due_ns, action = self._posted[0]
            if due_ns > now_ns():
                await trio.sleep_until(trio_time(due_ns))
                continue  # It may have been stalled meanwhile.
            self._posted.popleft()
            action()


@attrs.define(eq=False)
class Link:
    """A connection in memory, seen from neither side."""

    peer: str
    there: Direction
    back: Direction
    max_messages: int
    closed: trio.Event = attrs.field(factory=trio.Event)
    calls: set[trio.CancelScope] = attrs.field(factory=set)
    last_wills: list[Callable[[], Awaitable[object]]] = attrs.field(factory=list)
    """What remains to be done once it was cut."""

    def cut(self) -> None:
        """End it: calls under way fail, and what is on its way is lost."""
        self.closed.set()
        for scope in list(self.calls):
            scope.cancel()

    async def execute_last_wills(self) -> None:
        """Wait for the end, then do what remains to be done."""
        await self.closed.wait()
        with trio.CancelScope(shield=True):
            while self.last_wills:
                try:
                    await self.last_wills.pop()()
                except CwError as error:
                    log.warning("not cleaned up peer=%s error=%r", self.peer, error)

    def check_open(self) -> None:
        """Raise `PeerDisconnected` once it was cut."""
        if self.closed.is_set():
            raise PeerDisconnected(f"connection to {self.peer} is gone; connect again")


class End:
    """A link as one side sees it."""

    def __init__(self, link: Link, out: Direction, back: Direction) -> None:
        """See `link` from the side whose messages leave by `out`."""
        self._link: Final = link
        self._out: Final = out
        self._back: Final = back
        self._waiting_count = 0

    def reversed(self) -> "End":
        """Return the same link as the other side sees it."""
        return End(self._link, self._back, self._out)

    async def wait_closed(self) -> None:
        """Return once the link was cut."""
        await self._link.closed.wait()

    def close(self) -> None:
        """Cut the link."""
        self._link.cut()

    def at_end(self, last_will: Callable[[], Awaitable[object]]) -> Callable[[], None]:
        """Have `last_will` done when the link has ended, unless what is returned is called."""
        last_wills = self._link.last_wills
        last_wills.append(last_will)
        return lambda: last_wills.remove(last_will)

    def tell(self, deliver: Callable[[], None], count: int) -> None:
        """Have `deliver` run at the other side; it stands for `count` messages.

        Raises:
            OutboxFull: So many do not fit on the way.
            PeerDisconnected: The link was cut.
        """
        link = self._link
        link.check_open()
        if self._waiting_count + count > link.max_messages:
            raise OutboxFull(
                f"expected at most {link.max_messages} messages to wait for {link.peer}, got "
                f"{count} on top of {self._waiting_count}; the peer is too slow"
            )
        self._waiting_count += count

        def arrive() -> None:
            self._waiting_count -= count
            if link.closed.is_set():
                return
            try:
                deliver()
            except CwError as error:
                log.warning("told messages were not taken in peer=%s error=%r", link.peer, error)
                link.cut()

        self._out.post(arrive)

    async def ask(self, perform: Callable[[], Awaitable[T]]) -> T:
        """Have `perform` run at the other side, and bring its result or its error back.

        Raises:
            PeerDisconnected: The link is cut, or is before the answer is here.
            CwError: As the other side raised it; `RemoteFailed` for all that is none.
        """
        link = self._link
        link.check_open()
        with trio.CancelScope() as scope:
            link.calls.add(scope)
            try:
                await self._travel(self._out)
                try:
                    result = await perform()
                except AssertionError:
                    raise
                except Exception as error:
                    await self._travel(self._back)
                    raise error_as_if_from_peer(error, link.peer) from error
                await self._travel(self._back)
                return result
            finally:
                link.calls.discard(scope)
        raise PeerDisconnected(f"connection to {link.peer} broke during a call; connect again")

    async def _travel(self, direction: Direction) -> None:
        if direction.is_instant and not direction.is_stalled:
            return
        arrived = trio.Event()
        direction.post(arrived.set)
        await arrived.wait()
