"""Told messages on their way to the wire: `tell` puts them here and never waits.

What piles up while calls are under way leaves with the next one, so the busier a link, the more
messages to a call. Order is kept: messages are taken and their call is sent in one step, and calls
on one capability arrive in the order sent.

Knows nothing of what the messages are; `links` gives it the call that carries them.
"""

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from trio.lowlevel import ParkingLot

from cw.errors import CwError, OutboxFull, PeerDisconnected
from cw.rpc.kj_connection import KjConnection

log = logging.getLogger(__name__)

MessageT = TypeVar("MessageT")

CALLS_IN_FLIGHT: Final = 2
"""Calls of one outbox under way at a time: one being answered while the next is being read."""

MESSAGES_PER_CALL: Final = 512
"""The receiver reads a call in one step, about 2 us a message: this bounds that step to 1 ms."""


class Outbox(Generic[MessageT]):
    """A bounded queue in front of one capability's ``tell``."""

    def __init__(
        self,
        connection: KjConnection,
        send: Callable[[Sequence[MessageT]], Awaitable[object]],
        *,
        max_messages: int,
        weigh: Callable[[MessageT], int] = lambda _: 1,
    ) -> None:
        """Begin to send; it ends with the connection.

        Args:
            connection: Closed when the peer fails to take messages in: what was told is lost.
            send: Sends one call with these messages, before it returns; awaited for the answer.
            max_messages: How many may wait.
            weigh: How many messages one item counts for.
        """
        self._connection = connection
        self._send = send
        self._max = max_messages
        self._weigh = weigh
        self._waiting: deque[MessageT] = deque()
        self._waiting_count = 0
        self._sent: deque[Awaitable[object]] = deque()
        self._idle = ParkingLot()
        for _ in range(CALLS_IN_FLIGHT):
            connection.nursery.start_soon(self._run)

    @property
    def waiting_count(self) -> int:
        """How many messages wait for a call."""
        return self._waiting_count

    def tell(self, messages: Sequence[MessageT]) -> None:
        """Put messages in line.

        Raises:
            OutboxFull: They do not all fit; none was taken.
            PeerDisconnected: The connection is gone.
        """
        peer = self._connection.peer
        if not self._connection.is_open:
            raise PeerDisconnected(f"connection to {peer} is gone; connect again")
        count = sum(map(self._weigh, messages))
        if self._waiting_count + count > self._max:
            raise OutboxFull(
                f"expected at most {self._max} messages to wait for {peer}, got {count} on top of "
                f"{self._waiting_count}; the peer is too slow: shed them, or drop it"
            )
        self._waiting_count += count
        self._waiting.extend(messages)
        self._idle.unpark()

    def send_now(self) -> None:
        """Send all that waits, ahead of whatever the caller sends next on the connection."""
        while self._waiting and self._connection.is_open:
            self._sent.append(self._send(self._take()))
        self._idle.unpark(count=len(self._sent))

    def _take(self) -> list[MessageT]:
        """Take what goes into the next call: at least one item, then up to the bound."""
        taken: list[MessageT] = []
        count = 0
        while self._waiting:
            weight = self._weigh(self._waiting[0])
            if taken and count + weight > MESSAGES_PER_CALL:
                break
            count += weight
            taken.append(self._waiting.popleft())
        self._waiting_count -= count
        return taken

    async def _run(self) -> None:
        try:
            while True:
                if self._sent:
                    call = self._sent.popleft()
                elif self._waiting:
                    call = self._send(self._take())
                else:
                    await self._idle.park()
                    continue
                with self._connection.errors():
                    await call
        except PeerDisconnected:
            pass  # Everyone who holds the connection learns of it there.
        except CwError as error:
            log.warning("told messages were not taken in peer=%s error=%r", self._peer, error)
        finally:
            # Messages were lost in the middle: no later one may pass as if nothing had happened.
            self._connection.close()

    @property
    def _peer(self) -> str:
        return self._connection.peer
