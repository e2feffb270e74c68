"""One cluster of processes on this machine: what `tools/devcluster` starts, and how.

The folder of a cluster is laid out here as its processes expect it (`compose.Surroundings`). The
listening sockets of the controller and the gateways are opened here and inherited by whoever serves
them, so that an address outlives a process and dialling it never fails in between.

Neighbours: `actors/supervisor.py` keeps the processes, `compose.py` is what runs in them.
"""

import fcntl
import itertools
import json
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from cw.actors.supervisor import Child, ChildSpec, Supervisor
from cw.cli.common import ADMIN_KEY_FILE, CLUSTER_FILE, Endpoint, people
from cw.cli.dev_tls import CA_FILE, TLS_FOLDER
from cw.config import ClusterSettings, TlsSettings
from cw.errors import ConfigError

COMMAND = (sys.executable, "-m", "cw")
"""What starts each process of a cluster; its role and its options follow."""

HOSTED_FROM = 16
"""More emulated executors than that share processes: fewer keep time better with one each."""
HOSTED_MAX = 250
"""In one process: two timers each stay below the usual bound of 1,024 open files."""

_BACKLOG = 1024


@attrs.frozen(kw_only=True)
class RunningCluster:
    """A cluster that is up."""

    folder: Path
    gateways: tuple[str, ...]
    http: tuple[str, ...]
    """The gateways' HTTP doors, as URLs."""
    admin_key: str
    supervisor: Supervisor

    @property
    def endpoint(self) -> Endpoint:
        """Its first door, with the administrator's key."""
        ca = self.folder.resolve() / TLS_FOLDER / CA_FILE
        return Endpoint(
            address=self.gateways[0],
            admin_key=self.admin_key,
            tls=TlsSettings(ca=str(ca) if ca.exists() else ""),
        )

    @property
    def children(self) -> dict[str, Child]:
        """Its processes by name: controller (controller-0, ... of cells), gateway-0, ..."""
        return self.supervisor.children


@asynccontextmanager
async def running_cluster(
    settings: ClusterSettings,
    folder: Path,
    *,
    port: int = 0,
    http_port: int = 0,
    pin: bool = False,
    solo: bool = False,
) -> AsyncIterator[RunningCluster]:
    """Run a cluster's processes for the length of the context.

    Args:
        settings: Its shape.
        folder: For the store, logs, key and endpoints; made if need be.
        port: Of the first gateway; 0 for any free one.
        http_port: Of its HTTP door; likewise.
        pin: Give each executor a core of its own.
        solo: Run controller, gateway and executor as one process.

    Raises:
        ChildFailed: A process could not be started, or died too often.
        ConfigError: The folder is in use by another cluster, or the port is; or there is more than
            one gateway or executor to run as one process.
    """
    async with AsyncExitStack() as stack:
        stack.callback(os.close, _lock(folder))
        admin_key = _lay_out(folder, settings)
        sockets = _open_sockets(settings, port, http_port)
        for listener in sockets.all:
            stack.callback(listener.close)
        if solo:
            specs = _solo(settings, folder, sockets, pin=pin)
        else:
            specs = _specs(settings, folder, sockets, pin=pin)
        supervisor = Supervisor(specs)
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(supervisor.run)
        cluster = RunningCluster(
            folder=folder,
            gateways=tuple(_address(it, settings.gateway.tls) for it in sockets.native),
            http=tuple(_url(it, settings.gateway.tls) for it in sockets.http),
            admin_key=admin_key,
            supervisor=supervisor,
        )
        stack.callback((folder / CLUSTER_FILE).unlink, missing_ok=True)
        _publish(cluster, settings)
        try:
            yield cluster
        finally:
            nursery.cancel_scope.cancel()


def ready_line(cluster: RunningCluster, settings: ClusterSettings) -> dict[str, object]:
    """Say what `up --json` prints, and what the `cw` command reads to find the cluster."""
    return {
        "gateways": list(cluster.gateways),
        "http": list(cluster.http),
        "executors": settings.executors,
        "cells": settings.cells,
        "pid": os.getpid(),
    }


def _publish(cluster: RunningCluster, settings: ClusterSettings) -> None:
    """Let the `cw` command find the cluster."""
    (cluster.folder / CLUSTER_FILE).write_text(json.dumps(ready_line(cluster, settings)))


def _specs(
    settings: ClusterSettings, folder: Path, sockets: "_Sockets", *, pin: bool
) -> tuple[ChildSpec, ...]:
    """Say which processes make the cluster, in the order to start them."""
    shared = ("--folder", str(folder.resolve()), "--supervised")
    logs = folder / "logs"
    executor_cores, other_cores = _cores(settings.executors) if pin else ([""] * 64, "")
    specs = []
    for cell, listener in enumerate(sockets.controllers):
        name = f"controller-{cell}" if settings.cells > 1 else "controller"
        argv: tuple[str, ...] = (*COMMAND, "controller", "--name", name, *shared)
        argv += ("--listen", f"fd:{listener.fileno()}", *_pinned(other_cores))
        specs.append(
            ChildSpec(
                name=name,
                argv=argv,
                log_path=logs / f"{name}.log",
                pass_fds=(listener.fileno(),),
                beside=cell > 0,
            )
        )
    for cell, numbers in enumerate(cell_numbers(settings)):
        controller = _address(sockets.controllers[cell], settings.link.tls)
        if settings.executor.device == "emulated" and settings.executors > HOSTED_FROM:
            specs += _hosts(numbers, controller, shared, logs)
        else:
            specs += _executors(numbers, controller, shared, logs, executor_cores, other_cores)
    joins = [
        word
        for it in sockets.controllers
        for word in ("--controller", _address(it, settings.link.tls))
    ]
    for index, (native, http) in enumerate(zip(sockets.native, sockets.http, strict=True)):
        name = f"gateway-{index}"
        argv = (*COMMAND, "gateway", "--name", name, *joins, "--listen", f"fd:{native.fileno()}")
        argv += ("--listen-http", f"fd:{http.fileno()}", *shared, *_pinned(other_cores))
        specs.append(
            ChildSpec(
                name=name,
                argv=argv,
                log_path=logs / f"{name}.log",
                pass_fds=(native.fileno(), http.fileno()),
                beside=settings.executors > 0 or index > 0,
            )
        )
    return tuple(specs)


def cell_numbers(settings: ClusterSettings) -> list[range]:
    """Deal the executors' numbers to the cells: equal parts, each in a row."""
    cells, executors = settings.cells, settings.executors
    bounds = [executors * cell // cells for cell in range(cells + 1)]
    return [range(*pair) for pair in itertools.pairwise(bounds)]


def _solo(
    settings: ClusterSettings, folder: Path, sockets: "_Sockets", *, pin: bool
) -> tuple[ChildSpec, ...]:
    """Say which process is the cluster."""
    if (settings.executors, settings.gateways, settings.cells) != (1, 1, 1):
        raise ConfigError(
            "expected one executor, one gateway and one cell to run as one process, got "
            f"{settings.executors}, {settings.gateways} and {settings.cells}"
        )
    executor_cores, other_cores = _cores(1) if pin else ([""], "")
    native, http = sockets.native[0].fileno(), sockets.http[0].fileno()
    argv: tuple[str, ...] = (*COMMAND, "solo", "--listen", f"fd:{native}")
    argv += ("--listen-http", f"fd:{http}", "--folder", str(folder.resolve()), "--supervised")
    argv += _pinned(other_cores) + _pinned(executor_cores[0], "--device-cores")
    log_path = folder / "logs" / "solo.log"
    return (ChildSpec(name="solo", argv=argv, log_path=log_path, pass_fds=(native, http)),)


def _executors(
    numbers: range,
    controller: str,
    shared: tuple[str, ...],
    logs: Path,
    executor_cores: list[str],
    other_cores: str,
) -> list[ChildSpec]:
    """Give each executor a process of its own."""
    specs = []
    for index in numbers:
        name = f"executor-{index}"
        cores = executor_cores[index % len(executor_cores)]
        # Beside the device its event loop takes a tenth of the core; a lone core for everything
        # else has less than that to spare.
        loop_cores = other_cores if "," in other_cores else ""
        argv: tuple[str, ...] = (
            *COMMAND,
            "executor",
            "--name",
            name,
            "--controller",
            controller,
            *shared,
        )
        specs.append(
            ChildSpec(
                name=name,
                argv=argv + _pinned(loop_cores or cores) + _pinned(cores, "--device-cores"),
                log_path=logs / f"{name}.log",
                beside=index > 0,
            )
        )
    return specs


def _hosts(numbers: range, controller: str, shared: tuple[str, ...], logs: Path) -> list[ChildSpec]:
    """Let few processes hold many emulated executors; named as those with one each."""
    specs = []
    for first in numbers[::HOSTED_MAX]:
        count = min(HOSTED_MAX, numbers.stop - first)
        argv: tuple[str, ...] = (
            *COMMAND,
            "executor",
            "--name",
            "executor",
            "--controller",
            controller,
        )
        argv += ("--count", str(count), "--first", str(first), *shared)
        name = f"executors-{first}"
        specs.append(
            ChildSpec(name=name, argv=argv, log_path=logs / f"{name}.log", beside=first > 0)
        )
    return specs


def _cores(executors: int) -> tuple[list[str], str]:
    """Share out the cores: the last ones to executors, the first to the rest."""
    cores = sorted(os.sched_getaffinity(0))
    own = cores[1:][-max(executors, 1) :] or cores
    others = [core for core in cores if core not in own] or cores
    return [str(core) for core in own], ",".join(map(str, others))


def _pinned(cores: str, option: str = "--cores") -> tuple[str, ...]:
    return (option, cores) if cores else ()


def _listen(port: int) -> socket.socket:
    """Open a listening socket that outlives the process that serves it."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as exc:
        listener.close()
        raise ConfigError(f"port {port} can't be had: {exc.strerror}; choose another") from exc
    listener.listen(_BACKLOG)
    return listener


@attrs.frozen
class _Sockets:
    """A cluster's listening sockets."""

    controllers: tuple[socket.socket, ...]
    native: tuple[socket.socket, ...]
    """Of each gateway."""
    http: tuple[socket.socket, ...]
    """Likewise."""

    @property
    def all(self) -> tuple[socket.socket, ...]:
        """Every one of them."""
        return (*self.controllers, *self.native, *self.http)


def _open_sockets(settings: ClusterSettings, port: int, http_port: int) -> _Sockets:
    others = [0] * (settings.gateways - 1)
    return _Sockets(
        controllers=tuple(_listen(0) for _ in range(settings.cells)),
        native=tuple(_listen(number) for number in (port, *others)),
        http=tuple(_listen(number) for number in (http_port, *others)),
    )


def _address(listener: socket.socket, tls: TlsSettings) -> str:
    host, port = listener.getsockname()
    return f"{'tls' if tls.cert else 'tcp'}:{host}:{port}"


def _url(listener: socket.socket, tls: TlsSettings) -> str:
    host, port = listener.getsockname()
    return f"{'https' if tls.cert else 'http'}://{host}:{port}"


def _lock(folder: Path) -> int:
    """Hold the folder: two clusters on one store would spoil it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ConfigError(
            f"a cluster already runs in {folder}; stop it, or choose another folder with --dir"
        ) from None
    return descriptor


def _lay_out(folder: Path, settings: ClusterSettings) -> str:
    """Write what the processes find there (`compose.Surroundings`); return the admin's key."""
    (folder / "settings.json").write_text(json.dumps(attrs.asdict(settings), indent=1))
    path = folder / ADMIN_KEY_FILE
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    return path.read_text().strip()


@asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[None]:
    """Cancel the block on SIGINT or SIGTERM, so that what runs in it is stopped in order.

    Further signals meanwhile change nothing: stopping takes two seconds at most.
    """
    stopped = False
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                nonlocal stopped
                async for _ in signals:
                    if not stopped:
                        stopped = True
                        people.print("stopping")
                        nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            yield
            nursery.cancel_scope.cancel()
        if stopped:
            # What is left is the interpreter's own end: another signal must not spoil the status.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
