"""Processes that die or stop under load: one answer each, few lost, all well again by itself."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import trio

from cw.client import connect
from cw.errors import PeerDisconnected
from cw.units import MS, SECOND
from cw.workload.client import End, run_open_loop
from tests.cluster.clusters import FEATURES, GENEROUS_S, environment, wait_until
from tests.cluster.loads import check_answers, ends, kept_after, load_with, plan, served_by, serving

pytestmark = pytest.mark.cluster

RATE = 300


async def burst(cluster, count=400, slo="400ms"):
    """Ask for more at once than one executor can do in time."""
    answers = []
    async with connect(cluster.address) as client:

        async def one():
            answers.append(await client.infer("tiny-mlp", FEATURES, slo=slo))

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)
    return answers


async def test_a_killed_executor_costs_its_own_requests_at_most(shaken):
    """Half the cluster dies under load: the rest goes on, and it comes back by itself."""
    await serving(shaken)
    before = shaken.pids
    sent = await load_with(
        shaken,
        plan(4 * RATE, per_second=RATE),
        lambda: shaken.send_signal("executor-0", signal.SIGKILL),
        at_s=1,
    )

    # At most what one executor has in its pipe: 10 ms of work, in batches of four.
    assert ends(sent)["broken", "executorLost"] <= 20, ends(sent)
    # The restart shares the machine with the rest, whose answers it may hold up: a few, no more.
    others = len(sent) - ends(sent)["kept", ""] - ends(sent)["broken", "executorLost"]
    assert others <= len(sent) // 20, ends(sent)
    assert kept_after(sent, 1.5) > 0.95
    await serving(shaken)
    assert shaken.pids["executor-0"] != before.pop("executor-0")
    assert {name: shaken.pids[name] for name in before} == before


async def test_a_restarted_executor_takes_its_share(shaken):
    """Back, without an operator, means that requests run on it."""
    shaken.send_signal("executor-1", signal.SIGKILL)
    wait_until(lambda: "executor-1" in shaken.pids, what="executor-1 restarted")
    await trio.sleep(0.2)
    await serving(shaken)
    ran = served_by(shaken, "executor-1")
    for _ in range(5):
        await burst(shaken)
    await trio.sleep(0.6)  # Telemetry is written four times a second.

    assert served_by(shaken, "executor-1") > ran


async def test_a_stopped_executor_counts_as_lost(shaken):
    """It keeps its sockets, so only its silence tells; its requests must not wait for it."""
    await serving(shaken)
    stopped = shaken.pids["executor-0"]

    def stop_and_go():
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(stopped, signal.SIGCONT)

    try:
        sent = await load_with(
            shaken, plan(5 * RATE, per_second=RATE), stop_and_go, at_s=1, slo_ns=2500 * MS
        )
    finally:
        os.kill(stopped, signal.SIGCONT)

    # Its silence is noticed within a second, and then all its requests have time for another try.
    assert ends(sent) == {("kept", ""): len(sent)}
    await serving(shaken)
    assert shaken.pids["executor-0"] == stopped


async def test_a_killed_gateway_is_known_at_once_and_replaced(shaken):
    """Clients redial the same address; those that wait must not wait for the deadline."""
    await serving(shaken)
    others = {name: pid for name, pid in shaken.pids.items() if name != "gateway-0"}
    lost = []

    async def wait_for_nothing(client):
        with pytest.raises(PeerDisconnected):
            while True:
                await client.infer("tiny-mlp", FEATURES, slo="100s")
        lost.append(time.monotonic())

    async with connect(shaken.address) as client:
        with trio.fail_after(GENEROUS_S):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(wait_for_nothing, client)
                await trio.sleep(0.3)
                killed = time.monotonic()
                shaken.send_signal("gateway-0", signal.SIGKILL)
    assert len(lost) == 20
    assert max(lost) - killed < 5

    # The listening socket outlived it: this waits in its backlog until the next one serves.
    with trio.fail_after(GENEROUS_S):
        async with connect(shaken.address) as client:
            result = await client.infer("tiny-mlp", FEATURES, slo="1s")
    assert result.unwrap()["scores"].tolist() == FEATURES["features"][:3].tolist()
    assert {name: shaken.pids[name] for name in others} == others


async def test_a_killed_controller_loses_no_request(shaken):
    """The single decider dies under load: its state is soft, and the gateway has it all."""
    await serving(shaken)
    others = {name: pid for name, pid in shaken.pids.items() if name != "controller"}
    sent = await load_with(
        shaken,
        plan(6 * RATE, per_second=RATE),
        lambda: shaken.send_signal("controller", signal.SIGKILL),
        at_s=1,
        slo_ns=2 * SECOND,
    )

    known = {("kept", ""), ("refused", "noExecutor"), ("refused", "notReady")}
    assert set(ends(sent)) <= known, ends(sent)
    assert all(entry.end is End.KEPT for entry in sent if entry.planned.at_ns < 0.9 * SECOND)
    assert kept_after(sent, 4) > 0.95
    await serving(shaken)
    assert {name: shaken.pids[name] for name in others} == others


async def test_everything_but_the_gateway_dies_at_once(shaken):
    """A power dip on the other machines: all come back, and each request still has an answer."""
    await serving(shaken)
    victims = ("controller", "executor-0", "executor-1")

    def massacre():
        pids = shaken.pids
        for name in victims:
            os.kill(pids[name], signal.SIGKILL)

    requests = plan(6 * RATE, per_second=RATE)
    sent = await load_with(shaken, requests, massacre, at_s=1, slo_ns=100 * MS)

    wrong = {key for key in ends(sent) if key[0] == "failed"}
    assert not wrong, ends(sent)
    took_s = await serving(shaken)
    assert took_s < 10
    async with connect(shaken.address) as client:
        again = await run_open_loop(
            client, plan(100, per_second=100), slo_ns=SECOND, keep_results=True
        )
    check_answers(again, plan(100, per_second=100))
    assert ends(again) == {("kept", ""): 100}


FLOOD = """
import sys
import numpy as np
import trio
from cw.client import connect

async def main(address):
    async with connect(address) as client, trio.open_nursery() as nursery:
        async def ask_for_ever():
            while True:
                await client.infer("tiny-mlp", {"features": np.ones(4, np.float32)}, slo="20s")
                print("answered", flush=True)
        for _ in range(1000):
            nursery.start_soon(ask_for_ever)

trio.run(main, sys.argv[1])
"""
"""A client that always has a thousand requests open."""


async def test_a_client_that_vanishes_takes_its_requests_along(shaken):
    """Nobody may wait behind the work of callers who are gone."""
    await serving(shaken)
    async with connect(shaken.address) as watcher:
        before = (await watcher.status()).ledger
        client = subprocess.Popen(  # noqa: ASYNC220 - milliseconds
            [sys.executable, "-c", FLOOD, shaken.address],
            env=environment(),
            stdout=subprocess.PIPE,
        )
        try:
            with trio.fail_after(GENEROUS_S):
                await trio.to_thread.run_sync(client.stdout.readline)
                while (await watcher.status()).queued < 100:
                    await trio.lowlevel.checkpoint()
        finally:
            client.kill()
            client.stdout.close()
            client.wait()
        gone = time.monotonic()
        with trio.fail_after(GENEROUS_S):
            while (await watcher.status()).queued:
                await trio.sleep(0.01)
        drained_s = time.monotonic() - gone
        after = (await watcher.status()).ledger
        result = await watcher.infer("tiny-mlp", FEATURES, slo="5s")

    assert drained_s < 5
    assert dict(after.failed).get("cancelled", 0) > dict(before.failed).get("cancelled", 0)
    assert np.array_equal(result.unwrap()["scores"], FEATURES["features"][:3])
