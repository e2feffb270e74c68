"""Who may stay at a door: how many from where, and for how long without getting anywhere.

One task looks at all connections of a door about once a second. Nothing is timed per message: a
connection that has neither ended a message nor written a byte between two looks shows it by its
counters.

Neighbours: ``kj_serve`` asks it at each accept, ``kj_transport`` has the counters.
"""

import logging
from collections import Counter
from typing import Final

import attrs
import trio

from cw.rpc.kj_connection import KjConnection

log = logging.getLogger(__name__)

LOOK_S_MAX: Final = 1.0
LOOKS_PER_LIMIT: Final = 4
"""So a limit is kept to a quarter of itself."""


@attrs.frozen(kw_only=True)
class DoorLimits:
    """What all peers at one door may take together, and how long each may dawdle."""

    max_connections: int = 1024
    """Served at a time; further ones wait in the backlog."""
    max_connections_per_address: int = 1024
    """Of those, from one IP address; one more is closed at once."""
    greeting_limit_s: float = 10
    """From being accepted to the whole first message."""
    message_limit_s: float = 30
    """For each message that has begun to be whole."""
    send_limit_s: float = 30
    """For a peer to take any of what is to be written to it."""
    handshake_limit_s: float = 10
    """For TLS to be agreed on."""


@attrs.define(eq=False)
class _Standing:
    """How far a connection had come when it was last seen to get on."""

    opened_s: float
    read_s: float
    wrote_s: float
    messages: int = 0
    writes: int = 0

    def overdue(self, connection: KjConnection, limits: DoorLimits, now_s: float) -> str:
        """Say what a connection has failed to do in time; empty when it may stay."""
        progress = connection.progress()
        if progress.messages != self.messages or not progress.is_message_begun:
            self.messages, self.read_s = progress.messages, now_s
        if progress.writes != self.writes or not progress.is_write_blocked:
            self.writes, self.wrote_s = progress.writes, now_s
        if not progress.messages and now_s - self.opened_s > limits.greeting_limit_s:
            return f"no message within {limits.greeting_limit_s:g} s"
        if now_s - self.read_s > limits.message_limit_s:
            return f"a message is not whole after {limits.message_limit_s:g} s"
        if now_s - self.wrote_s > limits.send_limit_s:
            return f"nothing of its answers was taken for {limits.send_limit_s:g} s"
        return ""


@attrs.define(eq=False)
class Guard:
    """Watches the connections of one door."""

    limits: DoorLimits
    _by_address: Counter[str] = attrs.field(factory=Counter, init=False)
    _watched: dict[KjConnection, _Standing] = attrs.field(factory=dict, init=False)

    def admit(self, address: str) -> bool:
        """Count a connection from an IP address in, unless there are too many of it."""
        if address and self._by_address[address] >= self.limits.max_connections_per_address:
            return False
        self._by_address[address] += 1
        return True

    def left(self, address: str) -> None:
        """Count a connection out that was admitted."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def watch(self, connection: KjConnection) -> None:
        """Begin to look at a connection."""
        now_s = trio.current_time()
        self._watched[connection] = _Standing(now_s, now_s, now_s)

    def unwatch(self, connection: KjConnection) -> None:
        """Forget a connection that has ended."""
        del self._watched[connection]

    async def run(self) -> None:
        """Cut off who dawdles, until cancelled."""
        limits = self.limits
        soonest_s = min(limits.greeting_limit_s, limits.message_limit_s, limits.send_limit_s)
        while True:
            await trio.sleep(min(LOOK_S_MAX, soonest_s / LOOKS_PER_LIMIT))
            now_s = trio.current_time()
            for connection, standing in list(self._watched.items()):
                why = standing.overdue(connection, limits, now_s)
                if why and connection.is_open:
                    log.warning("cut off peer=%s: %s", connection.peer, why)
                    connection.close()
