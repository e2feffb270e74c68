"""Run a controller, an executor and a gateway as one process. Started by a supervisor."""

import argparse
from functools import partial

from cw.cli import compose, process


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    process.add_role_arguments(parser)
    parser.add_argument("--listen", required=True, help="tcp:HOST:PORT, unix:PATH or fd:N")
    parser.add_argument("--listen-http", help="likewise, for the Open Inference Protocol over HTTP")
    parser.add_argument(
        "--device-cores", default="", help="processors for the device's own thread, e.g. 3"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    around = compose.surroundings(args.folder)
    device_cores = process.parse_cores(args.device_cores) or around.settings.executor.cores
    return process.role(
        "solo",
        partial(compose.solo, around, args.listen, args.listen_http, device_cores),
        supervised=args.supervised,
        cores=process.parse_cores(args.cores),
    )
