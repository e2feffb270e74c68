"""Composition: the only place where settings, devices, ports and actors are put together.

Each role of a cluster is one function here, run in a process of its own by `role` (which also gives
every process what it needs of its surroundings), or several in one process by tests and by whoever
runs a small cluster in one.
"""

import json
import logging
import os
import signal
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

import cw
from cw.actors.controller import ControllerActor
from cw.actors.doors import ServingDoor
from cw.actors.executor import ExecutorActor
from cw.actors.executor_host import ExecutorHost
from cw.actors.gateway import GatewayActor
from cw.actors.profile_keeper import ProfileKeeper, load_profiles
from cw.actors.telemetry import Telemetry
from cw.actors.weights_cache import StoreLocator
from cw.config import ClusterSettings, ExecutorSettings, restore_settings
from cw.core.scheduler import Scheduler
from cw.devices.device import Device
from cw.devices.emulated import EmulatedDevice
from cw.devices.profile_file import read_profile
from cw.devices.shared_timer import SharedTimer
from cw.errors import ConfigError
from cw.http.door import HttpDoor
from cw.http.server import serve_http
from cw.messages import Epoch, Incarnation
from cw.models.store import ModelStore
from cw.rpc.client import connect_controller, connect_executor
from cw.rpc.server import listen_at, serve_controller, serve_executor, serve_gateway
from cw.units import PAGE_BYTES, format_bytes

logger = logging.getLogger(__name__)

_PRIORITY = 10
"""Above ordinary threads, below the kernel's own."""

Ready = Callable[[dict[str, Any]], None]
"""Tell whoever started the role that it serves, and where."""


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a role's process finds around itself: a folder laid out by whoever starts it.

    ::

        settings.json   all settings            store/       models (cw/models/store.py)
        admin.key       the administrator's     logs/        one file per process
    """

    folder: Path
    settings: ClusterSettings

    @property
    def store(self) -> ModelStore:
        """The cluster's models."""
        return ModelStore(self.folder / "store")

    @property
    def admin_key(self) -> str:
        """Empty when there is none: then nobody is the administrator."""
        path = self.folder / "admin.key"
        return path.read_text().strip() if path.exists() else ""


def surroundings(folder: Path) -> Surroundings:
    """Read a folder.

    Raises:
        ConfigError: It holds no settings.
    """
    path = folder / "settings.json"
    try:
        settings = restore_settings(json.loads(path.read_text()), ClusterSettings)
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(
            f"expected this version's settings at {path} ({exc}); tools/devcluster writes them"
        ) from exc
    return Surroundings(folder=folder, settings=settings)


# --- roles ----------------------------------------------------------------------------------------


async def controller(around: Surroundings, listen: str, ready: Ready) -> None:
    """Run a controller with its catalog until cancelled."""
    settings = around.settings
    store = around.store
    await trio.to_thread.run_sync(store.prepare)
    stored = await trio.to_thread.run_sync(store.models)
    # A later reign has a larger number, on whichever machine it begins: wall-clock milliseconds.
    epoch = Epoch(time.time_ns() // 1_000_000)
    core = Scheduler(
        settings.scheduler,
        epoch=epoch,
        ticket_seed=int.from_bytes(os.urandom(8), "big"),
        measured=await trio.to_thread.run_sync(load_profiles, store),
    )
    actor = ControllerActor(
        core=core,
        epoch=epoch,
        link=settings.link,
        models=[model.manifest.to_spec() for model in stored],
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        nursery.start_soon(ProfileKeeper(core, store).run)
        address = await nursery.start(partial(serve_controller, listen, actor, settings.link))
        ready({"address": address, "epoch": epoch, "models": len(stored)})


async def gateway(
    around: Surroundings,
    name: str,
    controller_address: str,
    listen: str,
    listen_http: str | None,
    ready: Ready,
) -> None:
    """Run a gateway until cancelled; with an HTTP door if it has an address for that."""
    settings = around.settings
    actor = GatewayActor(
        name=name,
        settings=settings.gateway,
        link=settings.link,
        dial_controller=lambda: connect_controller(controller_address, settings.link),
        dial_executor=lambda address: connect_executor(address, settings.link),
    )
    door = ServingDoor(actor, around.store, around.admin_key)
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        address = await nursery.start(partial(serve_gateway, listen, door, settings.link))
        told = {"address": address}
        if listen_http is not None:
            http = HttpDoor(door.login, settings.http, cw.__version__)
            serve = partial(serve_http, listen_at(listen_http), http.answer, settings.http)
            told["http"] = await nursery.start(serve)
        ready(told)


async def executor(
    around: Surroundings,
    name: str,
    controller_address: str,
    listen: str,
    device_cores: tuple[int, ...],
    ready: Ready,
) -> None:
    """Run an executor until cancelled.

    Raises:
        DeviceFault: The device broke; whoever started this process starts it again.
    """
    settings = around.settings
    device = await open_device(
        attrs.evolve(settings.executor, cores=device_cores), seed=zlib.crc32(name.encode())
    )
    try:
        async with trio.open_nursery() as nursery:
            actor = ExecutorActor(
                name=name,
                # Later lives have larger numbers, as epochs do.
                incarnation=Incarnation(time.time_ns() // 1_000_000),
                device=device,
                locate=StoreLocator(around.store),
                dial=lambda: connect_controller(controller_address, settings.link),
                settings=settings.executor,
                link=settings.link,
                telemetry=Telemetry(around.folder / "logs" / f"{name}.actions.jsonl"),
            )
            serve = partial(serve_executor, listen, actor.data_port, settings.link)
            address = await nursery.start(serve)
            await nursery.start(partial(actor.run, data_address=address))
            ready({"address": address, "device": device.describe().name})
    finally:
        with trio.CancelScope(shield=True):
            await device.aclose()


async def executors(
    around: Surroundings,
    name: str,
    numbers: range,
    controller_address: str,
    listen: str,
    ready: Ready,
) -> None:
    """Run many emulated executors in this process until cancelled.

    Args:
        around: Settings and store.
        name: Of the executors, before their numbers.
        numbers: Theirs in the cluster.
        controller_address: Whom they join, over one connection.
        listen: Where gateways bring the inputs of them all.
        ready: Told once all are there to be joined to the cluster.

    Raises:
        ConfigError: The settings are not those of emulated devices.
    """
    settings = around.settings
    if settings.executor.device != "emulated" or not numbers:
        raise ConfigError(
            "expected --count N of at least 1 with the device emulated, got "
            f"{len(numbers)} with {settings.executor.device}: real devices have a process each"
        )
    timer = SharedTimer()
    host = ExecutorHost(
        lambda: connect_controller(controller_address, settings.link),
        settings.executor,
        settings.link,
    )
    telemetry = Telemetry(around.folder / "logs" / f"{name}-{numbers[0]}.actions.jsonl")
    profile = read_profile(settings.executor.profile)
    pages_total = _pages_total(settings.executor)
    incarnation = Incarnation(time.time_ns() // 1_000_000)
    locate = StoreLocator(around.store)
    async with trio.open_nursery() as nursery:
        await nursery.start(timer.run)
        await nursery.start(host.run)
        nursery.start_soon(telemetry.run)
        serve = partial(serve_executor, listen, host.data_port, settings.link)
        address = await nursery.start(serve)
        for number in numbers:
            own = f"{name}-{number}"
            device = EmulatedDevice(
                profile,
                pages_total=pages_total,
                seed=zlib.crc32(own.encode()),
                timer=timer,
            )
            actor = ExecutorActor(
                name=own,
                incarnation=incarnation,
                device=device,
                locate=locate,
                dial=host.dial,
                settings=settings.executor,
                link=settings.link,
                telemetry=telemetry,
                host=host,
            )
            await nursery.start(partial(actor.run, data_address=address))
        ready({"address": address, "executors": len(numbers), "device": profile.name})


async def open_device(settings: ExecutorSettings, *, seed: int) -> Device:
    """Open the device that the settings name.

    Raises:
        ConfigError: There is no such device, or it can't be had here.
    """
    pages_total = _pages_total(settings)
    if settings.device == "emulated":
        return EmulatedDevice(read_profile(settings.profile), pages_total=pages_total, seed=seed)
    if settings.device == "cpu":
        from cw.devices.cpu.device import CpuDevice  # torch takes seconds to import

        return await CpuDevice.open(
            pages_total=pages_total,
            host_memory_bytes=settings.host_memory_bytes,
            threads=settings.threads,
            cores=settings.cores,
            switch_interval_s=settings.switch_interval_s,
        )
    if settings.device == "cuda":
        from cw.devices.cuda.opening import open_cuda_device

        return await open_cuda_device(settings)
    raise ConfigError(f"expected the device cpu, cuda or emulated, got {settings.device!r}")


def _pages_total(settings: ExecutorSettings) -> int:
    pages_total = settings.gpu_memory_bytes // PAGE_BYTES
    if pages_total < 1:
        raise ConfigError(
            f"expected at least one page ({format_bytes(PAGE_BYTES)}) of gpu_memory, "
            f"got {format_bytes(settings.gpu_memory_bytes)}"
        )
    return pages_total


# --- processes ------------------------------------------------------------------------------------


def role(
    name: str,
    run: Callable[[Ready], Awaitable[None]],
    *,
    supervised: bool,
    cores: tuple[int, ...] = (),
) -> int:
    """Run a role as this process, until it is told to stop; return the exit status.

    Args:
        name: For logs.
        run: The role, with all but `ready` bound.
        supervised: A supervisor holds our standard input: when it closes, it is gone and we end.
        cores: Processors to stay on; empty means any.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=os.environ.get("CW_LOG", "INFO").upper(),
        format=f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s",
    )
    if cores:
        os.sched_setaffinity(0, cores)
    prefer_this_thread()
    trio.run(_live, run, supervised)
    return 0


def prefer_this_thread() -> bool:
    """Let the event loop's thread run as soon as it wakes, where the system permits it.

    It sleeps most of the time and then has microseconds of work that others wait for. As an
    ordinary thread it would wait for the end of a busy neighbour's time slice (3 ms), and on an
    executor's own core the neighbour is the device's lane. Threads that it starts are ordinary ones
    (reset on fork), so nothing that computes is ever preferred.

    Returns:
        Whether it was permitted: it takes CAP_SYS_NICE, or a limit on rtprio above 0.
    """
    try:
        policy = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(_PRIORITY))
    except OSError as exc:
        logger.info("ordinary scheduling: %s; wake-ups may be milliseconds late", exc.strerror)
        return False
    return True


async def _live(run: Callable[[Ready], Awaitable[None]], supervised: bool) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_stop_on_signal, nursery.cancel_scope)
        if supervised:
            nursery.start_soon(_stop_with_lifeline, nursery.cancel_scope)
        await run(_say_ready)
        nursery.cancel_scope.cancel()


def _say_ready(what: dict[str, Any]) -> None:
    print(json.dumps({"ready": True, "pid": os.getpid(), **what}), flush=True)


async def _stop_on_signal(
    scope: trio.CancelScope, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()


async def _stop_with_lifeline(scope: trio.CancelScope) -> None:
    """End when the supervisor has: it never writes, so the only news is the end of the pipe."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as lifeline:
        while await lifeline.receive_some(4096):
            pass
    logger.warning("the supervisor is gone: stopping")
    scope.cancel()


def add_role_arguments(parser: Any) -> None:
    """Give a role's command the options that all roles have."""
    parser.add_argument("--folder", type=Path, required=True, help="settings, store and key")
    parser.add_argument(
        "--supervised", action="store_true", help="end when standard input is closed"
    )
    parser.add_argument("--cores", default="", help="processors to stay on, e.g. 0,1")


def parse_cores(text: str) -> tuple[int, ...]:
    """Read ``--cores``.

    Raises:
        ConfigError: It is not a list of numbers.
    """
    try:
        return tuple(int(word) for word in text.split(",") if word)
    except ValueError as exc:
        raise ConfigError(f"expected --cores 0,1,..., got {text!r}") from exc
