"""The ports: how actors address one another, whatever lies between.

An actor sees only these protocols. The actor behind a port, a stub that reaches it over Cap'n Proto
(`rpc/client.py`) and one in the same process (`rpc/memory.py`) all satisfy the same protocol and
pass the same contract tests (`tests/actor/test_port_contract.py`).

Two kinds of method:

- ``tell(...)`` never waits. It hands messages on in order, many to a call where they pile up, and
  raises `OutboxFull` when its bound is reached (whoever tells has a written answer to that) or
  `PeerDisconnected` once the peer is gone. Receiving sides take them in the order told.
- ``async`` methods wait for the peer's answer, and a cancel of the waiting task reaches the peer.
  They raise `PeerDisconnected` when the peer dies and `RemoteFailed` (or the error tree's own
  types, which cross the wire by name) when it answers with an error.

Nothing here times out by itself: deadlines and heartbeats belong to the actors.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cw.messages import (
    ActionResult,
    Answer,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    ClusterStatus,
    ExecutorHello,
    ExecutorWelcome,
    GatewayHello,
    GatewayReport,
    GatewayWelcome,
    InferCall,
    ModelId,
    ModelSpec,
    ModelStatus,
    Notices,
    Orders,
    Pong,
)


class Peer(Protocol):
    """What every connected peer has."""

    async def wait_closed(self) -> None:
        """Return once the peer, or the connection to it, is gone."""
        ...

    def close(self) -> None:
        """Cut the connection; safe to call twice."""
        ...


# --- between a gateway and its controller ---------------------------------------------------------


class GatewayPort(Peer, Protocol):
    """A gateway, as the controller sees it."""

    def tell(self, notices: Notices) -> None:
        """Hand on decisions, models and executors."""
        ...


class GatewaySession(Peer, Protocol):
    """A controller, as one of its gateways sees it."""

    def tell(self, reports: Sequence[GatewayReport]) -> None:
        """Hand on descriptors, settlements, failed attempts and cancels."""
        ...

    async def ping(self, sent_ns: int) -> Pong:
        """Show a sign of life and read the controller's clock. `sent_ns`: the caller's clock."""
        ...

    async def add_model(self, spec: ModelSpec) -> None:
        """Register a model whose archive is in the store. Returns at once; see `model_status`.

        Raises:
            ModelConflict: The name is taken by other contents.
            ProgramNotAllowed: Its program is not on the allow-list, and can't be rebuilt safely.
        """
        ...

    async def remove_model(self, model_id: ModelId) -> None:
        """Take a model out of service and out of the store.

        Raises:
            UnknownModel: It is not registered.
        """
        ...

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """Say how far a model's registration has come, and its profile.

        Raises:
            UnknownModel: It is not registered.
        """
        ...

    async def status(self) -> ClusterStatus:
        """Say what the whole cluster looks like now."""
        ...


# --- between an executor and its controller -------------------------------------------------------


class ExecutorPort(Peer, Protocol):
    """An executor, as the controller sees it."""

    def tell(self, orders: Orders) -> None:
        """Hand on actions and cancels."""
        ...


class ExecutorSession(Peer, Protocol):
    """A controller, as one of its executors sees it."""

    def tell(self, results: Sequence[ActionResult]) -> None:
        """Hand on results of actions."""
        ...

    async def ping(self, sent_ns: int) -> Pong:
        """Show a sign of life and read the controller's clock. `sent_ns`: the caller's clock."""
        ...


class ControllerPort(Peer, Protocol):
    """A controller's front door, for gateways and executors."""

    async def join_gateway(
        self, hello: GatewayHello, gateway: GatewayPort
    ) -> tuple[GatewayWelcome, GatewaySession]:
        """Introduce a gateway; the controller tells it of models and executors first."""
        ...

    async def join_executor(
        self, hello: ExecutorHello, executor: ExecutorPort
    ) -> tuple[ExecutorWelcome, ExecutorSession]:
        """Introduce an executor; orders follow."""
        ...


# --- between a gateway and an executor ------------------------------------------------------------


class InferencePort(Peer, Protocol):
    """An executor's data side, for gateways."""

    async def infer(self, inputs: BatchInputs) -> BatchOutputs:
        """Bring inputs for an action; returns when it ended. Asking again is harmless.

        The executor keeps the outputs until the last deadline of the action, so that after a
        broken connection the same call gives the same outputs.
        """
        ...

    def tell(self, cancels: Sequence[CancelSlot]) -> None:
        """Hand on that these slots' callers went away."""
        ...


# --- between a client and a gateway ---------------------------------------------------------------


class UploadPort(Protocol):
    """One model's archive on its way into the store."""

    async def write(self, file: str, data: bytes) -> None:
        """Append to one of the archive's three files.

        Raises:
            ArchiveInvalid: No such file belongs to an archive, or it outgrew its bound.
        """
        ...

    async def commit(self) -> ModelSpec:
        """Verify the archive, put it into the store and register it.

        Raises:
            ArchiveInvalid: It is damaged or lies about itself.
            ManifestInvalid: Its manifest is wrong.
            ModelConflict: The name is taken by other contents.
            ProgramNotAllowed: Its program is not on the allow-list, and can't be rebuilt safely.
        """
        ...

    async def discard(self) -> None:
        """Throw the upload away."""
        ...


class AdminPort(Protocol):
    """What an administrator may do beyond a tenant."""

    async def begin_upload(self) -> UploadPort:
        """Start to add a model."""
        ...

    async def allow_program(self, program_sha256: str) -> None:
        """Put a program on the allow-list: executors will run it as code, with their rights."""
        ...

    async def remove_model(self, name: str) -> None:
        """Remove a model; requests already promised are still answered.

        Raises:
            UnknownModel: There is none of that name.
        """
        ...


class TenantPort(Protocol):
    """What login gives a client: its capabilities are what it may do."""

    async def infer(self, call: InferCall) -> Answer:
        """Answer a request, exactly once; bad input is a `Failure` inside the answer."""
        ...

    async def models(self) -> Sequence[ModelStatus]:
        """List the models that this tenant may ask for."""
        ...

    async def model_status(self, name: str) -> ModelStatus:
        """Describe one model.

        Raises:
            UnknownModel: There is none of that name.
        """
        ...

    async def status(self) -> ClusterStatus:
        """Say what the whole cluster looks like now."""
        ...


class ServingPort(Peer, Protocol):
    """A gateway's front door: it only authenticates."""

    async def login(self, key: str) -> TenantPort:
        """Enter as a tenant. The empty key is the default tenant's on a cluster without tenants.

        Raises:
            AccessDenied: The key opens nothing.
        """
        ...

    async def admin(self, key: str) -> AdminPort:
        """Enter as the administrator.

        Raises:
            AccessDenied: The key is not the administrator's.
        """
        ...


DialController = Callable[[], AbstractAsyncContextManager[ControllerPort]]
"""Connect to the controller; leaving the context closes the connection."""

DialExecutor = Callable[[str], AbstractAsyncContextManager[InferencePort]]
"""Connect to the executor at an address."""
