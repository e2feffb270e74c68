"""Open requests: a gateway's book of what it has taken in and not yet answered.

Everything here is one gateway's own: instants are on its process's clock. The book is bounded in
requests and in payload bytes; what does not fit is refused `busy` by whoever asks.
"""

from collections.abc import Iterator
from typing import Final

import attrs
import trio

from cw.actors.clock import now_ns
from cw.config import GatewaySettings
from cw.messages import (
    NO_DEADLINE_NS,
    NO_TENANT,
    Answer,
    Attempt,
    ExecutorId,
    Failure,
    FailureKind,
    ModelSpec,
    Refusal,
    RefusalReason,
    RequestId,
    SettledAs,
    TenantId,
    Timing,
)
from cw.units import format_bytes, format_ms

_FIRST_ATTEMPT: Final = Attempt(1)


@attrs.define(eq=False, kw_only=True)
class OpenRequest:
    """A request between its arrival and its answer."""

    request_id: RequestId
    spec: ModelSpec
    arrival_ns: int
    deadline_ns: int
    """`NO_DEADLINE_NS` of a best-effort request."""
    tensors: tuple[bytes | memoryview, ...]
    """In the order of the model's inputs."""
    size_bytes: int
    tenant_id: TenantId = NO_TENANT
    attempt: Attempt = _FIRST_ATTEMPT
    promised: bool = False
    predicted_finish_ns: int = 0
    assigned_ns: int = 0
    """When the controller's word on its batch came."""
    executor_id: ExecutorId | None = None
    """Where the current attempt runs."""
    is_overdue: bool = False
    """It was ended because the deadline had come."""
    answer: Answer | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)

    def end(
        self,
        *,
        outputs: tuple[bytes | memoryview, ...] | None = None,
        refusal: Refusal | None = None,
        failure: Failure | None = None,
        device_ns: int = 0,
        lane_busy_ns: int = 0,
        batch_size: int = 0,
        executor_ns: int = 0,
        waited_ns: int = 0,
    ) -> None:
        """Fix the answer, with where its time went, and wake the call that waits for it."""
        assert self.answer is None, f"a second answer to request {self.request_id}"
        predicted_ns = self.predicted_finish_ns - self.arrival_ns if self.promised else 0
        self.answer = Answer(
            timing=Timing(
                total_ns=now_ns() - self.arrival_ns,
                predicted_ns=max(0, predicted_ns),
                device_ns=device_ns,
                lane_busy_ns=lane_busy_ns,
                batch_size=batch_size,
                assigned_ns=max(0, self.assigned_ns - self.arrival_ns),
                executor_ns=executor_ns,
                waited_ns=waited_ns,
            ),
            promised=self.promised,
            outputs=outputs,
            refusal=refusal,
            failure=failure,
            version=self.spec.version,
        )
        self.answered.set()

    def end_overdue(self) -> None:
        """End it because the deadline has come and nothing else has."""
        self.is_overdue = True
        slo = format_ms(self.deadline_ns - self.arrival_ns)
        if self.promised:
            message = f"promised, but the output was not there within the SLO of {slo}"
            self.end(failure=Failure(kind=FailureKind.LATE, message=message))
        else:
            message = f"no promise could be made within the SLO of {slo}"
            self.end(refusal=Refusal(reason=RefusalReason.OVERLOAD, message=message))

    @property
    def is_best_effort(self) -> bool:
        """Whether it has no SLO: it is never promised, and waits for as long as its caller does."""
        return self.deadline_ns == NO_DEADLINE_NS

    @property
    def settled_as(self) -> SettledAs | None:
        """How it was answered; None where that was the controller's own word."""
        if self.answer is not None and self.answer.outputs is not None:
            return SettledAs.KEPT
        return SettledAs.LATE if self.is_overdue else None


@attrs.define(eq=False)
class OpenRequests:
    """The book."""

    settings: GatewaySettings
    _by_id: dict[RequestId, OpenRequest] = attrs.field(factory=dict, init=False)
    _size_bytes: int = attrs.field(default=0, init=False)
    _best_effort: int = attrs.field(default=0, init=False)
    _best_effort_bytes: int = attrs.field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[OpenRequest]:
        """Go through the requests, oldest first; the book may change meanwhile."""
        return iter(tuple(self._by_id.values()))

    def full(self, size_bytes: int) -> Refusal | None:
        """Say why a request with a payload of `size_bytes` has no room, or None if it has."""
        settings = self.settings
        if (
            len(self._by_id) < settings.max_open_requests
            and self._size_bytes + size_bytes <= settings.max_open_bytes
        ):
            return None
        return Refusal(
            reason=RefusalReason.BUSY,
            message=(
                f"this gateway has {len(self._by_id)} requests "
                f"({format_bytes(self._size_bytes)}) open; its bounds are "
                f"{settings.max_open_requests} ({format_bytes(settings.max_open_bytes)}): "
                "retry later or use another gateway"
            ),
        )

    def full_of_best_effort(self, size_bytes: int) -> Refusal | None:
        """Say why one more best-effort request has no room, or None if it has.

        They wait for long, and leave room for those that can't.
        """
        settings = self.settings
        if (
            self._best_effort < settings.max_open_best_effort
            and self._best_effort_bytes + size_bytes <= settings.max_open_bytes // 2
        ):
            return self.full(size_bytes)
        return Refusal(
            reason=RefusalReason.QUEUE_FULL,
            message=(
                f"this gateway has {self._best_effort} best-effort requests "
                f"({format_bytes(self._best_effort_bytes)}) open; its bounds are "
                f"{settings.max_open_best_effort} ({format_bytes(settings.max_open_bytes // 2)}): "
                "wait for some answers before you ask for more, or ask with an SLO"
            ),
        )

    def add(self, request: OpenRequest) -> None:
        """Take in a request."""
        self._by_id[request.request_id] = request
        self._size_bytes += request.size_bytes
        if request.is_best_effort:
            self._best_effort += 1
            self._best_effort_bytes += request.size_bytes

    def remove(self, request: OpenRequest) -> None:
        """Forget a request: its call returns."""
        del self._by_id[request.request_id]
        self._size_bytes -= request.size_bytes
        if request.is_best_effort:
            self._best_effort -= 1
            self._best_effort_bytes -= request.size_bytes

    def rename(self, request: OpenRequest, request_id: RequestId) -> None:
        """Give a request another id: this gateway has got another one itself."""
        del self._by_id[request.request_id]
        request.request_id = request_id
        self._by_id[request_id] = request

    def waiting(self, request_id: RequestId) -> OpenRequest | None:
        """Find a request that still waits, whatever its attempt."""
        request = self._by_id.get(request_id)
        return request if request is not None and request.answer is None else None

    def current(self, request_id: RequestId, attempt: Attempt) -> OpenRequest | None:
        """Find a request that still waits and whose current attempt this is."""
        request = self.waiting(request_id)
        return request if request is not None and request.attempt == attempt else None

    def advance(self, request_id: RequestId, attempt: Attempt) -> OpenRequest | None:
        """Find a request that still waits, for the controller's word on an attempt.

        The controller alone begins attempts, and its first word on a new one may be any decision:
        from then on the earlier attempt is over. None if it is this attempt that is over.
        """
        request = self.waiting(request_id)
        if request is None or attempt < request.attempt:
            return None
        if attempt > request.attempt:
            request.attempt = attempt
            request.executor_id = None
        return request
