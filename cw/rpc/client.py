"""Dialling: each port over a connection of its own, for the length of a block.

Each tries once; whoever dials decides whether and when to try again. Leaving the block closes the
connection. Deadlines and heartbeats belong to the actors.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from cw.config import LinkSettings
from cw.rpc import schema
from cw.rpc.in_process import is_in_process, network_here
from cw.rpc.kj_connection import KjConnection, connect
from cw.rpc.kj_flow import FlowLimits
from cw.rpc.kj_shared import shared_kj
from cw.rpc.links.controller import ControllerStub
from cw.rpc.links.executor import InferenceStub
from cw.rpc.links.serving import ServingStub
from cw.rpc.ports import ControllerPort, InferencePort, ServingPort
from cw.units import SECOND


def flow_limits(link: LinkSettings) -> FlowLimits:
    """Say what one connection may hold open."""
    return FlowLimits(
        max_open_calls=link.max_open_calls,
        max_open_bytes=link.max_open_bytes,
        max_message_bytes=link.max_message_bytes,
        max_nesting=link.max_nesting,
    )


@asynccontextmanager
async def connect_controller(address: str, link: LinkSettings) -> AsyncIterator[ControllerPort]:
    """Dial a controller.

    Args:
        address: ``tcp:HOST:PORT``, ``tls:HOST:PORT``, ``unix:PATH`` or ``memory:NAME``.
        link: Bounds of the connection.

    Raises:
        ConfigError: The address cannot be read.
        PeerDisconnected: Nobody answers there, or nobody who can be trusted.
    """
    if is_in_process(address):
        async with network_here().connect_controller(address) as port:
            yield port
        return
    async with shared_kj(), _dialled(address, link) as connection:
        yield controller_over(connection, link)


@asynccontextmanager
async def connect_executor(address: str, link: LinkSettings) -> AsyncIterator[InferencePort]:
    """Dial an executor's data side; the rest as with `connect_controller`."""
    if is_in_process(address):
        async with network_here().connect_executor(address) as port:
            yield port
        return
    async with shared_kj(), _dialled(address, link) as connection:
        yield inference_over(connection, link)


@asynccontextmanager
async def connect_serving(address: str, link: LinkSettings) -> AsyncIterator[ServingPort]:
    """Dial a gateway's front door; the rest as with `connect_controller`."""
    async with shared_kj(), _dialled(address, link) as connection:
        yield serving_over(connection, link)


def _dialled(address: str, link: LinkSettings) -> AbstractAsyncContextManager[KjConnection]:
    return connect(
        address,
        limits=flow_limits(link),
        tls=link.tls,
        handshake_limit_s=link.handshake_limit_ns / SECOND,
    )


def controller_over(connection: KjConnection, link: LinkSettings) -> ControllerPort:
    """Take the other end of an open connection for a controller."""
    capability = connection.bootstrap(schema.control.Controller)
    return ControllerStub(connection, capability, max_messages=link.outbox_messages)


def inference_over(connection: KjConnection, link: LinkSettings) -> InferencePort:
    """Take the other end of an open connection for an executor's data side."""
    capability = connection.bootstrap(schema.executor.Inference)
    return InferenceStub(connection, capability, max_messages=link.outbox_messages)


def serving_over(connection: KjConnection, _: LinkSettings) -> ServingPort:
    """Take the other end of an open connection for a gateway's front door."""
    return ServingStub(connection, connection.bootstrap(schema.serving.Serving))
