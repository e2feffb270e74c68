"""Run an executor: one device and its lanes. Started by a supervisor."""

import argparse
from functools import partial

from cw.cli import compose, process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    process.add_role_arguments(parser)
    parser.add_argument("--name", default="executor")
    parser.add_argument(
        "--count",
        type=int,
        metavar="N",
        help="host N emulated executors in this process, named NAME-FIRST and so on",
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first of them")
    parser.add_argument("--controller", required=True, metavar="ADDRESS")
    parser.add_argument(
        "--device-cores", default="", help="processors for the device's own thread, e.g. 3"
    )
    parser.add_argument(
        "--listen",
        help="where gateways bring inputs; default tcp:127.0.0.1:0 (any free port), or tls: if the "
        "settings name a certificate",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    around = compose.surroundings(args.folder)
    scheme = "tls" if around.settings.link.tls.cert else "tcp"
    listen = args.listen or f"{scheme}:127.0.0.1:0"
    if args.count is not None:
        hosted = partial(
            compose.executors, around, args.name, range(args.first, args.first + args.count)
        )
        return process.role(
            f"{args.name}-{args.first}...",
            partial(hosted, args.controller, listen),
            supervised=args.supervised,
            cores=process.parse_cores(args.cores),
        )
    device_cores = process.parse_cores(args.device_cores) or around.settings.executor.cores
    return process.role(
        args.name,
        partial(compose.executor, around, args.name, args.controller, listen, device_cores),
        supervised=args.supervised,
        cores=process.parse_cores(args.cores),
    )
