"""The native door's limits: who floods it, or dawdles, gets less of it or none."""

import socket
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel

from cw.config import GatewaySettings, LinkSettings
from cw.errors import PeerDisconnected, RemoteFailed
from cw.rpc.client import flow_limits
from cw.rpc.kj_address import listen
from cw.rpc.kj_connection import connect
from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_guard import DoorLimits
from cw.rpc.kj_loop import open_kj
from cw.rpc.kj_rate import CallRate
from cw.rpc.kj_serve import serve
from cw.rpc.server import door_limits
from tests.actor.kj_probe import Probe, schema
from tests.actor.test_kj_flow import bootstrap_message, call_message

LIMIT_S = 20
SOON_S = 0.1


@asynccontextmanager
async def served(limits=None, **door):
    """Yield (address, the Probe made for each connection so far)."""
    made = []

    def make_probe(connection):
        made.append(Probe(connection))
        return made[-1]

    async def run(task_status):
        listener = listen("tcp:127.0.0.1:0")
        bounds = DoorLimits(**door)
        await serve(listener, make_probe, limits, door=bounds, task_status=task_status)

    with trio.fail_after(LIMIT_S):
        async with open_kj(), trio.open_nursery() as nursery:
            yield await nursery.start(run), made
            nursery.cancel_scope.cancel()


async def dialled(address):
    """Connect without any Cap'n Proto at our end."""
    return await trio.open_tcp_stream("127.0.0.1", int(address.rpartition(":")[2]))


async def is_cut_off(stream):
    """Wait for the end of a connection, throwing away what it still brings."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass
    return True


@pytest.mark.parametrize("begun", [b"", b"\0\0\0\0", bootstrap_message(0)[:-1]])
async def test_who_says_nothing_whole_is_cut_off(begun, caplog):
    """Connections that only stand there would take the places of those who come to call."""
    async with served(greeting_limit_s=SOON_S, message_limit_s=SOON_S) as (address, _):
        async with await dialled(address) as stream:
            if begun:
                await stream.send_all(begun)

            assert await is_cut_off(stream)

    assert "cut off" in caplog.text


async def test_who_trickles_a_message_is_cut_off():
    """A byte now and then keeps no place: the whole message must come in time."""
    message = call_message(1, "echo", data=bytes(100_000))
    async with served(message_limit_s=SOON_S) as (address, _):
        async with await dialled(address) as stream:
            await stream.send_all(bootstrap_message(0) + message[:1000])
            async with trio.open_nursery() as nursery:

                async def trickle():
                    try:
                        while True:
                            await stream.send_all(b"\0")
                            await trio.sleep(SOON_S / 10)
                    except trio.BrokenResourceError:
                        pass

                nursery.start_soon(trickle)
                assert await is_cut_off(stream)
                nursery.cancel_scope.cancel()


async def test_who_takes_no_answers_is_cut_off(caplog):
    """Its answers would fill the gateway's memory, a budget's worth for each such client."""
    async with served(FlowLimits(max_open_bytes=1 << 30), send_limit_s=SOON_S) as (address, _):
        async with await dialled(address) as stream:
            await stream.send_all(bootstrap_message(0))
            with pytest.raises(trio.BrokenResourceError):
                for number in range(1, 1000):
                    await stream.send_all(call_message(number, "echo", data=bytes(1 << 20)))

    assert "nothing of its answers was taken" in caplog.text


async def test_an_idle_client_stays():
    """Between its calls a client may be silent for as long as it likes."""
    soon = {"greeting_limit_s": SOON_S, "message_limit_s": SOON_S, "send_limit_s": SOON_S}
    async with served(**soon) as (address, _), connect(address) as connection:
        probe = connection.bootstrap(schema.Probe)
        await probe.echo(b"before")
        await trio.sleep(4 * SOON_S)

        assert (await probe.echo(b"after")).data == b"after"


async def test_a_client_that_waits_for_its_own_budget_stays():
    """Who is not read, because its calls are open, is not to blame for a message half read."""
    soon = {"greeting_limit_s": SOON_S, "message_limit_s": SOON_S, "send_limit_s": SOON_S}
    async with served(FlowLimits(max_open_calls=1), **soon) as (address, _):
        async with connect(address) as connection:
            probe = connection.bootstrap(schema.Probe)
            slow = probe.nap(milliseconds=int(4e3 * SOON_S), data=b"slow")
            behind = probe.echo(b"behind")

            assert (await slow).data == b"slow"
            assert (await behind).data == b"behind"


async def test_one_address_gets_no_more_than_its_connections(caplog):
    """One machine must not take all places; whoever else comes is served."""
    async with served(max_connections_per_address=2) as (address, made):
        async with connect(address) as first, connect(address) as second:
            for connection in (first, second):
                await connection.bootstrap(schema.Probe).echo(b"x")
            async with await dialled(address) as third:
                assert await is_cut_off(third)
            assert len(made) == 2
        while made[0].connection.is_open or made[1].connection.is_open:
            await trio.lowlevel.checkpoint()
        async with connect(address) as again:  # The places of those who left are free.
            with again.errors():
                assert (await again.bootstrap(schema.Probe).echo(b"x")).data == b"x"

    assert "too many from address=127.0.0.1" in caplog.text


def test_a_rate_gives_a_second_of_calls_at_once_and_then_its_share():
    """Bursts are what clients do; what comes beyond them waits."""
    time_s = [100.0]
    rate = CallRate(10, lambda: time_s[0])
    for _ in range(10):
        assert rate.left > 0
        rate.take()
    assert rate.left == 0

    time_s[0] += 0.35
    assert rate.left == 3
    time_s[0] += 1000
    for _ in range(3):
        rate.take()
    assert rate.left == 10


async def test_calls_past_the_rate_wait_and_are_answered():
    """The peer is slowed down, not punished: TCP holds back what it sends too soon."""
    async with served(FlowLimits(max_calls_per_s=50)) as (address, _), connect(address) as it:
        probe = it.bootstrap(schema.Probe)
        start_s = trio.current_time()
        answers = [probe.echo(bytes([number])) for number in range(75)]
        for number, answer in enumerate(answers):
            assert (await answer).data == bytes([number])

    assert trio.current_time() - start_s > 0.4


async def test_a_message_nested_too_deeply_fails():
    """Readers follow pointers; how far is a bound."""
    async with served(FlowLimits(max_nesting=64)) as (address, _), connect(address) as connection:
        assert (await connection.bootstrap(schema.Probe).echo(b"deep")).data == b"deep"
    async with served(FlowLimits(max_nesting=2)) as (address, _), connect(address) as connection:
        with pytest.raises((RemoteFailed, PeerDisconnected), match="nested"):
            with connection.errors():
                await connection.bootstrap(schema.Probe).echo(b"deep")


async def test_dead_peers_are_found_by_the_kernel():
    """A machine that is switched off says no goodbye: keep-alive probes ask for one."""
    listener = listen("tcp:127.0.0.1:0")
    with listener:
        async with await trio.open_tcp_stream(*listener.getsockname()):
            accepted, _ = await listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                idle_s = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
                interval_s = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
                probes = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)

    assert idle_s + interval_s * probes <= 60


def test_each_limit_is_a_setting():
    """What an operator writes in the cluster's file is what the door keeps."""
    link = LinkSettings(
        max_nesting=7,
        max_connections=8,
        handshake_limit_ns=1_000_000_000,
        greeting_limit_ns=2_000_000_000,
        message_limit_ns=3_000_000_000,
        send_limit_ns=4_000_000_000,
    )

    assert door_limits(link) == DoorLimits(
        max_connections=8,
        max_connections_per_address=8,
        handshake_limit_s=1,
        greeting_limit_s=2,
        message_limit_s=3,
        send_limit_s=4,
    )
    assert flow_limits(link).max_nesting == 7
    assert GatewaySettings().max_calls_per_s > 10_000
