"""``tools/devcluster measure``: the figures of the README, measured on this machine.

Three questions, each on a cluster of its own, with the device on a core of its own and everything
else, the load generator included, on the others:

1. What do gateway, controller and wire add to a request's time on the device?
2. How many requests a second pass through one gateway?
3. Under less and more load than an executor can take one at a time: how many requests are kept,
   refused and broken, and what share is that of what a clairvoyant scheduler could have kept? And
   how long is each process on a processor for a request?
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio
from rich.table import Table

from cw.cli import bench
from cw.cli.common import people, print_json
from cw.cli.one_executor import OneExecutor, load_options, one_executor, processor_ns
from cw.cli.pack import example
from cw.client import Client
from cw.config import ExecutorSettings
from cw.messages import ModelStatus
from cw.models.pack import pack_weights
from cw.units import MS, SECOND, US, GiB

_MODELS: Final = 8
_LOADS: Final = (0.5, 0.9, 1.2, 2.0)
_SLO_NS: Final = 50 * MS
_POPULARITY: Final = "zipf:0.9"
_IN_FLIGHT: Final = 64
_LATENCY_SECONDS_MAX: Final = 15.0


def measure(args: argparse.Namespace) -> int:
    """Run the measurements and print them."""
    folder = Path(tempfile.mkdtemp(prefix="cw-measure-"))
    try:
        report = trio.run(_measure, folder, args.seconds, args.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if args.json:
        print_json(report)
    return 0


async def _measure(folder: Path, seconds: float, seed: int) -> dict[str, Any]:
    people.print("packing the models")
    fast, resnets = await trio.to_thread.run_sync(_pack, folder)
    report: dict[str, Any] = {"seconds": seconds, "seed": seed}
    brief = min(seconds, _LATENCY_SECONDS_MAX)
    emulated = ExecutorSettings(device="emulated", profile="fixed-2ms", gpu_memory_bytes=1 * GiB)
    async with one_executor(folder / "emulated", emulated, [fast]) as one:
        report |= await _overheads(one.client, one.models, brief, seed)
    cpu = ExecutorSettings(device="cpu", gpu_memory_bytes=1 * GiB)
    async with one_executor(folder / "cpu", cpu, resnets) as one:
        report["loads"] = await _loads(one, seconds, seed)
        report["cpu"] = (await one.client.status()).executors[0].device
    _show(report)
    return report


def _pack(folder: Path) -> tuple[Path, list[Path]]:
    """Pack one tiny model with batches of up to 64, and ResNet-18s that share a program."""
    sizes = (1, 2, 4, 8, 16, 32, 64)
    fast = attrs.evolve(example("tiny-mlp"), batch_sizes=sizes).pack(folder / "tiny-mlp")
    resnet = attrs.evolve(example("resnet18"), batch_sizes=sizes[:4])
    first = resnet.pack(folder / "resnet18-0", name="resnet18-0")
    folders = [first.folder]
    for index in range(1, _MODELS):
        name = f"resnet18-{index}"
        weights = resnet.build(index).state_dict()
        folders.append(pack_weights(first, weights, name=name, out=folder / name).folder)
    return fast.folder, folders


async def _overheads(
    client: Client, models: Sequence[ModelStatus], seconds: float, seed: int
) -> dict[str, Any]:
    device_ns = models[0].profile[0].p50_ns
    half_rps = 0.5 * SECOND / device_ns
    people.print("one request at a time, then at half load, then 64 at a time")
    runs = {
        "one_at_a_time": load_options(seed, seconds, closed=1),
        "half_load": load_options(seed, seconds, rate=half_rps),
        "in_flight_64": load_options(seed, seconds, closed=_IN_FLIGHT, slo=SECOND),
    }
    return {name: (await bench.measure(client, options))[0] for name, options in runs.items()}


async def _loads(one: OneExecutor, seconds: float, seed: int) -> list[dict[str, Any]]:
    single_ns = sum(model.profile[0].p50_ns for model in one.models) / len(one.models)
    capacity_rps = SECOND / single_ns
    people.print(f"one at a time, the executor could do {capacity_rps:.0f} requests/s")
    runs = []
    for load in _LOADS:
        rate_rps = load * capacity_rps
        people.print(f"  {load} times that, {rate_rps:.0f}/s, for {seconds:g} s")
        options = load_options(seed, seconds, rate=rate_rps, popularity=_POPULARITY)
        before = _processors_ns(one)
        measured, _ = await bench.measure(one.client, options)
        spent_us = {
            name: (ns - before[name]) / measured["requests"] / US
            for name, ns in _processors_ns(one).items()
        }
        runs.append({"load": load, "processor_us_per_request": spent_us} | measured)
    return runs


def _processors_ns(one: OneExecutor) -> dict[str, int]:
    """Say how long each process has been on processors; "client" is this one."""
    pids = {name: child.process.pid for name, child in one.cluster.children.items()}
    return {name: processor_ns(pid) for name, pid in (pids | {"client": os.getpid()}).items()}


def _show(report: dict[str, Any]) -> None:
    added = Table(title="emulated 2 ms model, loopback", title_justify="left")
    for heading in ("", "requests/s", "kept", "added p50 ms", "added p99 ms"):
        added.add_column(heading, justify="right" if heading else "left")
    for name in ("one_at_a_time", "half_load", "in_flight_64"):
        run = report[name]
        latency = run["added_ms"]
        added.add_row(
            name.replace("_", " "),
            f"{run['goodput_rps']:.0f}",
            f"{run['kept'] / run['requests']:.2%}",
            _ms(latency["p50"]),
            _ms(latency["p99"]),
        )
    people.print(added)
    loads = Table(
        title=f"{_MODELS} ResNet-18 on {report['cpu']}, SLO {_SLO_NS // MS} ms, {_POPULARITY}, "
        f"{report['seconds']:g} s each, seed {report['seed']}",
        title_justify="left",
    )
    for heading in ("load", "offered/s", "kept", "refused", "broken", "p99 ms", "of the bound"):
        loads.add_column(heading, justify="right")
    for run in report["loads"]:
        causes = ", ".join(f"{cause} {n}" for cause, n in run["broken_by_cause"].items())
        loads.add_row(
            f"{run['load']:g}",
            f"{run['offered_rps']:.0f}",
            f"{run['kept'] / run['requests']:.2%}",
            f"{sum(run['refused'].values()) / run['requests']:.2%}",
            f"{run['broken'] / run['requests']:.3%} {causes}".strip(),
            _ms(run["latency_ms"]["p99"]),
            f"{run['share_of_bound']:.1%}",
        )
    people.print(loads)
    spent = Table(title="time on processors per request, us", title_justify="left")
    names = list(report["loads"][0]["processor_us_per_request"])
    for heading in ("load", *names):
        spent.add_column(heading, justify="right")
    for run in report["loads"]:
        spent.add_row(
            f"{run['load']:g}", *(f"{run['processor_us_per_request'][name]:.0f}" for name in names)
        )
    people.print(spent)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
