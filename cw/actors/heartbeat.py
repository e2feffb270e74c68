"""Signs of life: pings that show whether a peer answers, and what its clock says.

A peer that was stopped, or whose machine lost its network, keeps its connection: nothing but an
unanswered ping tells (`PeerSilent`). The same pings feed `core/clock_sync.py`. They begin with a
burst, so that the clock is good before the first window has to be judged by it.
"""

from typing import Final, Protocol

import trio

from cw.actors.clock import now_ns, trio_time
from cw.core.clock_sync import ClockSync, Exchange
from cw.errors import PeerSilent
from cw.messages import Pong
from cw.units import format_ms

_BURST_COUNT: Final = 8
"""Pings before the connection counts as usable. The first pays for connections and caches; of
eight, one or more finds both ways free."""


class Pinged(Protocol):
    """A session that can be pinged: a controller's, for its gateways and executors."""

    async def ping(self, sent_ns: int) -> Pong:
        """Show a sign of life and read the peer's clock."""
        ...


async def keep_heartbeat(
    peer: Pinged,
    clock: ClockSync,
    *,
    heartbeat_ns: int,
    silence_ns: int,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Ping a peer for as long as it answers; started once the clock is good.

    Args:
        peer: Whom to ping.
        clock: Learns from each answer.
        heartbeat_ns: From an answer to the next ping.
        silence_ns: A peer that has not answered for so long is lost.
        task_status: Told when the first burst has been answered.

    Raises:
        PeerSilent: No answer came within `silence_ns`.
        PeerDisconnected: The connection broke.
    """
    for _ in range(_BURST_COUNT):
        await _ping_once(peer, clock, heard_ns=now_ns(), silence_ns=silence_ns)
    task_status.started()
    heard_ns = now_ns()
    while True:
        await trio.sleep_until(trio_time(heard_ns + heartbeat_ns))
        await _ping_once(peer, clock, heard_ns=heard_ns, silence_ns=silence_ns)
        heard_ns = now_ns()


async def _ping_once(peer: Pinged, clock: ClockSync, *, heard_ns: int, silence_ns: int) -> None:
    with trio.move_on_at(trio_time(heard_ns + silence_ns)):
        sent_ns = now_ns()
        pong = await peer.ping(sent_ns)
        clock.observe(
            Exchange(
                sent_ns=sent_ns,
                received_ns=pong.received_ns,
                replied_ns=pong.replied_ns,
                returned_ns=now_ns(),
            )
        )
        return
    raise PeerSilent(
        f"expected an answer to a ping within {format_ms(silence_ns)}, got none: treat it as lost"
    )
