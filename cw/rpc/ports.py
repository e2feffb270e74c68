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

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from cw.messages import (
    ActionResult,
    Answer,
    BatchInputs,
    BatchOutputs,
    CancelSlot,
    CatalogAnswer,
    CatalogOrder,
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
    RouteOrder,
    UploadOffer,
    UsageBatch,
    VersionStatus,
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

    async def meter(self, batch: UsageBatch) -> int:
        """Hand over what was used; answered when it is on disk.

        Returns:
            The number up to which the catalog has all records of that life.

        Raises:
            CatalogFailed: The database did not take it.
        """
        ...

    async def add_model(self, spec: ModelSpec, *, hold: bool = False) -> ModelSpec:
        """Register a version of a model, whose archive is in the store; see `model_status`.

        Args:
            spec: Of the version; its number is given here.
            hold: Serve it only to those who ask for it by number. The first version of a name is
                current at once, others are when they are ready.

        Returns:
            The same with its number, at once.

        Raises:
            ModelConflict: The same program and weights are there with another manifest.
            RequestInvalid: Too many versions are in service.
        """
        ...

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """Describe a model's versions, the oldest first.

        Raises:
            UnknownModel: There is none of that name.
        """
        ...

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """Change what a name stands for.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: It has no such version.
            RequestInvalid: The shares can't be had.
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

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """Read or change the catalog of tenants.

        Raises:
            RequestInvalid: The order makes no sense, or names what is not there (`UnknownTenant`,
                `UnknownModel`), is another's (`ModelConflict`) or too much (`QuotaExceeded`).
        """
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

    async def meter(self, batch: UsageBatch) -> int:
        """Hand over what was used; answered when it is on disk.

        Returns:
            The number up to which the catalog has all records of that life.

        Raises:
            CatalogFailed: The database did not take it.
        """
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
    """One model's archive on its way into the store; it outlives the connection."""

    @property
    def token(self) -> str:
        """What to go on with, after a broken connection."""
        ...

    async def progress(self) -> Mapping[str, int]:
        """Say how many bytes of each file have come."""
        ...

    async def write(self, file: str, data: bytes, *, offset: int, crc32: int) -> None:
        """Put a chunk behind what is there of one of the archive's three files.

        Raises:
            ArchiveInvalid: No such file belongs to an archive, or it outgrew what was offered.
            ChunkDamaged: The checksum is not the chunk's: send it again.
            ChunkOutOfOrder: Bytes before it are missing.
            UnknownUpload: It has ended.
            StoreFull: The disk is full; the upload was thrown away.
        """
        ...

    async def commit(self, *, hold: bool = False) -> ModelSpec:
        """Verify the archive, put it into the store and register it.

        Args:
            hold: Do not make it current; see `GatewaySession.add_model`.

        Raises:
            ArchiveInvalid: It is damaged or lies about itself, or bytes are missing.
            ManifestInvalid: Its manifest is wrong.
            ModelConflict: The same program and weights are there with another manifest.
            ProgramNotAllowed: Its program is not on the allow-list, and can't be rebuilt safely.
        """
        ...

    async def discard(self) -> None:
        """Throw the upload away."""
        ...


class AdminPort(Protocol):
    """What an administrator may do beyond a tenant."""

    async def begin_upload(self, offer: UploadOffer) -> UploadPort:
        """Start to add a model; the same offer again gives the same upload, as far as it has come.

        Raises:
            ArchiveInvalid: No archive could be so, or it is too large.
            OutboxFull: Too many uploads are open, or too large ones.
            StoreFull: The disk has no room for it.
        """
        ...

    async def resume_upload(self, token: str) -> UploadPort:
        """Go on with an upload that this caller began.

        Raises:
            UnknownUpload: There is none of that token.
        """
        ...

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `GatewaySession.versions`."""
        ...

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `GatewaySession.route_model`."""
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

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        ...


class TenantPort(Protocol):
    """What login gives a client: its capabilities are what it may do."""

    async def infer(self, call: InferCall) -> Answer:
        """Answer a request, exactly once; bad input is a `Failure` inside the answer."""
        ...

    async def models(self) -> Sequence[ModelStatus]:
        """List the models that this tenant may ask for."""
        ...

    async def model_status(self, name: str, version: int = 0) -> ModelStatus:
        """Describe one model: its current version, or the one that is named.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: That version is not in service.
        """
        ...

    async def status(self) -> ClusterStatus:
        """Say what the whole cluster looks like now."""
        ...

    async def wait_ended(self) -> None:
        """Return once this capability is worth nothing any more: its key was revoked."""
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
