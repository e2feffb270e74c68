"""The load generator's two loops: how they end early, and what they have to show for it."""

from contextlib import asynccontextmanager

import trio

from cw.client import Result
from cw.errors import PeerDisconnected, PeerSilent
from cw.messages import Timing
from cw.units import MS, SECOND
from cw.workload.client import End, Planned, run_closed_loop, run_open_loop

OUTPUT = Result(timing=Timing(total_ns=MS), promised=True, outputs={})


class FakeServer:
    """Answers at the next turn of the event loop; from the `breaks_at`th on as `breaks_with` says.

    Without `breaks_with` those requests hang.
    """

    def __init__(self, breaks_at=10**9, breaks_with=None):
        self.asked = 0
        self.answered = 0
        self.asked_before_an_answer = 0
        self.breaks_at = breaks_at
        self.breaks_with = breaks_with

    async def infer(self, model, inputs, *, slo, started_ns=None):
        self.asked += 1
        broken = self.asked >= self.breaks_at
        if broken and self.breaks_with is None:
            await trio.sleep_forever()
        await trio.lowlevel.checkpoint()
        if broken:
            raise self.breaks_with("gone")
        self.answered += 1
        self.asked_before_an_answer = self.asked_before_an_answer or self.asked
        return OUTPUT


@asynccontextmanager
async def cut_short_when(fact):
    """Give a scope that is cancelled when something has come true."""
    scope = trio.CancelScope()

    async def cut_short():
        while not fact():
            await trio.lowlevel.checkpoint()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_short)
        yield scope
        assert fact()


def plan(count):
    """Plan requests that are all due at once."""
    return [Planned(at_ns=0, model="m", inputs={}) for _ in range(count)]


async def test_an_open_loop_that_is_cut_short_returns_what_was_answered():
    """Ctrl-C after nine minutes of ten must not cost nine minutes."""
    server = FakeServer(breaks_at=4)
    async with cut_short_when(lambda: (server.asked, server.answered) == (6, 3)) as scope:
        sent = await run_open_loop(server, plan(6), slo_ns=60 * SECOND, scope=scope)

    assert [one.end for one in sent] == [End.KEPT] * 3


async def closed(server, *, in_flight, scope=None):
    """Run a closed loop that something other than time must end."""
    how = {"slo_ns": 60 * SECOND, "in_flight": in_flight, "seconds": 3600}
    return await run_closed_loop(server, plan(1), scope=scope, **how)


async def test_a_closed_loop_that_is_cut_short_returns_what_was_answered():
    """As the open loop does."""
    server = FakeServer(breaks_at=6)
    async with cut_short_when(lambda: (server.asked, server.answered) == (7, 5)) as scope:
        sent = await closed(server, in_flight=2, scope=scope)

    assert [one.end for one in sent] == [End.KEPT] * 5


async def test_a_closed_loop_ends_when_the_server_is_gone():
    """Nobody can answer any more: to count that a million times would only fill the memory."""
    sent = await closed(FakeServer(breaks_at=6, breaks_with=PeerDisconnected), in_flight=3)

    assert [one.end for one in sent].count(End.KEPT) == 5
    assert [one.reason for one in sent if one.end is End.FAILED] == ["PeerDisconnected"] * 3


async def test_a_closed_loop_goes_on_when_an_answer_is_missing():
    """A silent gateway may speak again, unlike a closed connection."""
    server = FakeServer(breaks_at=2, breaks_with=PeerSilent)
    async with cut_short_when(lambda: server.asked == 9) as scope:
        sent = await closed(server, in_flight=1, scope=scope)

    assert {one.reason for one in sent[1:]} == {"PeerSilent"}


async def test_a_closed_loop_starts_its_clients_little_by_little():
    """Thousands of requests written before the first answer is read would all come too late."""
    server = FakeServer()
    async with cut_short_when(lambda: server.asked >= 4000) as scope:
        await closed(server, in_flight=4000, scope=scope)

    assert 1 <= server.asked_before_an_answer <= 200
