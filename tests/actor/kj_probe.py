"""The server that the tests of cw.rpc.kj_* talk to; also a process: ``-m tests.actor.kj_probe``."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import capnp
import trio
import trio.lowlevel

from cw.rpc.kj_address import listen
from cw.rpc.kj_calls import call_alive, detached, served
from cw.rpc.kj_connection import KjConnection, connect, open_connection
from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_loop import open_kj
from cw.rpc.kj_serve import serve

ROOT = Path(__file__).parents[2]
IMPORTS = [str(Path(capnp.__file__).parents[1])]
schema = capnp.load(str(Path(__file__).with_name("kj_probe.capnp")), imports=IMPORTS)


def read_data(params):
    return params.data


def write_data(results, data):
    results.data = data


class Probe(schema.Probe.Server):
    """Does what kj_probe.capnp says."""

    def __init__(self, connection=None):
        self.connection: KjConnection | None = connection
        self.noted: list[int] = []
        self.begun = self.cancelled = 0
        self.handed_out: list[Probe] = []

    echo_context = served(read_data, lambda probe, data: data, write_data)

    async def _echo_later(self, data):
        await trio.lowlevel.checkpoint()
        return data

    echoLater_context = served(read_data, _echo_later, write_data)  # noqa: N815
    note_context = served(lambda params: params.number, lambda probe, n: probe.noted.append(n))

    async def nap_context(self, ctx):
        """By hand, and stubborn: it outlives its caller's cancel by a few checkpoints."""
        seconds, data = ctx.params.milliseconds / 1e3, ctx.params.data
        self.begun += 1
        await detached()
        try:
            await trio.sleep(seconds)
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(3):
                    await trio.lowlevel.checkpoint()
            if not call_alive():
                self.cancelled += 1
        if call_alive():
            ctx.results.data = data

    async def fail_context(self, ctx):
        raise ValueError(ctx.params.text) from KeyError("a cause that stays at home")

    async def waitTooEarly_context(self, ctx):  # noqa: N802
        await trio.lowlevel.checkpoint()

    async def counts_context(self, ctx):
        results = ctx.results
        results.begun, results.cancelled = self.begun, self.cancelled
        if self.connection is not None:
            results.open = self.connection.open_calls
            results.openPeak = self.connection.open_calls_peak

    def _hand_out(self):
        self.handed_out.append(Probe(self.connection))
        return self.handed_out[-1]

    async def probe_context(self, ctx):
        ctx.results.probe = self._hand_out()

    async def napProbe_context(self, ctx):  # noqa: N802
        seconds = ctx.params.milliseconds / 1e3
        await detached()
        await trio.sleep(seconds)
        if call_alive():
            ctx.results.probe = self._hand_out()


@asynccontextmanager
async def in_memory(limits=None) -> AsyncIterator[tuple]:
    """Yield (client's capability, client's connection, server object) over memory streams."""
    ours, theirs = trio.testing.memory_stream_pair()
    made: list[Probe] = []

    def make_probe(connection):
        made.append(Probe(connection))
        return made[0]

    async with (
        open_kj(),
        open_connection(theirs, "client", make_bootstrap=make_probe, limits=limits),
        open_connection(ours, "server", limits=limits) as connection,
    ):
        yield connection.bootstrap(schema.Probe), connection, made[0]


@asynccontextmanager
async def served_here(limits=None) -> AsyncIterator[tuple[str, list[Probe]]]:
    """Yield (address, servers made so far): one Probe per connection, over TCP, in this process."""
    made: list[Probe] = []

    def make_probe(connection):
        made.append(Probe(connection))
        return made[-1]

    async with open_kj(), trio.open_nursery() as nursery:
        address = await nursery.start(serve, listen("tcp:127.0.0.1:0"), make_probe, limits)
        yield address, made
        nursery.cancel_scope.cancel()


def start_process(*arguments):
    """Start this module as a process: ``serve [calls bytes]`` or ``nap ADDRESS``."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.actor.kj_probe", *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )


@asynccontextmanager
async def process(*arguments) -> AsyncIterator[tuple[subprocess.Popen, str]]:
    """Yield (process, the line that it prints when ready); killed at the end."""
    started = start_process(*arguments)
    try:
        yield started, (await trio.to_thread.run_sync(started.stdout.readline)).strip()
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


async def dial_raw(address):
    """Connect without any Cap'n Proto at our end."""
    _, host, port = address.split(":")
    return await trio.open_tcp_stream(host, int(port))


def resident_bytes(pid):
    """Return a process's resident set."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def until(condition, within_s=10.0):
    """Wait for what a real process or socket will bring about."""
    with trio.fail_after(within_s):
        while not condition():
            await trio.sleep(0.01)


async def _serve_as_process(calls, nbytes):
    limits = FlowLimits(max_open_calls=calls, max_open_bytes=nbytes)
    one = Probe()

    def make_probe(connection):
        one.connection = connection
        return one

    async with open_kj(), trio.open_nursery() as nursery:
        address = await nursery.start(serve, listen("tcp:127.0.0.1:0"), make_probe, limits)
        print(address, flush=True)


async def _nap_as_process(address, count):
    async with open_kj(), connect(address) as connection, trio.open_nursery() as nursery:
        probe = connection.bootstrap(schema.Probe)
        await probe.echo(b"x")
        print("napping", flush=True)

        async def nap():
            await probe.nap(60_000, b"x")

        for _ in range(count):
            nursery.start_soon(nap)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(_serve_as_process, *map(int, sys.argv[2:] or (1024, 64 << 20)))
    else:
        trio.run(_nap_as_process, sys.argv[2], int(sys.argv[3]))
