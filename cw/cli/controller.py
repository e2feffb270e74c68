"""Run a controller: the single decider of a cluster. Started by a supervisor."""

import argparse
from functools import partial

from cw.cli import compose, process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    process.add_role_arguments(parser)
    parser.add_argument("--name", default="controller")
    parser.add_argument("--listen", required=True, help="tcp:HOST:PORT, unix:PATH or fd:N")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return process.role(
        args.name,
        partial(compose.controller, compose.surroundings(args.folder), args.listen),
        supervised=args.supervised,
        cores=process.parse_cores(args.cores),
    )
