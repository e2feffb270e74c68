"""Load on a devcluster, and what must be true of its answers whatever happens meanwhile."""

import json
import time
from collections import Counter

import numpy as np
import trio

from cw.client import connect
from cw.errors import CwError
from cw.messages import ModelState
from cw.units import MS, SECOND
from cw.workload.client import End, Planned, run_open_loop
from tests.cluster.clusters import GENEROUS_S


def plan(count, *, per_second, model="tiny-mlp"):
    """Plan requests at a constant rate, each with numbers of its own."""
    return [
        Planned(
            at_ns=index * SECOND // per_second,
            model=model,
            inputs={"features": np.full(4, index + 1, np.float32)},
            tag=index + 1,
        )
        for index in range(count)
    ]


async def load_with(cluster, requests, incident, *, at_s, slo_ns=200 * MS):
    """Send an open loop, let something happen in the midst of it; return what became of it."""
    sent = []
    async with connect(cluster.address) as client:

        async def send():
            sent.extend(await run_open_loop(client, requests, slo_ns=slo_ns, keep_results=True))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await trio.sleep(at_s)
                await trio.to_thread.run_sync(incident)
    check_answers(sent, requests)
    return sent


def check_answers(sent, requests):
    """One answer to each, and every output that of its own inputs (emulated devices echo)."""
    assert [entry.planned.tag for entry in sent] == [planned.tag for planned in requests]
    for entry in sent:
        if entry.result is not None:
            result = entry.result
            given = [result.outputs, result.refusal, result.failure]
            assert sum(part is not None for part in given) == 1
            if result.outputs is not None:
                assert result.outputs["scores"].tolist() == [entry.planned.tag] * 3


def ends(sent):
    """Count (end, reason)."""
    return Counter((entry.end.value, entry.reason) for entry in sent)


def kept_after(sent, at_s):
    """Say what share of the requests scheduled after an instant was kept."""
    late = [entry for entry in sent if entry.planned.at_ns > at_s * SECOND]
    return sum(entry.end is End.KEPT for entry in late) / len(late)


def served_by(cluster, name):
    """Count the requests that an executor has run, over all its lives, from its telemetry."""
    path = cluster.folder / "logs" / f"{name}.actions.jsonl"
    with path.open() as file:
        records = [json.loads(line) for line in file if line.endswith("\n")]
    return sum(record["ran"] for record in records if record["kind"] == "INFER")


async def serving(cluster, executors=2):
    """Wait until all executors serve and the model is ready; return how long that took."""
    start = time.monotonic()
    with trio.fail_after(GENEROUS_S):
        while True:
            try:
                async with connect(cluster.address) as client:
                    while True:
                        status = await client.status()
                        states = [executor.state for executor in status.executors]
                        ready = [model.state is ModelState.READY for model in status.models]
                        if states == ["serving"] * executors and ready == [True]:
                            return time.monotonic() - start
                        await trio.sleep(0.02)
            except CwError:
                await trio.sleep(0.02)
