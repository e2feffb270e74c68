"""Books: what the controller knows of models, executors and each model on each executor.

The concept: plain state with one owner, the scheduler. No decision is made here; the only logic is
what keeps a count or an index in step.

Neighbours: `scheduler.py` keeps them, policies read and plan in them.
"""

import enum
import math
from collections import deque
from typing import TYPE_CHECKING, Final

import attrs

from cw.config import SchedulerSettings
from cw.core.durations import DurationWindow
from cw.core.pages import EvictionOrder, PageBooks, Popularity
from cw.core.plan import ExecutorPlan, PlannedBatch
from cw.core.profile import CostTable, DeviceKey, Profiles, device_key
from cw.core.queues import ModelQueue
from cw.core.requests import Request
from cw.core.residency import Residency
from cw.core.timeline import PIPE_STALE_NS, Lane, PipeDelay
from cw.core.work import Work
from cw.messages import (
    DeviceDescription,
    ExecutorId,
    GatewayId,
    ModelId,
    ModelSpec,
    ModelState,
    RequestId,
    TenantId,
)
from cw.units import MS

if TYPE_CHECKING:
    from cw.core.policies.selection import Candidate

RATE_DECAY_NS: Final = 200 * MS
"""Arrivals count 1/e in a model's rate after this long: a few SLOs, so that bursts are seen."""


def _delivery_window() -> DurationWindow:
    return DurationWindow(256, 0.99)


class Stage(enum.Enum):
    """How far a model has come on an executor; `registration.py` has the table."""

    NEW = "new"
    PREPARING = "preparing"
    PREPARED = "prepared"
    PROBING = "probing"
    READY = "ready"
    FAILED = "failed"


@attrs.define(eq=False)
class ArrivalRate:
    """How often a model is asked for, in the recent past."""

    _count: float = 0.0
    _at_ns: int = 0

    def count(self, *, now_ns: int) -> None:
        """Count one arrival."""
        self._count = 1.0 + self._count * math.exp((self._at_ns - now_ns) / RATE_DECAY_NS)
        self._at_ns = now_ns

    @property
    def last_ns(self) -> int:
        """When the last one was counted; long ago if none was."""
        return self._at_ns if self._count else -(1 << 62)

    @property
    def per_ns(self) -> float:
        """Arrivals per ns, as of the last one."""
        return self._count / RATE_DECAY_NS


@attrs.define(eq=False)
class ModelBooks:
    """One model of the catalog."""

    spec: ModelSpec
    state: ModelState = ModelState.REGISTERING
    detail: str = ""
    removed: bool = False
    queue: ModelQueue = attrs.field(factory=ModelQueue)
    places: "dict[ExecutorId, Place]" = attrs.field(factory=dict)
    serving: "list[Place]" = attrs.field(factory=list)
    """Its places that are READY and whose weights are, or will be, in pages."""
    turn: int = 0
    """Where the next look at `serving` begins, so that many replicas share the load."""
    revision: int = 0
    """Counts the changes of `queue` and `serving`, for those who remember what they found there."""
    popularity: Popularity = attrs.field(factory=Popularity)
    rate: ArrivalRate = attrs.field(factory=ArrivalRate)
    open: int = 0
    """Promised requests that are planned or committed, or wait for a place."""
    in_flight: int = 0
    """Actions of this model that were sent and not answered."""
    asked_ns: int = 0
    """When it was last seen cold or short of room, and executors were looked at for it."""
    missed_ns: int = 0
    """When a request of it was last refused for being cold."""
    looked_at: int = 0
    """Where the next look at `places` begins, so that a few are looked at, others each time."""

    @property
    def model_id(self) -> ModelId:
        """Its id."""
        return self.spec.model_id


def unknown_model() -> ModelBooks:
    """Stand in for the model of a request that names none."""
    spec = ModelSpec(
        model_id=ModelId(0),
        name="unknown",
        program_sha256="",
        weights_sha256="",
        image_bytes=0,
        inputs=(),
        outputs=(),
        batch_sizes=(1,),
    )
    return ModelBooks(spec)


@attrs.define(eq=False)
class Place:
    """One model on one executor."""

    model: ModelBooks
    executor: "ExecutorBooks"
    costs: CostTable
    stage: Stage = Stage.NEW
    residency: Residency = Residency.COLD
    warm_ns: int = 0
    """When the LOAD is expected to have ended; meaningful while LOADING or WARM."""
    lacked_room: bool = False
    """It FAILED since the executor's host memory was full: others of its kind may have room."""
    batches: list[PlannedBatch] = attrs.field(factory=list)
    in_flight: int = 0
    probes: list[int] = attrs.field(factory=list)
    """Batch sizes still to be probed, in order."""
    probes_done: int = 0
    probes_total: int = 0
    warm_ups: int = 0
    """How many runs of a size are thrown away."""
    retries: int = 0
    doubted_ns: int = 0
    """When its estimates were last in doubt."""
    rechecked_ns: list[int] = attrs.field(factory=list)
    """Durations measured in the doubt that is being cleared, of the batch size at hand."""
    growing_until_ns: int = 0
    """Until when newcomers will join the batches that are planned here, as the last walk found."""

    unused: bool = False
    """Nothing has run here since its weights were loaded."""
    offer: "Candidate | None" = None
    """The best batch of those who wait, as `policies/selection.py` found it last."""
    serves: bool = False
    """It is in `ModelBooks.serving`."""

    def expected_arrivals(self, wait_ns: int) -> int:
        """Guess how many requests will come to this place in the next `wait_ns`."""
        if wait_ns <= 0:
            return 0
        rate = self.model.rate.per_ns / max(1, len(self.model.serving))
        return int(rate * wait_ns + 0.5)

    def serve_if_ready(self) -> None:
        """Enter the model's serving places when it can be planned for here."""
        ready = self.stage is Stage.READY and self.residency is not Residency.COLD
        # Also of a removed model: what was promised of it may need a new place to finish in.
        if ready and not self.serves:
            self.serves = True
            self.model.serving.append(self)
            self.model.revision += 1
            if self.model.queue:
                self.executor.waiting[self.model.spec.model_id] = self

    def stop_serving(self) -> None:
        """Leave the model's serving places."""
        if self.serves:
            self.serves = False
            self.model.serving.remove(self)
            self.model.revision += 1
            self.executor.waiting.pop(self.model.spec.model_id, None)

    @property
    def in_use(self) -> bool:
        """Whether promised or committed work needs its weights."""
        return bool(self.batches) or self.in_flight > 0

    @property
    def is_cold(self) -> bool:
        """Whether a LOAD would make it one that serves."""
        return self.stage is Stage.READY and self.residency is Residency.COLD


@attrs.define(eq=False)
class ExecutorBooks:
    """One executor, as far as its answers and our orders tell."""

    executor_id: ExecutorId
    name: str
    device: DeviceDescription
    pages: PageBooks
    pipe: PipeDelay
    infer: Lane[Work] = attrs.field(factory=lambda: Lane[Work]())
    load: Lane[Work] = attrs.field(factory=lambda: Lane[Work]())
    plan: ExecutorPlan = attrs.field(factory=ExecutorPlan)
    eviction: EvictionOrder = attrs.field(factory=EvictionOrder)
    places: dict[ModelId, Place] = attrs.field(factory=dict)
    prepared: set[ModelId] = attrs.field(factory=set)
    """Told when it joined, of models that this controller does not know yet."""
    resident: set[ModelId] = attrs.field(factory=set)
    bring_up: deque[Place] = attrs.field(factory=deque)
    """Places still to be prepared and probed, in order."""
    waiting_since_ns: int | None = None
    """Since when the first of `bring_up` waits for a gap."""
    wake_ns: int | None = None
    """When to look at it again if nothing happens before."""
    due_ns: int = 0
    """Until then its INFER lane has enough to do; 0 when that is not known."""
    freed: bool = False
    """Lane time came free, so those who wait may fit now."""
    waiting: dict[ModelId, Place] = attrs.field(factory=dict)
    """Places that serve models with somebody in their queue."""
    pressed: bool = False
    """At the last choice some batch was left out for want of time: see `policies/selection.py`."""
    price: float = 0.0
    """What a new batch must be worth, as a share of `best_worth`: see `policies/opening.py`."""
    best_worth: float = 0.0
    """What those that ran lately are worth at best, per ns of lane time."""
    wanted: dict[ModelId, Place] = attrs.field(factory=dict)
    """Cold places that requests wait for; what is out of date is left out when it is looked at."""
    short: dict[ModelId, Place] = attrs.field(factory=dict)
    """Cold places of models that want a replica here; likewise."""
    missed: dict[ModelId, Place] = attrs.field(factory=dict)
    """Cold places of models that a request was refused for; likewise."""
    fresh: dict[ModelId, Place] = attrs.field(factory=dict)
    """Cold places of models that were never warm anywhere; likewise."""
    pinned: dict[ModelId, Place] = attrs.field(factory=dict)
    """Cold places of pinned models that are resident nowhere; likewise (`standing.py`)."""
    quiescing: bool = False
    """Nothing new is planned here until the plan is empty, so that `bring_up` gets its turn."""
    warm_programs: set[str] = attrs.field(factory=set)
    key: DeviceKey = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.key = device_key(self.device)
        if self.device.shared_lanes:
            self.load = self.infer

    @property
    def has_cold(self) -> bool:
        """Whether something could be loaded here that no request waits for."""
        return bool(self.short or self.missed or self.fresh or self.pinned)

    @property
    def cold_indexes(self) -> "tuple[dict[ModelId, Place], ...]":
        """All that name a place that could be loaded here."""
        return self.wanted, self.short, self.missed, self.fresh, self.pinned

    def start_ns(self, now_ns: int) -> int:
        """Predict when the next action that is sent to the INFER lane could start."""
        pipe, lane = self.pipe, self.infer  # asked some ten times per request: written for speed
        if now_ns > pipe.stale_ns:
            pipe.refresh(now_ns=now_ns)
        free_ns = lane.ended_ns
        if lane.outstanding:
            free_ns = lane.free_ns(now_ns=now_ns, return_ns=pipe.return_ns)
        ready_ns = now_ns + pipe.delay_ns
        return max(free_ns, ready_ns)

    def load_start_ns(self, now_ns: int) -> int:
        """Predict when the next LOAD that is sent could start."""
        free_ns = self.load.free_ns(now_ns=now_ns, return_ns=self.pipe.return_ns)
        return max(free_ns, now_ns + self.pipe.delay_ns)


@attrs.define(eq=False)
class Books:
    """Everything that the scheduler knows."""

    settings: SchedulerSettings
    profiles: Profiles
    models: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    executors: dict[ExecutorId, ExecutorBooks] = attrs.field(factory=dict)
    requests: dict[RequestId, Request] = attrs.field(factory=dict)
    delivery: DurationWindow = attrs.field(factory=_delivery_window)
    """From an action's end to its answer, as gateways report it."""
    allowance_ns: int = attrs.field(init=False)
    """Aim so long before each deadline: the margin, or what delivery was seen to take."""
    delivered_at_ns: int = 0
    """When the last of these was learnt."""
    waiting: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Models with somebody in their queue."""
    waiting_count: int = 0
    promised_waiting: int = 0
    """Those of them that were promised, and lost their place."""
    fresh: list[Request] = attrs.field(factory=list)
    """Planned in this step, perhaps still to be told of."""
    tenant_weights: dict[TenantId, float] = attrs.field(factory=dict)
    """Of those that the administrator gave one other than 1; see `standing.py`."""
    pinned: set[str] = attrs.field(factory=set)
    """Names of models that are to stay resident."""
    given_up: list[Request] = attrs.field(factory=list)
    """Waiting requests that the policy wants to `decide` about in this step, before their time."""
    dirty: dict[ExecutorId, ExecutorBooks] = attrs.field(factory=dict)
    """Executors to be looked at before this step ends."""
    doubtful: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Models of which requests were refused in this step by what their estimates say."""
    leaving: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Removed models to be forgotten in this step if nothing of them is left."""
    cramped: dict[ModelId, ModelBooks] = attrs.field(factory=dict)
    """Models to be made known on one more executor: those that know them have no room."""

    def __attrs_post_init__(self) -> None:
        self._aim()

    def _aim(self) -> None:
        margin_ns = self.settings.margin_ns
        self.allowance_ns = max(margin_ns, self.delivery.estimate_ns + margin_ns // 2)

    def learn_delivery(self, duration_ns: int, *, now_ns: int) -> None:
        """Learn how long after its action's end an answer was handed over."""
        if self.delivery.add(duration_ns):
            self._aim()
        self.delivered_at_ns = now_ns

    def forget_stale_delivery(self, now_ns: int) -> None:
        """Give up what nothing has confirmed for long, as `PipeDelay.refresh` does."""
        if self.delivered_at_ns and now_ns - self.delivered_at_ns > PIPE_STALE_NS:
            self.delivery, self.delivered_at_ns = _delivery_window(), 0
            self._aim()

    def enqueue(self, request: Request) -> None:
        """Let a request wait in its model's queue."""
        model = request.model
        if not model.queue:
            model_id = model.spec.model_id
            self.waiting[model_id] = model
            for place in model.serving:
                place.executor.waiting[model_id] = place
        model.revision += 1
        model.queue.add(request)
        self.waiting_count += 1
        self.promised_waiting += request.promised

    def dequeue(self, request: Request) -> None:
        """Take a waiting request out of its model's queue."""
        model = request.model
        model.revision += 1
        model.queue.remove(request)
        self.waiting_count -= 1
        self.promised_waiting -= request.promised
        if not model.queue:
            model_id = model.spec.model_id
            del self.waiting[model_id]
            for place in model.serving:
                del place.executor.waiting[model_id]

    def open_of(self, gateway_id: GatewayId) -> list[Request]:
        """Find a gateway's open requests; only after its loss, since it looks at all."""
        return [each for each in self.requests.values() if each.gateway_id == gateway_id]
