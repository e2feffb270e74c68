"""Cap'n Proto RPC on Trio: order of calls, cancels, errors, virtual time."""

import logging
import random
import socket
import time

import pytest
import trio
import trio.testing

from cw.errors import PeerDisconnected, RemoteFailed
from cw.rpc.kj_calls import call_alive, detached, error_for_peer
from cw.rpc.kj_connection import connect, open_connection
from cw.rpc.kj_loop import open_kj
from cw.rpc.memory_tuning import release_freed_memory, tune_malloc
from tests.actor.kj_probe import Probe, in_memory, process, schema, served_here, until


async def test_calls_come_back_with_their_own_answers():
    """Small and large, with and without a task: the plain use of the loop."""
    async with in_memory() as (probe, _, _):
        for size in (0, 1, 65_535, 65_536, 700_001):
            data = random.Random(size).randbytes(size)
            assert (await probe.echo(data)).data == data
            assert (await probe.echoLater(data)).data == data


async def test_a_thousand_calls_are_begun_in_the_order_they_were_sent():
    """Trio shuffles tasks; an inbox filled from calls must not be shuffled with them."""
    async with in_memory() as (probe, _, server):
        answers = []
        for number in range(1000):
            answers.append(probe.note(number))
            if number % 7 == 0:
                answers.append(probe.echoLater(b"x"))  # Tasks among them change nothing.
        for answer in answers:
            await answer

        assert server.noted == list(range(1000))


async def test_calls_pipelined_on_a_promised_capability_keep_their_order():
    """The library holds such calls back by itself, and must let them go in order."""
    async with in_memory() as (probe, _, server):
        inner = probe.napProbe(10).probe
        answers = [inner.note(number) for number in range(200)]
        for answer in answers:
            await answer

        assert server.handed_out[0].noted == list(range(200))


class SpawnCounter(trio.abc.Instrument):
    def __init__(self):
        self.count = 0

    def task_spawned(self, task):
        self.count += 1


async def test_a_handler_that_never_waits_costs_no_task():
    """The fast path for one-way messages; one that waits costs exactly one task."""
    async with in_memory() as (probe, _, _):
        await probe.echo(b"x")
        counter = SpawnCounter()
        trio.lowlevel.add_instrument(counter)
        for _ in range(50):
            await probe.echo(b"x")
        spawned_by_echo = counter.count
        for _ in range(50):
            await probe.echoLater(b"x")
        trio.lowlevel.remove_instrument(counter)

        assert (spawned_by_echo, counter.count) == (0, 50)


async def test_waiting_before_detached_is_an_error_that_says_so(caplog):
    """Trio would wake the wrong task: the one that pumps, not the handler's."""
    async with in_memory() as (probe, connection, _):
        with pytest.raises(RemoteFailed, match=r"must `await detached\(\)` before it waits"):
            with connection.errors():
                await probe.waitTooEarly()
        assert (await probe.echo(b"lives")).data == b"lives"

    assert "call failed call=Probe.waitTooEarly_context" in caplog.text


async def test_detached_does_nothing_outside_of_a_first_step():
    """A test may call a handler straight, and a handler may call helpers that detach too."""
    await detached()
    assert call_alive()


async def test_an_error_crosses_as_type_and_text_and_is_logged_here(caplog):
    """A traceback shows a stranger our source; without a log nobody would ever see the bug."""
    async with in_memory() as (probe, connection, _):
        with caplog.at_level(logging.ERROR), pytest.raises(RemoteFailed) as caught:
            with connection.errors():
                await probe.fail("bang")

    assert str(caught.value) == "server: ValueError: bang"
    assert "call failed call=Probe.fail_context" in caplog.text
    assert "Traceback" in caplog.text


def test_a_long_error_is_cut():
    """An error's text is for people; a peer's log must not be filled by it."""
    assert len(str(error_for_peer(ValueError("x" * 100_000)))) < 1100


async def test_a_cancelled_call_is_cancelled_at_the_server(autojump_clock):
    """A client that gives up frees the server, which must not touch the call any more."""
    async with in_memory() as (probe, _, server):
        with trio.move_on_after(1):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(nap, probe, 60_000)
        await trio.testing.wait_all_tasks_blocked()

        assert (server.begun, server.cancelled) == (10, 10)


async def nap(probe, milliseconds, data=b""):
    return (await probe.nap(milliseconds, data)).data


async def test_closing_a_connection_cancels_its_calls_and_fails_ours(autojump_clock):
    """Nothing of a connection outlives it, on either side."""
    async with in_memory() as (probe, connection, server):
        failures = []

        async def doomed():
            try:
                with connection.errors():
                    await probe.nap(60_000, b"")
            except PeerDisconnected as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(doomed)
            await trio.testing.wait_all_tasks_blocked()
            connection.close()
        await connection.wait_disconnected()
        await trio.testing.wait_all_tasks_blocked()

        assert len(failures) == 5
        assert (server.begun, server.cancelled) == (5, 5)
        assert not connection.is_open
        with pytest.raises(PeerDisconnected):
            connection.bootstrap(schema.Probe)


async def test_an_hour_of_calls_takes_no_time_on_a_virtual_clock(autojump_clock):
    """Actors over RPC can be tested with virtual time: no wait of the loop is hidden from Trio."""
    begun_s = time.perf_counter()
    async with in_memory() as (probe, _, _):
        begun_virtual_s = trio.current_time()
        assert await nap(probe, 3_600_000, b"x") == b"x"
        assert trio.current_time() - begun_virtual_s >= 3600

    assert time.perf_counter() - begun_s < 5


async def test_a_deadline_of_trio_bounds_a_call(autojump_clock):
    """An SLO is a Trio deadline all the way: no timeout of the library's own is needed."""
    async with in_memory() as (probe, _, _):
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.1):
            await probe.nap(60_000, b"")


async def test_an_error_of_the_block_comes_out_bare():
    """The nurseries inside are nobody's business: `except ValueError` must work around them."""
    with pytest.raises(ValueError, match="mine"):
        async with in_memory():
            raise ValueError("mine")


async def test_one_loop_per_thread_at_a_time():
    """pycapnp aborts the process when two loops overlap in a thread; ours refuses, then reopens."""
    async with open_kj():
        with pytest.raises(RuntimeError, match="already runs"):
            async with open_kj():
                pass
    async with in_memory() as (probe, _, _):
        assert (await probe.echo(b"x")).data == b"x"


async def test_leaving_with_calls_under_way_is_clean(autojump_clock):
    """pycapnp aborts the process when its loop closes over a call that has not ended."""
    async with in_memory() as (probe, _, server), trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(nap, probe, 60_000)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert server.begun == 20


async def test_cancelled_calls_are_never_touched_under_load():
    """A cancelled call's memory is freed at once: one touch after that kills the server."""
    rng = random.Random(4)

    async def worker(probe):
        for _ in range(60):
            with trio.move_on_after(rng.random() * 0.01):
                await nap(probe, rng.randrange(12), bytes(rng.randrange(200_000)))

    async with process("serve") as (server, address), open_kj():
        async with connect(address) as connection:
            probe = connection.bootstrap(schema.Probe)
            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(worker, probe)
            counts = await probe.counts()
            assert counts.cancelled > 50
            assert server.poll() is None


async def test_a_socketpair_works_as_well_as_an_address():
    """Processes that are born connected need no address."""
    ours, theirs = socket.socketpair()
    async with (
        open_kj(),
        open_connection(theirs, "client", make_bootstrap=Probe),
        open_connection(ours, "server") as connection,
    ):
        probe = connection.bootstrap(schema.Probe)
        assert await nap(probe, 1, b"x") == b"x"


async def test_calls_run_in_the_nursery_of_their_connection():
    """So that leaving a connection leaves none of its tasks behind."""
    async with served_here() as (address, made):
        async with connect(address) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(nap, connection.bootstrap(schema.Probe), 60_000)
            await until(lambda: made and made[0].begun)
            names = [task.name for task in made[0].connection.nursery.child_tasks]
            nursery.cancel_scope.cancel()

    assert any("nap_context" in name for name in names)


def test_malloc_takes_its_settings():
    """On Linux with glibc both settings hold; without them tensors pay page faults at each copy."""
    assert tune_malloc()
    release_freed_memory()
