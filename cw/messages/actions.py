"""What the controller orders an executor to do, and what the executor measured of it."""

import enum
from typing import ClassVar

import attrs

from cw.messages.ids import ActionId, Attempt, Epoch, ModelId, RequestId, TenantId, Ticket
from cw.messages.models import ModelSpec


@attrs.frozen(kw_only=True)
class Window:
    """Bounds on an action's *start*, both ends included."""

    earliest_ns: int
    latest_ns: int

    def __attrs_post_init__(self) -> None:
        assert self.earliest_ns <= self.latest_ns, f"empty window {self}"


@attrs.frozen(kw_only=True)
class Slot:
    """One request's place in a batch; its position is its index in `Infer.slots`."""

    request_id: RequestId
    attempt: Attempt
    deadline_ns: int
    tenant_id: TenantId = TenantId(0)
    """Who pays for its part of the batch."""


@attrs.frozen(kw_only=True)
class Prepare:
    """Load a model's program, reserve its addresses and open its image: once, at registration.

    An action like the others, on the INFER lane, since loading a program takes long (0.3-2 s) and
    would disturb what runs beside it.
    """

    action_id: ActionId
    model: ModelSpec
    planned_start_ns: int
    expected_ns: int
    window: Window


@attrs.frozen(kw_only=True)
class Load:
    """Copy a model's weights into free pages."""

    action_id: ActionId
    model_id: ModelId
    planned_start_ns: int
    expected_ns: int
    window: Window


@attrs.frozen(kw_only=True)
class Unload:
    """Free a model's pages. `forget` also drops what PREPARE made: the model was removed."""

    action_id: ActionId
    model_id: ModelId
    forget: bool = False
    planned_start_ns: ClassVar[int] = 0
    """It has no plan: it is done when its turn comes, and takes next to nothing."""
    expected_ns: ClassVar[int] = 0


@attrs.frozen(kw_only=True)
class Infer:
    """Run one batch. With no slots it is a *probe*: random inputs, run to be measured."""

    action_id: ActionId
    model_id: ModelId
    batch_size: int
    """The captured size that runs; `len(slots)` of it are requests, the rest is padding."""
    slots: tuple[Slot, ...]
    ticket: Ticket
    planned_start_ns: int
    """When it should start, as was foreseen at its sending. The executor reports it beside what
    came true and is not bound by it: the window is what binds."""
    expected_ns: int
    """How long it should take; so its planned end is `planned_start_ns + expected_ns`."""
    window: Window


Action = Prepare | Load | Unload | Infer


class Outcome(enum.Enum):
    """How an action ended. Everything but OK left the device as it was."""

    OK = "ok"
    TOO_LATE = "tooLate"
    """Its window had closed before it could start."""
    INPUTS_LATE = "inputsLate"
    """No inputs had come by `latest`."""
    NOT_RESIDENT = "notResident"
    PAGES_EXHAUSTED = "pagesExhausted"
    UNKNOWN_MODEL = "unknownModel"
    CANCELLED = "cancelled"
    """Every slot was cancelled before the start."""
    STALE_EPOCH = "staleEpoch"
    INVALID = "invalid"
    """The program or image could not be prepared: `ActionResult.detail` says why."""
    DEVICE_FAULT = "deviceFault"
    HOST_MEMORY_FULL = "hostMemoryFull"
    """No room for the model's image beside those of others: another executor may have some."""


@attrs.frozen(kw_only=True)
class ActionResult:
    """One action's end, planned and measured. Instants are cluster time.

    They were read on the executor's own clock, which `local_ns` leads back to.
    """

    action_id: ActionId
    outcome: Outcome
    received_ns: int
    """When the executor had the action."""
    ready_ns: int
    """When its last inputs came (`received_ns` for actions without)."""
    start_ns: int
    end_ns: int
    device_ns: int
    """Duration on the device alone; what profiles learn from. 0 unless OK."""
    running_ns: int = 0
    """Of `device_ns`, the time that the device's own thread was on a processor: the difference is
    the machine's doing, not the model's. Equal to `device_ns` where it can't be told."""
    planned_start_ns: int = 0
    """As ordered; 0 for an UNLOAD, which has no plan."""
    expected_ns: int = 0
    """As ordered; 0 for an UNLOAD."""
    clock_offset_ns: int = 0
    """Cluster time less the executor's clock, as these instants were converted."""
    clock_error_ns: int = 0
    """By how much that offset may have been wrong, either way."""
    ran: tuple[bool, ...] = ()
    """Per slot: its inputs were there and it ran."""
    detail: str = ""

    @property
    def planned_end_ns(self) -> int:
        """When it should have ended; 0 for an UNLOAD."""
        return self.planned_start_ns + self.expected_ns

    def local_ns(self, cluster_ns: int) -> int:
        """Say what the executor's own clock showed at one of these instants."""
        return cluster_ns - self.clock_offset_ns


@attrs.frozen(kw_only=True)
class CancelSlot:
    """A gateway's caller went away: leave its position out if the action has not started."""

    request_id: RequestId
    attempt: Attempt


@attrs.frozen(kw_only=True)
class Orders:
    """Controller to executor, many to a message."""

    epoch: Epoch
    actions: tuple[Action, ...] = ()
    cancels: tuple[CancelSlot, ...] = ()
