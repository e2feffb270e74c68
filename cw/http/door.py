"""What each path of the HTTP door means; who asks is known by the key.

A key is given as ``Authorization: Bearer KEY``; without one the caller is the default tenant, where
there is one. Every path does what the tenant's capability lets it do, and nothing else.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Protocol

import attrs

from cw.config import HttpSettings
from cw.errors import AccessDenied, PeerDisconnected, UnknownModel
from cw.http.described import Statistics, configuration, metadata
from cw.http.exchange import HttpError, HttpRequest, HttpResponse, json_response
from cw.http.infer import read_request, write_answer
from cw.messages import Answer, InferCall, ModelSpec, ModelState, ModelStatus

EXTENSIONS: Final = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")
MODELS_COUNTED_MAX: Final = 65_536
"""Models with statistics; past it the one that was first counted starts anew."""


class Tenant(Protocol):
    """What the door needs of a tenant's capability."""

    def model_spec(self, name: str, version: int = 0) -> ModelSpec:
        """Describe a model that may be asked for; raises `UnknownModel`."""
        ...

    def model_versions(self, name: str) -> Sequence[ModelSpec]:
        """Describe its versions that are in service."""
        ...

    def choose_version(self, name: str, version: int) -> ModelSpec:
        """Choose the version that the next request gets; raises `UnknownModel`."""
        ...

    async def infer(self, call: InferCall) -> Answer:
        """Answer a request, exactly once."""
        ...

    async def models(self) -> Sequence[ModelStatus]:
        """List the models that may be asked for."""
        ...

    async def model_status(self, name: str, version: int = 0) -> ModelStatus:
        """Describe one of them; raises `UnknownModel`."""
        ...


Login = Callable[[str], Awaitable[Tenant]]
"""Enter by a key; raises `AccessDenied`."""


@attrs.define(eq=False)
class HttpDoor:
    """Answers requests.

    Args:
        login: The gateway's.
        settings: For what a request does not name, and bounds.
        version: Of cw.
    """

    login: Login
    settings: HttpSettings
    version: str
    _statistics: dict[tuple[str, int], Statistics] = attrs.field(factory=dict, init=False)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer one request.

        Raises:
            HttpError: It gets an error for an answer.
        """
        match (request.method, request.path):
            case ("GET" | "HEAD", ("v2", "health", "live")):
                return json_response({"live": True})
            case ("GET", ("v2",)):
                return json_response(
                    {"name": "cw", "version": self.version, "extensions": EXTENSIONS}
                )
        try:
            return await self._of_tenant(request, await self._tenant(request))
        except UnknownModel as exc:
            raise HttpError(404, str(exc)) from exc
        except PeerDisconnected as exc:
            raise HttpError(503, str(exc), retry_after_s=1) from exc

    async def _of_tenant(self, request: HttpRequest, tenant: Tenant) -> HttpResponse:
        path, version = _parted(request.path)
        match (request.method, path):
            case ("POST", ("v2", "models", name, "infer")):
                return await self._infer(request, tenant, name, version)
            case ("GET" | "HEAD", ("v2", "health", "ready")):
                await tenant.models()
                return json_response({"ready": True})
            case ("GET", ("v2", "models", "stats")):
                specs = [status.spec for status in await tenant.models()]
                return json_response({"model_stats": [self._stats(spec) for spec in specs]})
            case ("GET", ("v2", "models", name)):
                spec = tenant.model_spec(name, version)
                return json_response(metadata(spec, tenant.model_versions(name)))
            case ("GET" | "HEAD", ("v2", "models", name, "ready")):
                return await _readiness(tenant, name, version)
            case ("GET", ("v2", "models", name, "config")):
                return json_response(configuration(tenant.model_spec(name, version)))
            case ("GET", ("v2", "models", name, "stats")):
                specs = [tenant.model_spec(name, version)]
                if not version:
                    specs = list(tenant.model_versions(name))
                return json_response({"model_stats": [self._stats(spec) for spec in specs]})
            case ("POST", ("v2", "repository", "index")):
                return json_response([_indexed(status) for status in await tenant.models()])
        raise HttpError(
            404,
            f"nothing is at {request.method[:16]} /{'/'.join(request.path)[:128]}; the Open "
            "Inference Protocol's paths begin with /v2, and docs/http.md lists what is served",
        )

    async def _tenant(self, request: HttpRequest) -> Tenant:
        """Find the caller's capability.

        Raises:
            HttpError: The key opens nothing.
        """
        given = request.headers.get("authorization", "")
        scheme, _, key = given.partition(" ")
        if given and scheme.lower() != "bearer":
            raise HttpError(401, "expected the header 'Authorization: Bearer KEY'")
        try:
            return await self.login(key.strip())
        except AccessDenied as exc:
            raise HttpError(401, str(exc)) from exc

    async def _infer(
        self, request: HttpRequest, tenant: Tenant, name: str, version: int
    ) -> HttpResponse:
        # Chosen here, so that the body is read, and the answer written, as this version has it.
        spec = tenant.choose_version(name, version)
        asked = read_request(request, spec, self.settings)
        answer = await tenant.infer(asked.call)
        counted = self._statistics.get((name, spec.version))
        if counted is None:
            if len(self._statistics) >= MODELS_COUNTED_MAX:
                del self._statistics[next(iter(self._statistics))]
            counted = self._statistics[name, spec.version] = Statistics()
        counted.add(answer, wall_ms=time.time_ns() // 1_000_000)
        return write_answer(asked, spec, answer)

    def _stats(self, spec: ModelSpec) -> dict[str, Any]:
        counted = self._statistics.get((spec.name, spec.version), Statistics())
        return counted.shown(spec.name, spec.version)


def _parted(path: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """Take ``versions/V`` out of a path; 0 if it is not there.

    Raises:
        HttpError: V is no version's number.
    """
    match path:
        case ("v2", "models", name, "versions", version, *rest):
            if not version.isascii() or not version.isdecimal() or not 0 < int(version) < 1 << 31:
                raise HttpError(404, f"expected a version's number, got {version[:32]!r}")
            return ("v2", "models", name, *rest), int(version)
    return path, 0


async def _readiness(tenant: Tenant, name: str, version: int) -> HttpResponse:
    status = await tenant.model_status(name, version)
    if status.state is not ModelState.READY:
        raise HttpError(
            503,
            f"model {name[:64]!r} is {status.state.value}, {status.steps_done} of "
            f"{status.steps_total} steps done {status.detail}".rstrip(),
            retry_after_s=1,
        )
    return json_response({"name": name, "ready": True})


def _indexed(status: ModelStatus) -> dict[str, str]:
    states = {ModelState.READY: "READY", ModelState.REGISTERING: "LOADING"}
    return {
        "name": status.spec.name,
        "version": str(status.spec.version),
        "state": states.get(status.state, "UNAVAILABLE"),
        "reason": status.detail,
    }
