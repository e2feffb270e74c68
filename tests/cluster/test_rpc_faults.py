"""Ports over real sockets between real processes, when things go wrong."""

import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cw import messages
from cw.config import LinkSettings
from cw.errors import ConfigError, OutboxFull, PeerDisconnected, RequestInvalid
from cw.rpc.client import connect_executor
from cw.rpc.server import listen_at, serve_executor
from cw.units import MiB
from tests.cluster.echo_executor import EchoExecutor

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[2]
GENEROUS_S = 30
"""The machine may be busy: long enough that only what never happens takes so long."""


def batch(payload=b"x", ticket=1):
    slot = messages.SlotInputs(
        position=0, request_id=1, attempt=1, arrival_ns=0, tensors=(payload,)
    )
    return messages.BatchInputs(epoch=1, action_id=1, ticket=ticket, slots=(slot,))


NEVER = batch(ticket=0)


@asynccontextmanager
async def executor_process(address="tcp:127.0.0.1:0", *arguments, pass_fds=()):
    """Yield (process, address to dial); killed at the end."""
    process = subprocess.Popen(  # noqa: ASYNC220 - milliseconds, and no child to wait for yet
        [sys.executable, "-m", "tests.cluster.echo_executor", address, *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
        pass_fds=pass_fds,
    )
    try:
        with trio.fail_after(GENEROUS_S):
            line = await trio.to_thread.run_sync(process.stdout.readline)
        yield process, line.strip()
    finally:
        process.kill()
        process.stdout.close()
        process.wait()


async def test_killed_peer_is_seen_at_once():
    """A dead executor's requests may still make their deadlines elsewhere, if it is known now."""
    lost = []

    async def doomed(port):
        with pytest.raises(PeerDisconnected):
            await port.infer(NEVER)
        lost.append(trio.current_time())

    async with (
        executor_process() as (process, address),
        connect_executor(address, LinkSettings()) as port,
    ):
        await port.infer(batch())
        with trio.fail_after(GENEROUS_S):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(doomed, port)
                await trio.sleep(0.2)
                process.send_signal(signal.SIGKILL)
                killed = trio.current_time()
                await port.wait_closed()
        with pytest.raises(PeerDisconnected):
            port.tell([messages.CancelSlot(request_id=1, attempt=1)])

    assert len(lost) == 10
    assert max(lost) - killed < 5


async def test_stopped_peer_holds_up_no_cancel_and_little_memory():
    """A stopped process keeps its socket: nobody may hang on it, nor pile up tensors for it."""
    link = LinkSettings(max_open_bytes=8 * MiB, outbox_messages=1000)
    payload = bytes(600_000)
    async with (
        executor_process() as (process, address),
        connect_executor(address, link) as port,
    ):
        await port.infer(batch(payload))
        process.send_signal(signal.SIGSTOP)
        try:
            before = peak_rss_bytes()
            with trio.fail_after(GENEROUS_S):
                for _ in range(10):
                    with trio.move_on_after(0.05):
                        async with trio.open_nursery() as nursery:
                            for _ in range(20):
                                nursery.start_soon(port.infer, batch(payload))

            assert peak_rss_bytes() - before < 100 * MiB
            with pytest.raises(OutboxFull):  # The heartbeat would have cut it off long before.
                while True:
                    port.tell([messages.CancelSlot(request_id=1, attempt=1)] * 100)
                    await trio.lowlevel.checkpoint()
        finally:
            process.send_signal(signal.SIGCONT)
        with trio.fail_after(GENEROUS_S):
            assert (await port.infer(batch(payload))).slots[0].outputs == (payload,)


def peak_rss_bytes():
    """The most memory that this process has ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


async def test_garbage_ends_its_own_connection_only():
    """Port scanners and lost HTTP clients come to every open port."""
    async with (
        executor_process() as (_, address),
        connect_executor(address, LinkSettings()) as port,
    ):
        host, number = address.split(":")[1:]
        for garbage in (b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 4096, bytes(range(256)) * 64):
            stream = await trio.open_tcp_stream(host, int(number))
            async with stream:
                with trio.fail_after(GENEROUS_S):
                    await stream.send_all(garbage)
                    await drained(stream)
            with trio.fail_after(GENEROUS_S):
                assert (await port.infer(batch())).slots[0].outputs == (b"x",)


async def drained(stream):
    """Read until the other side closes, or cuts."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


async def test_call_over_our_own_bound_is_refused_before_it_is_sent():
    """The caller made it too large: it must hear that, and nobody else on the connection may."""
    link = LinkSettings(max_message_bytes=1 * MiB)
    async with (
        executor_process() as (_, address),
        connect_executor(address, link) as port,
    ):
        with pytest.raises(RequestInvalid, match=r"at most 960.0 KiB in one call"):
            await port.infer(batch(bytes(2 * MiB)))
        with trio.fail_after(GENEROUS_S):
            assert (await port.infer(batch())).slots[0].outputs == (b"x",)


async def test_call_over_the_peers_bound_ends_the_connection_only():
    """A peer that is set to other bounds must not be able to end the server."""
    async with executor_process("tcp:127.0.0.1:0", 1 * MiB) as (_, address):
        async with connect_executor(address, LinkSettings()) as port:
            with trio.fail_after(GENEROUS_S):
                with pytest.raises(PeerDisconnected):
                    await port.infer(batch(bytes(4 * MiB)))
                await port.wait_closed()
        async with connect_executor(address, LinkSettings()) as port:
            with trio.fail_after(GENEROUS_S):
                assert (await port.infer(batch())).slots[0].outputs == (b"x",)


async def test_inherited_socket_outlives_its_server(tmp_path):
    """While a server restarts, dialling waits in the backlog instead of failing."""
    path = tmp_path / "executor"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        number = listener.fileno()
        async with executor_process(f"fd:{number}", pass_fds=(number,)) as (_, address):
            assert address == f"unix:{path}"
            async with connect_executor(address, LinkSettings()) as port:
                await port.infer(batch())
        # Nobody serves it now.
        async with (
            connect_executor(address, LinkSettings()) as port,
            executor_process(f"fd:{number}", pass_fds=(number,)),
        ):
            with trio.fail_after(GENEROUS_S):
                assert (await port.infer(batch())).slots[0].outputs == (b"x",)


async def test_inherited_descriptor_must_be_a_listening_socket(tmp_path):
    """A supervisor that passes the wrong descriptor must hear so, and keep it."""
    with socket.socket() as sock, (tmp_path / "file").open("w") as file:
        with pytest.raises(ConfigError, match="socket that listens"):
            listen_at(f"fd:{sock.fileno()}")
        with pytest.raises(ConfigError, match="inherited socket"):
            listen_at(f"fd:{file.fileno()}")
        with pytest.raises(ConfigError, match="fd:N"):
            listen_at("fd:first")

        assert sock.fileno() >= 0
        os.fstat(file.fileno())


async def test_connections_share_one_loop_whoever_ends_first(tmp_path):
    """Two tasks that know nothing of each other may each connect, serve and leave as they like."""
    address = f"unix:{tmp_path}/executor"

    async def connect_while(to_leave, *, task_status):
        async with connect_executor(address, LinkSettings()) as port:
            task_status.started(port)
            await to_leave.wait()

    for _ in range(2):  # When all have left, the next one opens the loop anew.
        first_leaves, second_leaves = trio.Event(), trio.Event()
        with trio.fail_after(GENEROUS_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_executor, address, EchoExecutor(), LinkSettings())
                first = await nursery.start(connect_while, first_leaves)
                second = await nursery.start(connect_while, second_leaves)
                await first.infer(batch())
                first_leaves.set()
                await first.wait_closed()

                assert (await second.infer(batch())).slots[0].outputs == (b"x",)
                second_leaves.set()
                await second.wait_closed()
                nursery.cancel_scope.cancel()


async def test_nobody_at_the_address():
    """Whoever dials decides when to try again, so it is told at once, by the one type for it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else can take it.
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PeerDisconnected, match="cannot connect"):
            async with connect_executor(address, LinkSettings()):
                pass
