"""Run a whole cluster on this machine: a controller, gateways and executors, each a process.

Examples:
  tools/devcluster demo
  tools/devcluster up
  tools/devcluster up --executors 1 --gpu-memory 256MiB
  tools/devcluster up --device emulated --profile fixed-2ms --json
  tools/devcluster status
"""

import argparse
import math
from pathlib import Path

import attrs
import trio

from cw.cli import status
from cw.cli.cluster import ready_line, running_cluster, stopped_by_signals
from cw.cli.common import DEFAULT_FOLDER, people, port, positive, print_json, size_bytes
from cw.cli.dev_tls import with_throwaway_tls
from cw.config import ClusterSettings, load_settings
from cw.core.policies import POLICIES
from cw.errors import ConfigError


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
    up.add_argument("--port", type=port, default=0, help="of the first gateway; default: any free")
    up.add_argument("--http-port", type=port, default=0, help="of its HTTP door; likewise")
    up.add_argument("--json", action="store_true", help="print the ready line as JSON on stdout")
    up.add_argument(
        "--tls",
        action="store_true",
        help="TLS at all doors and between all processes, with certificates made for this run",
    )
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
    parser.add_argument(
        "--cells", type=int, help="controllers, each with an equal part of the executors; default 1"
    )
    parser.add_argument("--device", choices=("cpu", "emulated", "cuda"), help="default cpu")
    parser.add_argument(
        "--gpu-memory", type=size_bytes, metavar="SIZE", help="pages of each executor"
    )
    parser.add_argument("--profile", metavar="NAME|FILE", help="what an emulated device obeys")
    parser.add_argument("--policy", choices=tuple(POLICIES), help="default: default")
    parser.add_argument(
        "--solo",
        action="store_true",
        help="one process for all, with one executor: answers soonest where cores are few",
    )
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
        cells=settings.cells if args.cells is None else args.cells,
        executor=attrs.evolve(settings.executor, **given),
    )
    if args.policy is not None:
        scheduler = attrs.evolve(settings.scheduler, policy=args.policy)
        settings = attrs.evolve(settings, scheduler=scheduler)
    if settings.executors < 0 or min(settings.gateways, settings.cells) < 1:
        raise ConfigError(
            "expected at least one gateway, one cell and no negative number of executors, got "
            f"{settings.gateways}, {settings.cells} and {settings.executors}"
        )
    return settings


async def _up(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    if args.solo and args.executors is None:
        settings = attrs.evolve(settings, executors=1)
    if args.tls:
        settings = with_throwaway_tls(settings, args.dir)
    async with stopped_by_signals():
        people.print(
            f"starting {settings.cells} controller(s), {settings.gateways} gateway(s) and "
            f"{settings.executors} "
            f"{settings.executor.device} executor(s); logs in {args.dir / 'logs'}"
        )
        async with running_cluster(
            settings,
            args.dir,
            port=args.port,
            http_port=args.http_port,
            pin=args.pin,
            solo=args.solo,
        ) as cluster:
            line = ready_line(cluster, settings)
            if args.json:
                print_json(line)
            else:
                doors = " ".join((*cluster.gateways, *cluster.http))
                many = f"{settings.executors} executor(s)"
                print(f"ready: gateways {doors}; {many}; Ctrl-C stops everything", flush=True)
            await trio.sleep(math.inf)  # until a signal cancels
    return 0
