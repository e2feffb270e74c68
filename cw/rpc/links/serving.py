"""Between a client and a gateway: the door, and the tenant's and administrator's capabilities."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import trio

from cw.errors import CwError
from cw.messages import Answer, ClusterStatus, InferCall, ModelSpec, ModelStatus
from cw.rpc import schema
from cw.rpc.codec.binding import list_to_wire
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
from cw.rpc.kj_calls import call_alive, detached
from cw.rpc.kj_connection import KjConnection
from cw.rpc.links.base import Stub, agreed_version, asked, check_version, nothing
from cw.rpc.ports import AdminPort, ServingPort, TenantPort, UploadPort

log = logging.getLogger(__name__)

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

    async def model_status(self, name: str) -> ModelStatus:
        """See `TenantPort.model_status`."""

        def fill(params: Any) -> None:
            params.name = name

        return await self._ask(
            "modelStatus", fill, lambda results: model_status_from_wire(results.status)
        )

    async def status(self) -> ClusterStatus:
        """See `TenantPort.status`."""
        return await self._ask(
            "status", nothing, lambda results: cluster_status_from_wire(results.status)
        )


class AdminStub(Stub):
    """What an administrator may do; satisfies `AdminPort`."""

    async def begin_upload(self) -> UploadPort:
        """See `AdminPort.begin_upload`."""
        return await self._ask(
            "beginUpload", nothing, lambda results: UploadStub(self._connection, results.upload)
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

    async def write(self, file: str, data: bytes) -> None:
        """See `UploadPort.write`."""

        def fill(params: Any) -> None:
            params.file = file
            params.data = data

        await self._ask("write", fill, nothing, len(data))

    async def commit(self) -> ModelSpec:
        """See `UploadPort.commit`."""
        return await self._ask(
            "commit", nothing, lambda results: model_spec_from_wire(results.spec)
        )

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

    async def login_context(self, ctx: Any) -> None:
        """Exchange a tenant's key for its capability."""
        key, version = ctx.params.key, agreed_version(ctx.params.protocolVersion)
        await detached()
        tenant = await self.serving.login(key)
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
        lambda params: params.name,
        lambda gate, name: gate.tenant.model_status(name),
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
        """Begin an upload that ends with the connection at the latest."""
        await detached()
        gate = UploadGate(await self.admin.begin_upload())
        self.link.nursery.start_soon(gate.discard_at_end)
        if call_alive():
            ctx.results.upload = gate

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
        self._ended = trio.Event()

    async def discard_at_end(self) -> None:
        """Wait until the upload has ended; when the connection ends first, throw it away."""
        try:
            await self._ended.wait()
        finally:
            if not self._ended.is_set():
                with trio.CancelScope(shield=True):
                    try:
                        await self.upload.discard()
                    except CwError as error:
                        log.warning("upload not discarded error=%r", error)

    async def _commit(self, _: None) -> ModelSpec:
        spec = await self.upload.commit()
        self._ended.set()
        return spec

    async def _discard(self, _: None) -> None:
        self._ended.set()
        await self.upload.discard()

    write_context = asked(
        lambda params: (params.file, params.data),
        lambda gate, piece: gate.upload.write(*piece),
    )
    commit_context = asked(
        nothing,
        _commit,
        lambda results, spec: model_spec_to_wire(spec, results.init("spec")),
    )
    discard_context = asked(nothing, _discard)
