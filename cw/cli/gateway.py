"""Run a gateway: clients connect to it. Started by a supervisor."""

import argparse
from functools import partial

from cw.cli import compose, process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    process.add_role_arguments(parser)
    parser.add_argument("--name", default="gateway")
    parser.add_argument(
        "--controller",
        required=True,
        action="append",
        metavar="ADDRESS",
        help="one for each cell, in the order of their numbers",
    )
    parser.add_argument("--listen", required=True, help="tcp:HOST:PORT, unix:PATH or fd:N")
    parser.add_argument("--listen-http", help="likewise, for the Open Inference Protocol over HTTP")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    around = compose.surroundings(args.folder)
    return process.role(
        args.name,
        partial(compose.gateway, around, args.name, args.controller, args.listen, args.listen_http),
        supervised=args.supervised,
        cores=process.parse_cores(args.cores),
    )
