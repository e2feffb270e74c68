"""Composition: the only place where settings, devices, ports and actors are put together.

Each role of a cluster is one function here, run in a process of its own (`process.py`), or several
in one process by tests and by whoever runs a small cluster in one.
"""

import json
import os
import time
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

import cw
from cw.actors.cells import CellRouter
from cw.actors.controller import ControllerActor
from cw.actors.doors import ServingDoor
from cw.actors.executor import ExecutorActor
from cw.actors.executor_host import ExecutorHost
from cw.actors.gateway import GatewayActor
from cw.actors.meters import ExecutorMeter, GatewayMeter, UsageSender
from cw.actors.profile_keeper import ProfileKeeper, load_profiles
from cw.actors.telemetry import Telemetry
from cw.actors.uploads import sweep_uploads
from cw.actors.version_desk import StoreVersions
from cw.actors.weights_cache import StoreLocator
from cw.catalog.catalog import Catalog
from cw.catalog.database import default_url
from cw.cli.process import Ready
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
from cw.metering.journal import Journal
from cw.models.store import ModelStore
from cw.rpc.client import connect_controller, connect_executor
from cw.rpc.server import listen_at, serve_controller, serve_executor, serve_gateway, tls_at
from cw.units import PAGE_BYTES, format_bytes


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a role's process finds around itself: a folder laid out by whoever starts it.

    ::

        settings.json   all settings            store/       models (cw/models/store.py)
        admin.key       the administrator's     logs/        one file per process
        catalog.db      tenants, unless the settings name another database
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
    records = await trio.to_thread.run_sync(store.records)
    versions = await trio.to_thread.run_sync(
        lambda: [(record, store.in_service(record)) for record in records]
    )
    stored = [(spec.name, spec.image_bytes) for _, specs in versions for spec in specs]
    url = settings.catalog.url or default_url(around.folder)
    catalog = await trio.to_thread.run_sync(Catalog.open, url, stored)
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
        versions=versions,
        files=StoreVersions(store),
        catalog=catalog,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        nursery.start_soon(ProfileKeeper(core, store).run)
        address = await nursery.start(partial(serve_controller, listen, actor, settings.link))
        ready({"address": address, "epoch": epoch, "models": len(versions)})


async def gateway(
    around: Surroundings,
    name: str,
    controller_addresses: Sequence[str],
    listen: str,
    listen_http: str | None,
    ready: Ready,
) -> None:
    """Run a gateway until cancelled; with an HTTP door if it has an address for that.

    Args:
        around: Settings, store and the administrator's key.
        name: Of the gateway.
        controller_addresses: One for each cell.
        listen: Where clients come.
        listen_http: Where those come that ask over HTTP; None: nowhere.
        ready: Told once both doors are open.
    """
    settings = around.settings
    cells = [
        GatewayActor(
            name=name,
            settings=settings.gateway,
            link=settings.link,
            dial_controller=partial(connect_controller, controller_address, settings.link),
            dial_executor=lambda address: connect_executor(address, settings.link),
        )
        for controller_address in controller_addresses
    ]
    # One alone answers for itself: a choice of one would only be in the way of each request.
    actor = cells[0] if len(cells) == 1 else CellRouter(cells)
    journal = open_journal(around, "gateway", name)
    door = ServingDoor(actor, around.store, around.admin_key, GatewayMeter(journal))
    # One catalog alone may add what was used, or it would be added twice: the first cell's.
    sender = UsageSender(journal.path.parent, journal, lambda: cells[0].session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run)
        await nursery.start(actor.run)
        nursery.start_soon(sweep_uploads, around.store, settings.gateway)
        serve = partial(serve_gateway, listen, door, settings.link, settings.gateway)
        address = await nursery.start(serve)
        told = {"address": address}
        if listen_http is not None:
            http = HttpDoor(door.login, settings.http, cw.__version__)
            serve = partial(
                serve_http,
                listen_at(listen_http),
                http.answer,
                settings.http,
                tls=tls_at(listen_http, settings.gateway.tls),
            )
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
    journal = open_journal(around, "executor", name)
    meter = ExecutorMeter(journal)
    try:
        async with trio.open_nursery() as nursery:
            actor = ExecutorActor(
                name=name,
                incarnation=journal.incarnation,
                meter=meter,
                device=device,
                locate=StoreLocator(around.store),
                dial=lambda: connect_controller(controller_address, settings.link),
                settings=settings.executor,
                link=settings.link,
                telemetry=Telemetry(around.folder / "logs" / f"{name}.actions.jsonl"),
            )
            sender = UsageSender(journal.path.parent, journal, lambda: actor.session, meter.tick)
            nursery.start_soon(sender.run)
            serve = partial(serve_executor, listen, actor.data_port, settings.link)
            address = await nursery.start(serve)
            await nursery.start(partial(actor.run, data_address=address))
            ready({"address": address, "device": device.describe().name})
    finally:
        with trio.CancelScope(shield=True):
            await device.aclose()


async def solo(
    around: Surroundings,
    listen: str,
    listen_http: str | None,
    device_cores: tuple[int, ...],
    ready: Ready,
) -> None:
    """Run a controller, an executor and a gateway in this process until cancelled.

    What they tell one another is not written, sent and read; they are woken up once where
    processes of their own are woken up one after the other.

    Raises:
        DeviceFault: The device broke; whoever started this process starts it again.
    """
    at_controller, at_executor = "memory:controller", "memory:executor-0"
    roles = (
        partial(controller, around, at_controller),
        partial(executor, around, "executor-0", at_controller, at_executor, device_cores),
        partial(gateway, around, "gateway-0", (at_controller,), listen, listen_http),
    )
    told: dict[str, Any] = {}
    async with trio.open_nursery() as nursery:
        for role in roles:
            is_up = trio.Event()

            def up(what: dict[str, Any], is_up: trio.Event = is_up) -> None:
                told.update(what)
                is_up.set()

            nursery.start_soon(role, up)
            await is_up.wait()
        ready(told)


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


def open_journal(around: Surroundings, kind: str, name: str) -> Journal:
    """Open the usage journal of a life of a process that begins now."""
    return Journal(
        around.folder / "usage" / f"{kind}-{name}",
        source=f"{kind}:{name}",
        # Later lives have larger numbers, as epochs do.
        incarnation=Incarnation(time.time_ns() // 1_000_000),
    )


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

        if settings.kernels not in ("rewritten", "exported"):
            raise ConfigError(
                f"expected the kernels rewritten or exported, got {settings.kernels!r}"
            )
        return await CpuDevice.open(
            pages_total=pages_total,
            host_memory_bytes=settings.host_memory_bytes,
            threads=settings.threads,
            cores=settings.cores,
            switch_interval_s=settings.switch_interval_s,
            as_exported=settings.kernels == "exported",
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
