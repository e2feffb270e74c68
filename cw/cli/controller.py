"""Run a controller: the single decider of a cluster. Started by a supervisor."""

import argparse
from functools import partial

from cw.cli import compose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    compose.add_role_arguments(parser)
    parser.add_argument("--listen", required=True, help="tcp:HOST:PORT, unix:PATH or fd:N")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return compose.role(
        "controller",
        partial(compose.controller, compose.surroundings(args.folder), args.listen),
        supervised=args.supervised,
        cores=compose.parse_cores(args.cores),
    )
