"""Heartbeats: a clock that is good at once, and silence that is noticed."""

import pytest
import trio

from cw.actors.clock import now_ns
from cw.actors.heartbeat import keep_heartbeat
from cw.core.clock_sync import ClockSync
from cw.errors import PeerDisconnected, PeerSilent
from cw.messages import Pong
from cw.units import MS, SECOND, US


class Answering:
    """A peer with a clock that is 5 s ahead, until it falls silent."""

    def __init__(self):
        self.pings = 0
        self.is_silent = False

    async def ping(self, sent_ns):
        self.pings += 1
        if self.is_silent:
            await trio.sleep_forever()
        await trio.sleep(0.0001)
        theirs_ns = now_ns() + 5 * SECOND
        await trio.sleep(0.0001)
        return Pong(received_ns=theirs_ns, replied_ns=theirs_ns)


async def test_clock_is_good_when_the_heartbeat_has_started(autojump_clock):
    """The first orders carry windows: they are judged by this clock."""
    peer, clock = Answering(), ClockSync()
    async with trio.open_nursery() as nursery:
        await nursery.start(_beat, peer, clock)

        assert abs(clock.to_cluster_ns(now_ns()) - now_ns() - 5 * SECOND) <= 200 * US
        assert clock.error_bound_ns(now_ns()) <= 200 * US
        nursery.cancel_scope.cancel()


async def test_pings_go_on_at_the_heartbeat(autojump_clock):
    """The bound of the clock's error grows between pings, so they must not stop when idle."""
    peer = Answering()
    async with trio.open_nursery() as nursery:
        await nursery.start(_beat, peer, ClockSync())
        burst = peer.pings
        await trio.sleep(1.1)

        assert peer.pings - burst == 4
        nursery.cancel_scope.cancel()


async def test_silence_is_declared_after_its_bound(autojump_clock):
    """A stopped process keeps its connection; its promises must be moved within a second."""
    peer = Answering()

    async def beat_until_silent():
        async with trio.open_nursery() as nursery:
            await nursery.start(_beat, peer, ClockSync())
            peer.is_silent = True

    began_ns = now_ns()
    with pytest.raises(ExceptionGroup) as raised:
        await beat_until_silent()

    assert raised.group_contains(PeerSilent, match="within 1000 ms")
    assert now_ns() - began_ns <= 1010 * MS


async def test_a_broken_connection_ends_it_at_once(autojump_clock):
    """A known loss must not wait for the silence bound."""

    class Broken:
        async def ping(self, sent_ns):
            raise PeerDisconnected("gone")

    began_ns = now_ns()
    with pytest.raises(PeerDisconnected, match="gone"):
        await _beat(Broken(), ClockSync())

    assert now_ns() == began_ns


async def _beat(peer, clock, *, task_status=trio.TASK_STATUS_IGNORED):
    await keep_heartbeat(
        peer, clock, heartbeat_ns=250 * MS, silence_ns=SECOND, task_status=task_status
    )
