"""Run a whole cluster on this machine: a controller, gateways and executors, each a process.

Examples:
  tools/devcluster demo
  tools/devcluster up
  tools/devcluster up --executors 1 --gpu-memory 256MiB
  tools/devcluster up --device emulated --profile fixed-2ms --json
  tools/devcluster status
"""

import argparse
import functools
import json
import math
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
from cw.cli import status
from cw.cli.common import (
    ADMIN_KEY_FILE,
    CLUSTER_FILE,
    DEFAULT_FOLDER,
    Endpoint,
    people,
    positive,
    print_json,
    size_bytes,
)
from cw.config import ClusterSettings, load_settings
from cw.errors import ConfigError

_BACKLOG = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser("up", help="run a cluster in the foreground until Ctrl-C")
    add_cluster_options(up)
    up.add_argument(
        "--dir",
        type=Path,
        default=DEFAULT_FOLDER,
        help=f"store, logs, key and endpoints; default {DEFAULT_FOLDER}",
    )
    up.add_argument("--port", type=int, default=0, help="of the first gateway; default: any free")
    up.add_argument("--json", action="store_true", help="print the ready line as JSON on stdout")
    demo = verbs.add_parser("demo", help="two trained models, real inputs, ten seconds of load")
    demo.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    demo.add_argument("--seconds", type=positive, default=10.0, help="of load, default 10")
    measured = verbs.add_parser("measure", help="the README's figures, on this machine")
    measured.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    measured.add_argument("--seconds", type=positive, default=60.0, help="per load, default 60")
    measured.add_argument("--seed", type=int, default=1)
    shown = verbs.add_parser("status", help="show the cluster that runs in this checkout")
    status.add_arguments(shown)


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that shape a cluster."""
    parser.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; see docs")
    parser.add_argument("--executors", type=int, help="default 2")
    parser.add_argument("--gateways", type=int, help="default 1")
    parser.add_argument("--device", choices=("cpu", "emulated"), help="default cpu")
    parser.add_argument(
        "--gpu-memory", type=size_bytes, metavar="SIZE", help="pages of each executor"
    )
    parser.add_argument("--profile", metavar="NAME|FILE", help="what an emulated device obeys")
    parser.add_argument("--policy", choices=("default", "clockwork"), help="default: default")
    parser.add_argument(
        "--pin",
        action="store_true",
        help="give each executor's device a core of its own, and all else what is left",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.verb == "status":
        return status.run(args)
    if args.verb == "demo":
        from cw.cli.demo import demo  # needs torch

        return demo(args)
    if args.verb == "measure":
        from cw.cli.measure import measure  # needs torch

        return measure(args)
    return trio.run(_up, args)


def settings_of(args: argparse.Namespace) -> ClusterSettings:
    """Merge the settings file and the options, which win.

    Raises:
        ConfigError: The file or an option is wrong.
    """
    settings = load_settings(args.config) if args.config else ClusterSettings()
    executor = {
        "device": args.device,
        "gpu_memory_bytes": args.gpu_memory,
        "profile": args.profile,
    }
    given = {name: value for name, value in executor.items() if value is not None}
    settings = attrs.evolve(
        settings,
        executors=settings.executors if args.executors is None else args.executors,
        gateways=settings.gateways if args.gateways is None else args.gateways,
        executor=attrs.evolve(settings.executor, **given),
    )
    if args.policy is not None:
        scheduler = attrs.evolve(settings.scheduler, policy=args.policy)
        settings = attrs.evolve(settings, scheduler=scheduler)
    if settings.executors < 0 or settings.gateways < 1:
        raise ConfigError(
            "expected at least one gateway and no negative number of executors, got "
            f"{settings.gateways} and {settings.executors}"
        )
    return settings


@attrs.frozen(kw_only=True)
class RunningCluster:
    """A cluster that is up."""

    folder: Path
    gateways: tuple[str, ...]
    admin_key: str
    supervisor: Supervisor

    @property
    def endpoint(self) -> Endpoint:
        """Its first door, with the administrator's key."""
        return Endpoint(address=self.gateways[0], admin_key=self.admin_key)

    @property
    def children(self) -> dict[str, Child]:
        """Its processes by name: controller, gateway-0, executor-0, ..."""
        return self.supervisor.children


@asynccontextmanager
async def running_cluster(
    settings: ClusterSettings, folder: Path, *, port: int = 0, pin: bool = False
) -> AsyncIterator[RunningCluster]:
    """Run a cluster's processes for the length of the context.

    Args:
        settings: Its shape.
        folder: For the store, logs, key and endpoints; made if need be.
        port: Of the first gateway; 0 for any free one.
        pin: Give each executor a core of its own.

    Raises:
        ChildFailed: A process could not be started, or died too often.
        ConfigError: The folder is in use by another cluster, or the port is.
    """
    async with AsyncExitStack() as stack:
        stack.callback(os.close, _lock(folder))
        admin_key = _lay_out(folder, settings)
        ports = [0, port] + [0] * (settings.gateways - 1)
        listeners = [_listen(number) for number in ports]
        for listener in listeners:
            stack.callback(listener.close)
        specs = _specs(settings, folder, listeners, pin=pin)
        supervisor = Supervisor(specs)
        nursery = await stack.enter_async_context(trio.open_nursery())
        await nursery.start(supervisor.run)
        cluster = RunningCluster(
            folder=folder,
            gateways=tuple(_address(listener) for listener in listeners[1:]),
            admin_key=admin_key,
            supervisor=supervisor,
        )
        stack.callback((folder / CLUSTER_FILE).unlink, missing_ok=True)
        _publish(cluster, settings)
        try:
            yield cluster
        finally:
            nursery.cancel_scope.cancel()


def _ready_line(cluster: RunningCluster, settings: ClusterSettings) -> dict[str, object]:
    return {
        "gateways": list(cluster.gateways),
        "http": [],
        "executors": settings.executors,
        "pid": os.getpid(),
    }


def _publish(cluster: RunningCluster, settings: ClusterSettings) -> None:
    """Let the `cw` command find the cluster."""
    (cluster.folder / CLUSTER_FILE).write_text(json.dumps(_ready_line(cluster, settings)))


def _specs(
    settings: ClusterSettings, folder: Path, listeners: list[socket.socket], *, pin: bool
) -> tuple[ChildSpec, ...]:
    """Say which processes make the cluster, in the order to start them."""
    python = (sys.executable, "-m", "cw")
    shared = ("--folder", str(folder.resolve()), "--supervised")
    logs = folder / "logs"
    controller = _address(listeners[0])
    executor_cores, other_cores = _cores(settings.executors) if pin else ([""] * 64, "")
    specs = [
        ChildSpec(
            name="controller",
            argv=(
                *(*python, "controller", "--listen", f"fd:{listeners[0].fileno()}"),
                *(*shared, *_pinned(other_cores)),
            ),
            log_path=logs / "controller.log",
            pass_fds=(listeners[0].fileno(),),
        )
    ]
    for index in range(settings.executors):
        name = f"executor-{index}"
        cores = executor_cores[index % len(executor_cores)]
        # Beside the device its event loop takes a tenth of the core; a lone core for everything
        # else has less than that to spare.
        loop_cores = other_cores if "," in other_cores else ""
        argv: tuple[str, ...] = (
            *python,
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
    for index, listener in enumerate(listeners[1:]):
        name = f"gateway-{index}"
        argv = (*python, "gateway", "--name", name, "--controller", controller)
        argv += ("--listen", f"fd:{listener.fileno()}", *shared)
        specs.append(
            ChildSpec(
                name=name,
                argv=argv + _pinned(other_cores),
                log_path=logs / f"{name}.log",
                pass_fds=(listener.fileno(),),
                beside=settings.executors > 0 or index > 0,
            )
        )
    return tuple(specs)


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


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"tcp:{host}:{port}"


def _lock(folder: Path) -> int:
    """Hold the folder: two clusters on one store would spoil it."""
    import fcntl

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


async def _up(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    async with trio.open_nursery() as nursery:
        await nursery.start(functools.partial(stop_on_signal, nursery.cancel_scope))
        people.print(
            f"starting a controller, {settings.gateways} gateway(s) and {settings.executors} "
            f"{settings.executor.device} executor(s); logs in {args.dir / 'logs'}"
        )
        async with running_cluster(settings, args.dir, port=args.port, pin=args.pin) as cluster:
            line = _ready_line(cluster, settings)
            if args.json:
                print_json(line)
            else:
                doors = " ".join(cluster.gateways)
                print(f"ready: gateways {doors}; Ctrl-C stops everything", flush=True)
            await trio.sleep(math.inf)  # until a signal cancels
    return 0


async def stop_on_signal(
    scope: trio.CancelScope, task_status: "trio.TaskStatus[None]" = trio.TASK_STATUS_IGNORED
) -> None:
    """Cancel on SIGINT or SIGTERM, so that the children are stopped in order."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            people.print("stopping")
            scope.cancel()
