"""What commands share: where the cluster is, how values are read, how results are printed."""

import argparse
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import trio
from rich.console import Console

from cw.cli.dev_tls import CA_FILE, TLS_FOLDER
from cw.client import Client, connect
from cw.config import TlsSettings
from cw.errors import AccessDenied, ConfigError, PeerDisconnected
from cw.rpc.ports import AdminPort
from cw.units import parse_duration_ns, parse_size_bytes

T = TypeVar("T")

DEFAULT_FOLDER: Final = Path(".cw") / "dev"
"""Where `tools/devcluster up` keeps its store, logs, key and endpoints, below the checkout."""

_PORT_MAX: Final = 65_535
CLUSTER_FILE: Final = "cluster.json"
ADMIN_KEY_FILE: Final = "admin.key"

_WIDTH_UNKNOWN: Final = 120
"""Columns where there is no terminal: wide enough for every table, narrow enough for a log."""

people: Final = Console(
    stderr=True, highlight=False, width=None if sys.stderr.isatty() else _WIDTH_UNKNOWN
)
"""For progress and remarks, and for tables beside JSON; stdout is for results."""

results: Final = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_UNKNOWN)
"""For tables that are the result: what `cw status | less` shows."""


def say(text: str) -> None:
    """Tell the person at the terminal something."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: object) -> None:
    """Print a result as one JSON object on stdout."""
    print(json.dumps(value), flush=True)


def run_async(command: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run a command's event loop.

    Raises:
        KeyboardInterrupt: Ctrl-C, and only where the command awaits something: raised inside a
            callback of the C++ event loop it would be lost there, and the command went on.
    """
    return trio.run(command, *args, restrict_keyboard_interrupt_to_checkpoints=True)


def duration_ns(text: str) -> int:
    """Read a duration argument (argparse type)."""
    return _argument(parse_duration_ns, text)


def size_bytes(text: str) -> int:
    """Read a size argument (argparse type)."""
    return _argument(parse_size_bytes, text)


def positive(text: str) -> float:
    """Read a finite number above 0 (argparse type)."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def count(text: str) -> int:
    """Read a whole number above 0 (argparse type)."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def port(text: str) -> int:
    """Read a TCP port argument (argparse type); 0 is any free one."""
    if not text.isdecimal() or int(text) > _PORT_MAX:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {_PORT_MAX}, got {text!r}")
    return int(text)


def _argument(parse: Callable[[str], int], text: str) -> int:
    try:
        return parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def add_slo(parser: argparse.ArgumentParser) -> None:
    """Describe the options that say by when an answer is wanted."""
    parser.add_argument("--slo", type=duration_ns, default="100ms", help="default 100ms")
    parser.add_argument(
        "--best-effort",
        action="store_true",
        help="in place of an SLO: run in time that no request with one wants",
    )


def slo_of(args: argparse.Namespace) -> int | None:
    """Say by when an answer is wanted, ns; None: best effort."""
    return None if args.best_effort else args.slo


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Give a command the options that say where the cluster is."""
    parser.add_argument(
        "--connect",
        metavar="ADDRESS",
        help="a gateway, e.g. tcp:127.0.0.1:7000; by default CW_CONNECT, "
        "or the cluster that 'tools/devcluster up' runs in this checkout",
    )
    parser.add_argument("--key", default=os.environ.get("CW_KEY", ""), help="the tenant's key")
    for option, variable, what in (
        ("--ca", "CW_CA", "PEM file of the authority to trust at tls:HOST:PORT; else the system's"),
        ("--cert", "CW_CERT", "PEM file of a certificate to show, where the gateway asks for one"),
        ("--key-file", "CW_KEY_FILE", "its private key; not needed if the same file holds it"),
    ):
        parser.add_argument(option, metavar="FILE", default=os.environ.get(variable, ""), help=what)
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


@attrs.frozen(kw_only=True)
class Endpoint:
    """A running cluster's door and, where it can be read, the administrator's key."""

    address: str
    admin_key: str | None
    tls: TlsSettings = attrs.field(factory=TlsSettings)


def find_cluster(args: argparse.Namespace) -> Endpoint:
    """Say where the cluster is that a command talks to.

    Raises:
        ConfigError: None was named and none runs here.
    """
    admin_key = os.environ.get("CW_ADMIN_KEY")
    address = args.connect or os.environ.get("CW_CONNECT")
    folder = _devcluster_folder()
    if folder is not None:
        if admin_key is None and (folder / ADMIN_KEY_FILE).exists():
            admin_key = (folder / ADMIN_KEY_FILE).read_text().strip()
        if not address:
            address = json.loads((folder / CLUSTER_FILE).read_text())["gateways"][0]
    if not address:
        raise ConfigError(
            "no cluster found: start one with 'tools/devcluster up' in this checkout, "
            "or name a gateway with --connect tcp:HOST:PORT (or CW_CONNECT)"
        )
    return Endpoint(address=address, admin_key=admin_key, tls=_tls(args, folder))


def _tls(args: argparse.Namespace, folder: Path | None) -> TlsSettings:
    """Say whom to trust: who was named, or a devcluster's own authority."""
    own = folder / TLS_FOLDER / CA_FILE if folder is not None else None
    ca = getattr(args, "ca", "") or (str(own) if own is not None and own.exists() else "")
    return TlsSettings(
        ca=ca, cert=getattr(args, "cert", ""), key_file=getattr(args, "key_file", "")
    )


def _devcluster_folder() -> Path | None:
    """Find the folder of a devcluster started in this directory or one above it."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / DEFAULT_FOLDER / CLUSTER_FILE).exists():
            return folder / DEFAULT_FOLDER
    return None


def admin_key(endpoint: Endpoint) -> str:
    """Return the administrator's key.

    Raises:
        AccessDenied: It is not known here.
    """
    if endpoint.admin_key is None:
        raise AccessDenied(
            "this needs the administrator's key: set CW_ADMIN_KEY, or run the command in the "
            f"checkout whose devcluster it is for ({DEFAULT_FOLDER / ADMIN_KEY_FILE})"
        )
    return endpoint.admin_key


@asynccontextmanager
async def connected(endpoint: Endpoint, key: str) -> AsyncIterator[Client]:
    """Connect to the cluster as a tenant.

    Raises:
        PeerDisconnected: Nothing answers there; says what to do.
    """
    try:
        context = connect(endpoint.address, key=key, tls=endpoint.tls)
        try:
            client = await context.__aenter__()
        except AccessDenied:
            # A cluster with tenants has no door for the empty key; its administrator needs none.
            if key or endpoint.admin_key is None:
                raise
            context = connect(endpoint.address, key=endpoint.admin_key, tls=endpoint.tls)
            client = await context.__aenter__()
    except (PeerDisconnected, OSError) as exc:
        raise PeerDisconnected(
            f"no gateway answers at {endpoint.address} ({exc}); is the cluster up? "
            "'tools/devcluster up' starts one"
        ) from exc
    try:
        yield client
    finally:
        await context.__aexit__(None, None, None)


@asynccontextmanager
async def administered(args: argparse.Namespace) -> AsyncIterator[AdminPort]:
    """Connect to the cluster as its administrator.

    Raises:
        AccessDenied: The key is not known here, or not the administrator's.
        PeerDisconnected: Nothing answers there; says what to do.
    """
    endpoint = find_cluster(args)
    key = admin_key(endpoint)
    async with connected(endpoint, key) as client:
        yield await client.serving.admin(key)


def as_json(value: Any) -> Any:
    """Turn messages (attrs values, enums, tuples) into what JSON can say."""
    if attrs.has(type(value)):
        return {
            field.name: as_json(getattr(value, field.name)) for field in attrs.fields(type(value))
        }
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return getattr(value, "value", value)
