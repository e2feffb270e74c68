"""What the doors see of a gateway, whether one controller stands behind it or several.

Neighbours: `gateway.py` has one controller, `cells.py` several; `doors.py` opens them to clients.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from cw.config import GatewaySettings
from cw.core.directory import Directory
from cw.core.routes import Routes
from cw.errors import PeerDisconnected
from cw.messages import (
    NO_TENANT,
    Answer,
    CatalogAnswer,
    CatalogOrder,
    ClusterStatus,
    InferCall,
    ModelId,
    ModelSpec,
    ModelStatus,
    RouteOrder,
    TenantId,
    VersionStatus,
)


class Registry(Protocol):
    """Whom a door tells of models, and asks about them: a controller's session, or all cells'."""

    async def add_model(self, spec: ModelSpec, *, hold: bool = False) -> ModelSpec:
        """See `GatewaySession.add_model`."""
        ...

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `GatewaySession.versions`."""
        ...

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `GatewaySession.route_model`."""
        ...

    async def remove_model(self, model_id: ModelId) -> None:
        """See `GatewaySession.remove_model`."""
        ...

    async def model_status(self, model_id: ModelId) -> ModelStatus:
        """See `GatewaySession.model_status`."""
        ...

    async def status(self) -> ClusterStatus:
        """See `GatewaySession.status`."""
        ...

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        ...


class Front(Protocol):
    """A gateway, as its doors see it."""

    @property
    def settings(self) -> GatewaySettings:
        """Bounds on what is open."""
        ...

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """By name: the current version of what may be asked for now."""
        ...

    @property
    def routes(self) -> Routes:
        """Which versions there are of it."""
        ...

    @property
    def directory(self) -> Directory:
        """Who the tenants are, and what each may see."""
        ...

    @property
    def session(self) -> Registry | None:
        """Whom to tell of models; None while nobody can be told."""
        ...

    async def infer(
        self, call: InferCall, *, arrival_ns: int, tenant_id: TenantId = NO_TENANT
    ) -> Answer:
        """Answer a tenant's request, exactly once, by its deadline."""
        ...


def registry_of(front: Front) -> Registry:
    """Say whom to tell.

    Raises:
        PeerDisconnected: Nobody can be told now.
    """
    if front.session is None:
        raise PeerDisconnected("this gateway has no controller at the moment; retry shortly")
    return front.session
