"""Between a client and a gateway: the door, and the tenant's and administrator's capabilities."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cw.messages import (
    Answer,
    CatalogAnswer,
    CatalogOrder,
    ClusterStatus,
    InferCall,
    ModelSpec,
    ModelStatus,
    RouteOrder,
    UploadOffer,
    VersionStatus,
)
from cw.rpc import schema
from cw.rpc.codec.binding import checked, list_to_wire
from cw.rpc.codec.catalog import answer_from_wire as catalog_answer_from_wire
from cw.rpc.codec.catalog import answer_to_wire as catalog_answer_to_wire
from cw.rpc.codec.catalog import order_from_wire, order_to_wire
from cw.rpc.codec.models import (
    model_spec_from_wire,
    model_spec_to_wire,
    model_status_from_wire,
    model_status_to_wire,
)
from cw.rpc.codec.requests import (
    answer_from_wire,
    answer_to_wire,
    infer_call_from_wire,
    infer_call_to_wire,
)
from cw.rpc.codec.status import cluster_status_from_wire, cluster_status_to_wire
from cw.rpc.codec.uploads import offer_from_wire, offer_to_wire, sizes_from_wire, sizes_to_wire
from cw.rpc.codec.versions import (
    route_order_from_wire,
    route_order_to_wire,
    versions_from_wire,
    versions_to_wire,
)
from cw.rpc.kj_calls import call_alive, detached
from cw.rpc.kj_connection import KjConnection
from cw.rpc.links.base import Stub, agreed_version, asked, check_version, nothing
from cw.rpc.ports import AdminPort, ServingPort, TenantPort, UploadPort

# --- the client's side ----------------------------------------------------------------------------


class ServingStub(Stub):
    """A gateway's front door; satisfies `ServingPort`."""

    async def login(self, key: str) -> TenantPort:
        """See `ServingPort.login`."""

        def read(results: Any) -> TenantPort:
            check_version(results.protocolVersion)
            return TenantStub(self._connection, results.tenant)

        return await self._ask("login", _credentials(key), read)

    async def admin(self, key: str) -> AdminPort:
        """See `ServingPort.admin`."""

        def read(results: Any) -> AdminPort:
            check_version(results.protocolVersion)
            return AdminStub(self._connection, results.admin)

        return await self._ask("admin", _credentials(key), read)


def _credentials(key: str) -> Callable[[Any], None]:
    def fill(params: Any) -> None:
        params.key = key
        params.protocolVersion = schema.PROTOCOL_VERSION

    return fill


class TenantStub(Stub):
    """What login gives a client; satisfies `TenantPort`."""

    async def infer(self, call: InferCall) -> Answer:
        """See `TenantPort.infer`."""
        return await self._ask(
            "infer",
            lambda params: infer_call_to_wire(call, params.init("call")),
            lambda results: answer_from_wire(results.answer),
            sum(memoryview(tensor.data).nbytes for tensor in call.inputs),
        )

    async def models(self) -> Sequence[ModelStatus]:
        """See `TenantPort.models`."""
        return await self._ask(
            "models",
            nothing,
            lambda results: tuple(model_status_from_wire(it) for it in results.models),
        )

    async def model_status(self, name: str, version: int = 0) -> ModelStatus:
        """See `TenantPort.model_status`."""

        def fill(params: Any) -> None:
            params.name = name
            params.version = version

        return await self._ask(
            "modelStatus", fill, lambda results: model_status_from_wire(results.status)
        )

    async def status(self) -> ClusterStatus:
        """See `TenantPort.status`."""
        return await self._ask(
            "status", nothing, lambda results: cluster_status_from_wire(results.status)
        )

    async def wait_ended(self) -> None:
        """See `TenantPort.wait_ended`: the gateway hangs up when that comes."""
        await self.wait_closed()


class AdminStub(Stub):
    """What an administrator may do; satisfies `AdminPort`."""

    async def begin_upload(self, offer: UploadOffer) -> UploadPort:
        """See `AdminPort.begin_upload`."""

        def read(results: Any) -> UploadPort:
            return UploadStub(self._connection, results.upload, results.token)

        return await self._ask(
            "beginUpload", lambda params: offer_to_wire(offer, params.init("offer")), read
        )

    async def resume_upload(self, token: str) -> UploadPort:
        """See `AdminPort.resume_upload`."""

        def fill(params: Any) -> None:
            params.token = token

        def read(results: Any) -> UploadPort:
            return UploadStub(self._connection, results.upload, token)

        return await self._ask("resumeUpload", fill, read)

    async def versions(self, name: str) -> Sequence[VersionStatus]:
        """See `AdminPort.versions`."""

        def fill(params: Any) -> None:
            params.name = name

        return await self._ask("versions", fill, versions_from_wire)

    async def route_model(self, order: RouteOrder) -> Sequence[VersionStatus]:
        """See `AdminPort.route_model`."""
        return await self._ask(
            "routeModel",
            lambda params: route_order_to_wire(order, params.init("order")),
            versions_from_wire,
        )

    async def catalog(self, order: CatalogOrder) -> CatalogAnswer:
        """See `GatewaySession.catalog`."""
        return await self._ask(
            "catalog",
            lambda params: order_to_wire(order, params.init("order")),
            lambda results: catalog_answer_from_wire(results.answer),
        )

    async def allow_program(self, program_sha256: str) -> None:
        """See `AdminPort.allow_program`."""

        def fill(params: Any) -> None:
            params.programSha256 = program_sha256

        await self._ask("allowProgram", fill, nothing)

    async def remove_model(self, name: str) -> None:
        """See `AdminPort.remove_model`."""

        def fill(params: Any) -> None:
            params.name = name

        await self._ask("removeModel", fill, nothing)


class UploadStub(Stub):
    """One archive on its way; satisfies `UploadPort`."""

    def __init__(self, connection: KjConnection, capability: Any, token: str) -> None:
        """Speak to `capability`, of the upload that `token` names."""
        super().__init__(connection, capability)
        self._token: Final = token

    @property
    def token(self) -> str:
        """See `UploadPort.token`."""
        return self._token

    async def progress(self) -> Mapping[str, int]:
        """See `UploadPort.progress`."""
        return await self._ask(
            "progress", nothing, lambda results: sizes_from_wire(results.written)
        )

    async def write(self, file: str, data: bytes, *, offset: int, crc32: int) -> None:
        """See `UploadPort.write`."""

        def fill(params: Any) -> None:
            params.file = file
            params.data = data
            params.offset = offset
            params.crc32 = crc32

        await self._ask("write", fill, nothing, len(data))

    async def commit(self, *, hold: bool = False) -> ModelSpec:
        """See `UploadPort.commit`."""

        def fill(params: Any) -> None:
            params.hold = hold

        return await self._ask("commit", fill, lambda results: model_spec_from_wire(results.spec))

    async def discard(self) -> None:
        """See `UploadPort.discard`."""
        await self._ask("discard", nothing, nothing)


# --- the gateway's side ---------------------------------------------------------------------------


class ServingGate(schema.serving.Serving.Server):  # type: ignore[misc]
    """The door of a gateway, on one client's connection."""

    def __init__(self, serving: ServingPort, link: KjConnection) -> None:
        """Let the client on `link` knock at `serving`."""
        self.serving = serving
        self.link = link
        self._watched: set[TenantPort] = set()

    async def _hang_up_with(self, tenant: TenantPort) -> None:
        """End the connection with what it may do: calls on their way are of that tenant."""
        await tenant.wait_ended()
        self.link.close()

    async def login_context(self, ctx: Any) -> None:
        """Exchange a tenant's key for its capability."""
        key, version = ctx.params.key, agreed_version(ctx.params.protocolVersion)
        await detached()
        tenant = await self.serving.login(key)
        if tenant not in self._watched:
            self._watched.add(tenant)
            self.link.nursery.start_soon(self._hang_up_with, tenant)
        if call_alive():
            ctx.results.tenant = TenantGate(tenant)
            ctx.results.protocolVersion = version

    async def admin_context(self, ctx: Any) -> None:
        """Exchange the administrator's key for the capability."""
        key, version = ctx.params.key, agreed_version(ctx.params.protocolVersion)
        await detached()
        admin = await self.serving.admin(key)
        if call_alive():
            ctx.results.admin = AdminGate(admin, self.link)
            ctx.results.protocolVersion = version


class TenantGate(schema.serving.Tenant.Server):  # type: ignore[misc]
    """A tenant's capability, as its client holds it."""

    def __init__(self, tenant: TenantPort) -> None:
        """Act for `tenant`."""
        self.tenant = tenant

    infer_context = asked(
        lambda params: infer_call_from_wire(params.call),
        lambda gate, call: gate.tenant.infer(call),
        lambda results, answer: answer_to_wire(answer, results.init("answer")),
    )
    models_context = asked(
        nothing,
        lambda gate, _: gate.tenant.models(),
        lambda results, models: list_to_wire(
            model_status_to_wire, models, results.init("models", len(models))
        ),
    )
    modelStatus_context = asked(  # noqa: N815
        lambda params: (params.name, params.version),
        lambda gate, named: gate.tenant.model_status(*named),
        lambda results, status: model_status_to_wire(status, results.init("status")),
    )
    status_context = asked(
        nothing,
        lambda gate, _: gate.tenant.status(),
        lambda results, status: cluster_status_to_wire(status, results.init("status")),
    )


class AdminGate(schema.serving.Admin.Server):  # type: ignore[misc]
    """The administrator's capability."""

    def __init__(self, admin: AdminPort, link: KjConnection) -> None:
        """Act for `admin`, whose client is on `link`."""
        self.admin = admin
        self.link = link

    async def beginUpload_context(self, ctx: Any) -> None:  # noqa: N802
        """Begin an upload, or go on with it."""
        offer = checked(offer_from_wire)(ctx.params.offer)
        await detached()
        upload = await self.admin.begin_upload(offer)
        if call_alive():
            ctx.results.upload = UploadGate(upload)
            ctx.results.token = upload.token

    async def resumeUpload_context(self, ctx: Any) -> None:  # noqa: N802
        """Go on with an upload."""
        token = ctx.params.token
        await detached()
        upload = await self.admin.resume_upload(token)
        if call_alive():
            ctx.results.upload = UploadGate(upload)

    versions_context = asked(
        lambda params: params.name,
        lambda gate, name: gate.admin.versions(name),
        lambda results, versions: versions_to_wire(versions, results),
    )
    routeModel_context = asked(  # noqa: N815
        lambda params: route_order_from_wire(params.order),
        lambda gate, order: gate.admin.route_model(order),
        lambda results, versions: versions_to_wire(versions, results),
    )
    catalog_context = asked(
        lambda params: order_from_wire(params.order),
        lambda gate, order: gate.admin.catalog(order),
        lambda results, answer: catalog_answer_to_wire(answer, results.init("answer")),
    )
    allowProgram_context = asked(  # noqa: N815
        lambda params: params.programSha256,
        lambda gate, program_sha256: gate.admin.allow_program(program_sha256),
    )
    removeModel_context = asked(  # noqa: N815
        lambda params: params.name,
        lambda gate, name: gate.admin.remove_model(name),
    )


class UploadGate(schema.serving.Upload.Server):  # type: ignore[misc]
    """One upload's capability."""

    def __init__(self, upload: UploadPort) -> None:
        """Act for `upload`."""
        self.upload = upload

    write_context = asked(
        lambda params: (params.file, params.data, params.offset, params.crc32),
        lambda gate, chunk: gate.upload.write(*chunk[:2], offset=chunk[2], crc32=chunk[3]),
    )
    commit_context = asked(
        lambda params: params.hold,
        lambda gate, hold: gate.upload.commit(hold=hold),
        lambda results, spec: model_spec_to_wire(spec, results.init("spec")),
    )
    discard_context = asked(nothing, lambda gate, _: gate.upload.discard())
    progress_context = asked(
        nothing,
        lambda gate, _: gate.upload.progress(),
        lambda results, written: sizes_to_wire(written, results.init("written", len(written))),
    )
