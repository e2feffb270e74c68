"""What the doors see of a gateway, whether one controller stands behind it or several.

Neighbours: `gateway.py` has one controller, `cells.py` several; `doors.py` opens them to clients.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from cw.config import GatewaySettings
from cw.messages import Answer, ClusterStatus, InferCall, ModelId, ModelSpec, ModelStatus


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


class Front(Protocol):
    """A gateway, as its doors see it."""

    @property
    def settings(self) -> GatewaySettings:
        """Bounds on what is open."""
        ...

    @property
    def models(self) -> Mapping[str, ModelSpec]:
        """By name: what may be asked for now."""
        ...

    @property
    def session(self) -> Registry | None:
        """Whom to tell of models; None while nobody can be told."""
        ...

    async def infer(self, call: InferCall, *, arrival_ns: int) -> Answer:
        """Answer a request, exactly once, by its deadline."""
        ...
