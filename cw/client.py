"""The Python client: numpy in, numpy out, one answer per request.

::

    async with cw.connect("tcp:127.0.0.1:7000") as client:
        result = await client.infer("minilm", {"ids": ids, "mask": mask}, slo="100ms")
        print(result.outputs["embedding"])

`connect` is for Trio programs; `connect_blocking` gives the same calls without ``await``. An answer
is a value: a refusal says why and when it could have been had. `Result.unwrap` turns what is not
an output into an exception, for callers who want only outputs.
"""

import operator
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Final, SupportsIndex

import attrs
import trio

from cw.actors.clock import now_ns
from cw.arrays import Array as Array
from cw.arrays import to_arrays, to_tensors
from cw.config import LinkSettings, TlsSettings
from cw.errors import CwError, PeerSilent, RequestInvalid
from cw.messages import (
    Answer,
    ClusterStatus,
    Failure,
    InferCall,
    ModelSpec,
    ModelStatus,
    Refusal,
    RefusalReason,
    Timing,
)
from cw.rpc.client import connect_serving
from cw.rpc.failover import connect_any
from cw.rpc.ports import ServingPort, TenantPort
from cw.units import MS, SECOND, format_ms, parse_duration_ns

_SLO_NS_MAX: Final = 2**62
"""What an int64 holds, with room for sums; a gateway allows far less."""

_LEAST_NS: Final = 1 * MS
"""What a gateway takes for a mistake in units rather than an SLO; less than that is not sent."""

_SPECS_MAX: Final = 4096
"""Versions of models whose shapes are remembered: one more, and the first is asked for again."""

_LOGIN_S: Final = 5
"""To log in, which asks nobody but the gateway itself."""

_GRACE_NS: Final = 1 * SECOND
"""A gateway answers at the deadline at the latest; one that is silent for this much longer is
stopped or cut off."""


class Refused(CwError):
    """The request was refused; `refusal` says why and when it could have been. Go elsewhere."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep the refusal."""
        earliest = refusal.earliest_finish_ns
        when = f"; earliest finish {format_ms(earliest)} after the call" if earliest else ""
        super().__init__(f"{refusal.reason.value}: {refusal.message}{when}")
        self.refusal = refusal


class Failed(CwError):
    """The request failed; `failure` says what was expected and what came."""

    def __init__(self, failure: Failure) -> None:
        """Keep the failure."""
        super().__init__(f"{failure.kind.value}: {failure.message}")
        self.failure = failure


@attrs.frozen(kw_only=True)
class Result:
    """One request's answer.

    Exactly one of `outputs`, `refusal`, `failure` is set.
    """

    timing: Timing
    promised: bool
    outputs: Mapping[str, Array] | None = None
    """By name; each of the model's output shape, without a batch dimension; read-only."""
    refusal: Refusal | None = None
    failure: Failure | None = None
    version: int = 0
    """Of the model that it was asked of; 0 when it came to none."""

    def unwrap(self) -> Mapping[str, Array]:
        """Return the outputs.

        Raises:
            Refused: The request was refused.
            Failed: It failed.
        """
        if self.outputs is not None:
            return self.outputs
        if self.refusal is not None:
            raise Refused(self.refusal)
        assert self.failure is not None
        raise Failed(self.failure)


@attrs.define(eq=False)
class OutsideTime:
    """What a call takes outside of the gateway's sight: both ways on the wire, both ends' codecs.

    The SLO is the caller's, by the caller's clock; the gateway counts from its receipt of the
    request to the handing over of the answer. The rest is learnt here and taken off beforehand.
    """

    _recent_ns: deque[int] = attrs.field(factory=lambda: deque(maxlen=64))

    def learn(self, whole_ns: int, inside_ns: int) -> None:
        """Learn from a call that took `whole_ns` here, `inside_ns` of them at the gateway."""
        self._recent_ns.append(max(0, whole_ns - inside_ns))

    def allowance_ns(self, left_ns: int) -> int:
        """Say how much of the time that is left to take off; a quarter of it at most."""
        if not self._recent_ns or left_ns <= 0:
            return 0
        ordered = sorted(self._recent_ns)
        return min(ordered[len(ordered) * 9 // 10], left_ns // 4)


@attrs.define(eq=False)
class Client:
    """A tenant's connection to a gateway. Calls may overlap; they share the connection."""

    serving: ServingPort
    tenant: TenantPort
    _specs: dict[tuple[str, int], ModelSpec] = attrs.field(factory=dict, init=False)
    _outside: OutsideTime = attrs.field(factory=OutsideTime, init=False)

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        slo: str | int | None,
        started_ns: int | None = None,
        version: int = 0,
    ) -> Result:
        """Ask for one inference, to be answered within the SLO.

        Args:
            model: Its registered name.
            inputs: One sample: arrays by name, without a batch dimension.
            slo: A duration such as ``"100ms"``, or an int of nanoseconds. None: best effort, run
                in time that no request with an SLO wants; bound the wait by cancelling the call.
            started_ns: When the SLO began, on `cw.actors.clock.now_ns`; by default now. A load
                generator gives the scheduled start, so that its own lateness is not forgiven.
            version: Of the model; by default as its owner shares requests out among them.

        Raises:
            PeerDisconnected: The gateway is gone; whether the request ran is unknown.
            PeerSilent: It did not answer within the SLO and a second's grace.
            RequestInvalid: The SLO is no duration, or an input can't be expressed on the wire.
        """
        call_ns = now_ns()
        if slo is None:
            call = InferCall(model=model, inputs=to_tensors(inputs), slo_ns=None, version=version)
            return await self._result(model, await self.tenant.infer(call))
        slo_ns = _slo_ns(slo)
        spent_ns = call_ns - started_ns if started_ns is not None else 0
        if 0 < slo_ns <= spent_ns:
            return _too_late(slo_ns, spent_ns)
        left_ns = slo_ns - spent_ns
        left_ns -= self._outside.allowance_ns(left_ns)
        if left_ns < _LEAST_NS <= slo_ns:
            return _too_late(slo_ns, slo_ns - left_ns)
        call = InferCall(model=model, inputs=to_tensors(inputs), slo_ns=left_ns, version=version)
        answer: Answer | None = None
        with trio.move_on_after((max(left_ns, 0) + _GRACE_NS) / SECOND):
            answer = await self.tenant.infer(call)
        if answer is None:
            raise PeerSilent(
                f"the gateway did not answer within the SLO of {format_ms(left_ns)} "
                f"and {format_ms(_GRACE_NS)} more"
            )
        self._outside.learn(now_ns() - call_ns, answer.timing.total_ns)
        return await self._result(model, answer)

    async def _result(self, model: str, answer: Answer) -> Result:
        outputs = None
        if answer.outputs is not None:
            version = answer.version
            spec = self._specs.get((model, version)) or await self._spec(model, version)
            try:
                outputs = to_arrays(spec, answer.outputs)
            except ValueError:
                # The model was removed, and another added under its name.
                outputs = to_arrays(await self._spec(model, version), answer.outputs)
        return Result(
            timing=answer.timing,
            promised=answer.promised,
            outputs=outputs,
            refusal=answer.refusal,
            failure=answer.failure,
            version=answer.version,
        )

    async def _spec(self, model: str, version: int) -> ModelSpec:
        return (await self.model(model, version)).spec

    async def model(self, name: str, version: int = 0) -> ModelStatus:
        """Describe a model: shapes, state, profile; also makes its first `infer` one call short.

        Args:
            name: Of the model.
            version: Which; 0: the current one.

        Raises:
            UnknownModel: There is none of that name.
            UnknownVersion: That version is not in service.
        """
        status = await self.tenant.model_status(name, version)
        while len(self._specs) >= _SPECS_MAX:
            del self._specs[next(iter(self._specs))]
        self._specs[name, status.spec.version] = status.spec
        return status

    async def models(self) -> Sequence[ModelStatus]:
        """List the models."""
        return await self.tenant.models()

    async def status(self) -> ClusterStatus:
        """Describe the cluster."""
        return await self.tenant.status()


def _slo_ns(slo: str | SupportsIndex) -> int:
    """Read an SLO as callers may give it.

    Raises:
        RequestInvalid: It is neither a duration nor a whole number of nanoseconds.
    """
    try:
        if isinstance(slo, str):
            return parse_duration_ns(slo)
        if isinstance(slo, bool):  # Python takes True for 1
            raise TypeError("a bool is no duration")
        slo_ns = operator.index(slo)  # of numpy's integers, too
        if abs(slo_ns) > _SLO_NS_MAX:
            raise ValueError("more than the wire can carry")
        return slo_ns
    except (TypeError, ValueError) as exc:
        raise RequestInvalid(
            f"expected an SLO such as '100ms', or an int of nanoseconds, got {slo!r}: {exc}"
        ) from exc


def _too_late(slo_ns: int, spent_ns: int) -> Result:
    message = f"{format_ms(spent_ns)} of the SLO of {format_ms(slo_ns)} had passed before the call"
    refusal = Refusal(reason=RefusalReason.DEADLINE_TOO_SHORT, message=message)
    return Result(timing=Timing(total_ns=0), promised=False, refusal=refusal)


@asynccontextmanager
async def connect(
    address: str,
    *,
    key: str = "",
    link: LinkSettings | None = None,
    tls: TlsSettings | None = None,
) -> AsyncIterator[Client]:
    """Connect to a gateway and log in.

    Args:
        address: ``tcp:HOST:PORT``, ``tls:HOST:PORT`` or ``unix:PATH``; or several, with commas in
            between: when the gateway that is used dies, what is asked next goes to another.
        key: The tenant's key; empty for the default tenant.
        link: Bounds on what is in flight.
        tls: Whom to trust at a ``tls:`` address, and the certificate to show where one is asked
            for; by default the system's authorities, and none.

    Raises:
        ConfigError: A file of `tls` can't be read.
        PeerDisconnected: Nothing answers there, or nobody who can be trusted; says why.
        PeerSilent: It accepts connections and then says nothing.
        AccessDenied: The key opens nothing.
    """
    link = link or LinkSettings()
    link = attrs.evolve(link, tls=tls or link.tls)
    if "," in address:
        async with connect_any([word.strip() for word in address.split(",")], link) as gateways:
            yield Client(gateways, await gateways.login(key))
        return
    async with connect_serving(address, link) as serving:
        tenant: TenantPort | None = None
        with trio.move_on_after(_LOGIN_S):
            tenant = await serving.login(key)
        if tenant is None:
            raise PeerSilent(
                f"{address} accepts connections but did not answer within {_LOGIN_S} s: "
                "is it a gateway, and is its process running?"
            )
        yield Client(serving, tenant)


class BlockingClient:
    """The same calls for programs without Trio; from any thread, several at a time."""

    def __init__(self, client: Client, token: trio.lowlevel.TrioToken) -> None:
        """Wrap a client that lives on another thread's event loop."""
        self._client: Final = client
        self._token: Final = token

    def infer(self, model: str, inputs: Mapping[str, Array], *, slo: str | int | None) -> Result:
        """See `Client.infer`."""
        call = partial(self._client.infer, model, inputs, slo=slo)
        return trio.from_thread.run(call, trio_token=self._token)

    def model(self, name: str) -> ModelStatus:
        """See `Client.model`."""
        return trio.from_thread.run(self._client.model, name, trio_token=self._token)

    def models(self) -> Sequence[ModelStatus]:
        """See `Client.models`."""
        return trio.from_thread.run(self._client.models, trio_token=self._token)

    def status(self) -> ClusterStatus:
        """See `Client.status`."""
        return trio.from_thread.run(self._client.status, trio_token=self._token)


@contextmanager
def connect_blocking(
    address: str, *, key: str = "", tls: TlsSettings | None = None
) -> Iterator[BlockingClient]:
    """Connect from a program without Trio: an event loop runs on a thread of its own.

    The arguments are those of `connect`.

    Raises:
        PeerDisconnected: Nothing answers there.
        AccessDenied: The key opens nothing.
    """
    ready = threading.Event()
    opened: list[BlockingClient] = []
    failed: list[BaseException] = []
    stop: list[trio.Event] = []

    async def serve() -> None:
        async with connect(address, key=key, tls=tls) as client:
            stop.append(trio.Event())
            opened.append(BlockingClient(client, trio.lowlevel.current_trio_token()))
            ready.set()
            await stop[0].wait()

    def run() -> None:
        try:
            trio.run(serve)
        except Exception as exc:  # handed to the caller's thread, which raises it
            failed.append(exc)
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="cw-client", daemon=True)
    thread.start()
    ready.wait()
    if not opened:
        raise failed[0]
    client = opened[0]
    try:
        yield client
    finally:
        trio.from_thread.run_sync(stop[0].set, trio_token=client._token)
        thread.join(timeout=5)
