"""Connections when things go wrong: dead peers, garbage, too large, too many, wrong addresses."""

import os
import random
import signal
import socket
import struct

import pytest
import trio

from cw.errors import ConfigError, PeerDisconnected, RemoteFailed
from cw.rpc.kj_address import address_of, listen, parse_address
from cw.rpc.kj_connection import connect
from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_guard import DoorLimits
from cw.rpc.kj_loop import open_kj
from cw.rpc.kj_serve import serve
from tests.actor.kj_probe import Probe, dial_raw, process, schema, served_here, until


async def test_a_killed_peer_fails_its_pending_calls_at_once():
    """Redialling must begin in milliseconds, not after a timeout."""
    failures = []

    async def doomed(connection, probe):
        try:
            with connection.errors():
                await probe.nap(60_000, b"")
        except PeerDisconnected as error:
            failures.append(error)

    async with process("serve") as (server, address), open_kj(), connect(address) as connection:
        probe = connection.bootstrap(schema.Probe)
        await probe.echo(b"x")
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(doomed, connection, probe)
            await probe.counts()
            server.send_signal(signal.SIGKILL)
            with trio.fail_after(5):
                await connection.wait_disconnected()
        assert len(failures) == 10
        with pytest.raises(PeerDisconnected, match="connect again"), connection.errors():
            await probe.echo(b"x")


async def test_a_client_that_vanishes_has_its_calls_cancelled():
    """Work for nobody must not keep a lane busy."""
    async with served_here() as (address, made):
        async with process("nap", address, 20) as (client, _):
            await until(lambda: made[0].begun == 20)
            client.send_signal(signal.SIGKILL)
            await until(lambda: made[0].cancelled == 20)
        async with connect(address) as connection:
            assert (await connection.bootstrap(schema.Probe).echo(b"x")).data == b"x"


GARBAGE = {
    "random": random.Random(2).randbytes(4096),
    "too many segments": b"\xff" * 64,
    "a segment of 1 GB": struct.pack("<II", 0, 1 << 27) + bytes(64),
    "http": b"GET / HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_garbage_closes_its_connection_only(garbage):
    """Ports get scanned; nobody else may notice."""
    async with served_here() as (address, made), connect(address) as sound:
        probe = sound.bootstrap(schema.Probe)
        await probe.echo(b"x")
        stranger = await dial_raw(address)
        await stranger.send_all(garbage)
        await stranger.send_eof()
        with trio.fail_after(5):
            try:
                while await stranger.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass
        await trio.aclose_forcefully(stranger)

        await until(lambda: len(made) == 2 and not made[1].connection.is_open)
        assert (await probe.echo(b"still here")).data == b"still here"


async def test_a_message_past_the_receivers_limit_closes_its_connection_only():
    """One message must not take the process's memory; the sender learns that it is cut off."""
    async with served_here(FlowLimits(max_message_bytes=100_000)) as (address, _):
        async with connect(address) as sound, connect(address) as oversized:
            with pytest.raises(PeerDisconnected), oversized.errors():
                await oversized.bootstrap(schema.Probe).echo(bytes(200_000))
            assert (await sound.bootstrap(schema.Probe).echo(b"x")).data == b"x"


async def test_a_message_past_the_senders_limit_fails_that_call_only():
    """The connection is sound: a wrong call must not cost the neighbours theirs."""
    async with served_here() as (address, _), connect(address) as connection:
        probe = connection.bootstrap(schema.Probe)
        with pytest.raises(RemoteFailed), connection.errors():
            await probe.echo(bytes(80 << 20))
        assert (await probe.echo(b"x")).data == b"x"


async def test_a_hundred_connections_leave_no_descriptor_behind():
    """Gateways redial for months."""
    async with served_here() as (address, made):

        async def once():
            async with connect(address) as connection:
                await connection.bootstrap(schema.Probe).echo(b"x")

        await once()
        await until(lambda: not made[-1].connection.is_open)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(100):
            await once()
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_a_bootstrap_that_fails_costs_its_connection_only(caplog):
    """A bug on the way in is logged, and the door stays open."""
    refusals = [ValueError("first one fails")]

    def make_bootstrap(connection):
        if refusals:
            raise refusals.pop()
        return Probe(connection)

    async with open_kj(), trio.open_nursery() as nursery:
        address = await nursery.start(serve, listen("tcp:127.0.0.1:0"), make_bootstrap)
        async with connect(address) as connection:
            with pytest.raises(PeerDisconnected), connection.errors():
                await connection.bootstrap(schema.Probe).echo(b"x")
        async with connect(address) as connection:
            assert (await connection.bootstrap(schema.Probe).echo(b"x")).data == b"x"
        nursery.cancel_scope.cancel()

    assert "first one fails" in caplog.text


async def test_connections_past_the_bound_wait_their_turn():
    """A flood of connections must not take all descriptors."""
    async with open_kj(), trio.open_nursery() as nursery:
        listener = listen("tcp:127.0.0.1:0")
        address = address_of(listener)
        made = []

        def make_bootstrap(connection):
            made.append(Probe(connection))
            return made[-1]

        nursery.start_soon(
            lambda: serve(listener, make_bootstrap, door=DoorLimits(max_connections=1))
        )
        async with connect(address) as first:
            await first.bootstrap(schema.Probe).echo(b"x")
            async with connect(address) as second:
                answer = second.bootstrap(schema.Probe).echo(b"y")
                for _ in range(5):
                    await first.bootstrap(schema.Probe).echo(b"x")
                assert len(made) == 1
                first.close()
                with trio.fail_after(5):
                    assert (await answer).data == b"y"
        nursery.cancel_scope.cancel()


async def test_nagle_is_off_on_both_ends():
    """With it, header and body of one call arrive 40 ms apart."""
    listener = listen("tcp:127.0.0.1:0")
    with listener:
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        async with open_kj(), connect(address_of(listener)) as connection:
            accepted, _ = await listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            dialled = connection._transport._sock
            assert dialled.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_dead_process_leaves_its_unix_socket_free(tmp_path):
    """A restarted executor must get its address back; a living one must keep its own."""
    address = f"unix:{tmp_path / 'probe.sock'}"
    listen(address).close()
    async with open_kj(), trio.open_nursery() as nursery:
        assert await nursery.start(serve, listen(address), Probe) == address
        async with connect(address) as connection:
            assert (await connection.bootstrap(schema.Probe).echo(b"x")).data == b"x"
        with pytest.raises(OSError, match="in use"):
            listen(address)
        nursery.cancel_scope.cancel()


async def test_nobody_there_is_said_so(tmp_path):
    """A dialler decides when to try again; it must know that it was refused, and where."""
    with listen("tcp:127.0.0.1:0") as listener:
        address = address_of(listener)
    async with open_kj():
        for nowhere in (address, f"unix:{tmp_path}/none"):
            with pytest.raises(PeerDisconnected, match=f"cannot connect to {nowhere}"):
                async with connect(nowhere):
                    pass


def test_addresses_are_read_or_refused():
    """A typing error in a setting must be told apart from a server that is down."""
    assert parse_address("tcp:[::1]:7000") == (socket.AF_INET6, ("::1", 7000))
    assert parse_address("tcp:localhost:0") == (socket.AF_INET, ("localhost", 0))
    assert parse_address("unix:/run/cw.sock") == (socket.AF_UNIX, "/run/cw.sock")
    for wrong in ("", "tcp:7000", "tcp::7000", "tcp:host:x", "tcp:host:70000", "unix:", "ssl:h:1"):
        with pytest.raises(ConfigError, match="expected tcp:HOST:PORT, tls:HOST:PORT or unix:PATH"):
            parse_address(wrong)
