"""A tenant's door: what the capability that login returns may do, at both of a gateway's doors.

One object for each key, shared by all who present it: it holds the tenant's name on the wire and
nothing else, so that a quota that changes, or a model that is shared, counts from the next call on.
On the path of a request stand one look-up (is this model the tenant's?) and one token bucket. What
a tenant may not see looks exactly like what is not there.

Neighbours: `doors.py` opens it, `core/directory.py` knows who sees what, `gateway.py` answers.
"""

from collections.abc import Sequence

import attrs
import trio

from cw.actors.clock import now_ns
from cw.actors.front import Front, registry_of
from cw.actors.meters import GatewayMeter
from cw.core.intake import unknown_model
from cw.errors import AccessDenied, UnknownModel, UnknownVersion
from cw.messages import (
    NO_TENANT,
    Answer,
    ClusterStatus,
    Failure,
    InferCall,
    Ledger,
    ModelSpec,
    ModelStatus,
    Refusal,
    TenantId,
    Timing,
)


@attrs.define(eq=False)
class TenantDoor:
    """What a tenant may do; implements `TenantPort`.

    Args:
        gateway: Behind it.
        tenant_id: For whom; the default tenant sees every model.
    """

    gateway: Front
    tenant_id: TenantId = NO_TENANT
    meter: GatewayMeter | None = None
    """Writes down how requests end, if anybody does."""
    _ended: trio.Event = attrs.field(factory=trio.Event, init=False)

    def end(self) -> None:
        """Let nobody through any more: the key was revoked."""
        self._ended.set()

    async def wait_ended(self) -> None:
        """See `TenantPort.wait_ended`."""
        await self._ended.wait()

    def _check_open(self) -> None:
        if self._ended.is_set():
            raise AccessDenied("this key was revoked; log in with another")

    def _sees(self, name: str) -> bool:
        """Say whether the tenant may know that there is a model of that name."""
        if self.tenant_id == NO_TENANT:
            return True  # what is not there, the gateway knows better
        gateway = self.gateway
        return gateway.directory.sees(self.tenant_id, name) and name in gateway.models

    async def infer(self, call: InferCall) -> Answer:
        """See `TenantPort.infer`."""
        meter, name = self.meter, call.model
        if meter is None or name not in self.gateway.models or not self._sees(name):
            return await self._infer(call)  # a name that is made up must not fill the books
        answer: Answer | None = None
        try:
            answer = await self._infer(call)
            return answer
        finally:
            meter.answered(self.tenant_id, name, answer)

    async def _infer(self, call: InferCall) -> Answer:
        arrival_ns = now_ns()
        self._check_open()
        directory, tenant_id = self.gateway.directory, self.tenant_id
        # Without a controller nothing is known of models: that is what the gateway then says.
        if self.gateway.session is not None and not self._sees(call.model):
            names = directory.visible(tenant_id, self.gateway.models)
            return unopened(arrival_ns, unknown_model(call.model, names))
        refusal = directory.over_quota(tenant_id, arrival_ns)
        if refusal is not None:
            return unopened(arrival_ns, refusal)
        return await self.gateway.infer(call, arrival_ns=arrival_ns, tenant_id=tenant_id)

    def model_spec(self, name: str, version: int = 0) -> ModelSpec:
        """Describe a model, as this gateway knows it: its current version, or the one named.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: That version is not in service.
            PeerDisconnected: Nobody knows at the moment: there is no controller.
        """
        self._check_open()
        spec = self.gateway.models.get(name) if self._sees(name) else None
        if spec is None:
            registry_of(self.gateway)
            raise UnknownModel(f"no model is named {name[:128]!r}; see 'cw model list'")
        if not version:
            return spec
        known = self.gateway.routes.versions(name)
        for each in known:
            if each.version == version:
                return each
        numbers = ", ".join(str(each.version) for each in known)
        raise UnknownVersion(
            f"version {version} of {name!r} is not in service; those are: {numbers}"
        )

    def choose_version(self, name: str, version: int) -> ModelSpec:
        """Choose the version that the next request gets; the request must then ask for it.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: That version is not in service.
        """
        self.model_spec(name)
        return self.gateway.routes.pick(name, version) or self.model_spec(name, version)

    def model_versions(self, name: str) -> Sequence[ModelSpec]:
        """Describe the versions of a model that are in service, the oldest first."""
        return self.gateway.routes.versions(name) if self._sees(name) else ()

    async def models(self) -> Sequence[ModelStatus]:
        """See `TenantPort.models`."""
        return (await self.status()).models

    async def model_status(self, name: str, version: int = 0) -> ModelStatus:
        """See `TenantPort.model_status`."""
        spec = self.model_spec(name, version)
        return await registry_of(self.gateway).model_status(spec.model_id)

    async def status(self) -> ClusterStatus:
        """See `TenantPort.status`; of models only the tenant's, and nothing of others' requests."""
        self._check_open()
        status = await registry_of(self.gateway).status()
        return status if self.tenant_id == NO_TENANT else self._own(status)

    def _own(self, status: ClusterStatus) -> ClusterStatus:
        directory, tenant_id = self.gateway.directory, self.tenant_id
        executors = tuple(
            attrs.evolve(executor, resident=tuple(directory.visible(tenant_id, executor.resident)))
            for executor in status.executors
        )
        return attrs.evolve(
            status,
            queued=0,
            executors=executors,
            models=tuple(
                model for model in status.models if directory.sees(tenant_id, model.spec.name)
            ),
            ledger=Ledger(),
            best_effort=Ledger(),
            cells=(),
        )


def unopened(arrival_ns: int, end: Refusal | Failure) -> Answer:
    """Answer a call that no controller heard of."""
    timing = Timing(total_ns=now_ns() - arrival_ns)
    if isinstance(end, Refusal):
        return Answer(timing=timing, promised=False, refusal=end)
    return Answer(timing=timing, promised=False, failure=end)
