"""Serving: an actor's front door at an address, until cancelled.

An address is ``tcp:HOST:PORT`` (port 0 for any free one), ``tls:HOST:PORT``, ``unix:PATH``, or
``fd:N`` for a listening socket that was inherited from whoever started this process: the supervisor
can hold it open over a restart, so that dialling never fails in between; TLS is spoken there when
the settings name a certificate. A controller and an executor can also be served to this process
alone: ``memory:NAME``.
"""

import socket
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from cw.config import GatewaySettings, LinkSettings, TlsSettings
from cw.errors import ConfigError
from cw.rpc.client import flow_limits
from cw.rpc.in_process import is_in_process, serve_here
from cw.rpc.kj_address import listen, speaks_tls
from cw.rpc.kj_connection import KjConnection
from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_guard import DoorLimits
from cw.rpc.kj_serve import serve
from cw.rpc.kj_shared import shared_kj
from cw.rpc.links.controller import ControllerGate
from cw.rpc.links.executor import InferenceGate
from cw.rpc.links.serving import ServingGate
from cw.rpc.ports import ControllerPort, InferencePort, ServingPort
from cw.tls import ServerTls, server_tls
from cw.units import SECOND

DEFAULT_CLIENTS: Final = GatewaySettings()


async def serve_controller(
    address: str,
    controller: ControllerPort,
    link: LinkSettings,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Let gateways and executors join `controller`.

    Args:
        address: Where to listen; see the module's docstring.
        controller: The actor. It must be running when the first peer joins.
        link: Bounds of each connection.
        task_status: Started with the address to dial, as soon as dialling succeeds.

    Raises:
        ConfigError: The address cannot be read.
        OSError: It is taken, or may not be bound.
    """
    if is_in_process(address):
        await serve_here(address, controller, task_status)
    await _serve(
        address,
        lambda it: controller_gate(controller, it, link),
        flow_limits(link),
        door_limits(link),
        tls_at(address, link.tls),
        task_status,
    )


async def serve_executor(
    address: str,
    executor: InferencePort,
    link: LinkSettings,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Let gateways bring inputs to `executor`; the rest as with `serve_controller`."""
    if is_in_process(address):
        await serve_here(address, executor, task_status)
    await _serve(
        address,
        lambda it: inference_gate(executor, it, link),
        flow_limits(link),
        door_limits(link),
        tls_at(address, link.tls),
        task_status,
    )


async def serve_gateway(
    address: str,
    serving: ServingPort,
    link: LinkSettings,
    clients: GatewaySettings = DEFAULT_CLIENTS,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Let clients knock at `serving`; the rest as with `serve_controller`.

    What `clients` says of their connections stands in place of what `link` says.
    """
    await _serve(
        address,
        lambda it: serving_gate(serving, it, link),
        attrs.evolve(flow_limits(link), max_calls_per_s=clients.max_calls_per_s),
        attrs.evolve(
            door_limits(link),
            max_connections=clients.max_connections,
            max_connections_per_address=clients.max_connections_per_address,
        ),
        tls_at(address, clients.tls),
        task_status,
    )


def door_limits(link: LinkSettings) -> DoorLimits:
    """Say what all connections of one listener may take; peers may all be on one host."""
    return DoorLimits(
        max_connections=link.max_connections,
        max_connections_per_address=link.max_connections,
        greeting_limit_s=link.greeting_limit_ns / SECOND,
        message_limit_s=link.message_limit_ns / SECOND,
        send_limit_s=link.send_limit_ns / SECOND,
        handshake_limit_s=link.handshake_limit_ns / SECOND,
    )


def controller_gate(controller: ControllerPort, link: KjConnection, settings: LinkSettings) -> Any:
    """Make the capability that a peer of a controller gets first."""
    return ControllerGate(controller, link, max_messages=settings.outbox_messages)


def inference_gate(executor: InferencePort, link: KjConnection, _: LinkSettings) -> Any:
    """Make the capability that a gateway gets first from an executor."""
    return InferenceGate(executor, link)


def serving_gate(serving: ServingPort, link: KjConnection, _: LinkSettings) -> Any:
    """Make the capability that a client gets first."""
    return ServingGate(serving, link)


async def _serve(
    address: str,
    make_bootstrap: Callable[[KjConnection], Any],
    limits: FlowLimits,
    door: DoorLimits,
    tls: ServerTls | None,
    task_status: trio.TaskStatus[str],
) -> None:
    async with shared_kj():
        await serve(
            listen_at(address), make_bootstrap, limits, door=door, tls=tls, task_status=task_status
        )


def tls_at(address: str, settings: TlsSettings) -> ServerTls | None:
    """Say what TLS is spoken at an address, if any.

    Raises:
        ConfigError: The address and the settings do not agree, or a file can't be read.
    """
    tls = server_tls(settings)
    if speaks_tls(address) and tls is None:
        raise ConfigError(
            f"address {address!r}: expected a certificate in the TLS settings (cert, key_file)"
        )
    if address.startswith("tcp:") and tls is not None:
        raise ConfigError(
            f"address {address!r}: the settings name a certificate: expected tls:HOST:PORT"
        )
    return None if address.startswith("unix:") else tls


def listen_at(address: str) -> trio.socket.SocketType:
    """Listen at an address, or take over an inherited socket that listens already.

    Raises:
        ConfigError: The address cannot be read, or its descriptor is no listening socket.
        OSError: The address is taken, or may not be bound.
    """
    kind, _, number = address.partition(":")
    if kind != "fd":
        return listen(address)
    if not number.isdecimal():
        raise ConfigError(f"address {address!r}: expected fd:N with N an open file descriptor")
    try:
        sock = socket.socket(fileno=int(number))
    except OSError as error:
        raise ConfigError(f"address {address!r}: expected an inherited socket: {error}") from error
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.detach()
        raise ConfigError(f"address {address!r}: expected a socket that listens; this one does not")
    sock.setblocking(False)
    return trio.socket.from_stdlib_socket(sock)
