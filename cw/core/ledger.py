"""The ledger: what became of every request, and how good the predictions were.

The concept: each request is counted once when it comes and once when it ends, as kept, refused,
broken or failed. A promise broken is explained by its cause, found by comparing what the action was
expected to do with what it did; the first that applies of:

=================  ==============================================================================
``executorLost``   some attempt was lost with its executor
``inputsLate``     the inputs had not come when the action had to start
``deliveredLate``  the action ended in time, its answer did not arrive in time
``startedLate``    it was not started in time, or started later than planned by more than it ran
                   longer than estimated
``preempted``      it ran longer than estimated, since its thread was off the processor
``ranLong``        it ran longer than estimated
=================  ==============================================================================

Neighbours: `scheduler.py` reports ends; `status()` shows a snapshot.
"""

from collections import Counter, deque
from typing import Final

import attrs

from cw.messages import ActionResult, FailureKind, Ledger, Outcome, RefusalReason

ERRORS_REMEMBERED: Final = 4096

EXECUTOR_LOST: Final = "executorLost"
INPUTS_LATE: Final = "inputsLate"
DELIVERED_LATE: Final = "deliveredLate"
PREEMPTED: Final = "preempted"
RAN_LONG: Final = "ranLong"
STARTED_LATE: Final = "startedLate"


def cause_of(
    result: ActionResult, *, expected_ns: int, planned_start_ns: int, deadline_ns: int
) -> str:
    """Say why a request that rode in an action will be late, if it is.

    Args:
        result: The action's end, as measured.
        expected_ns: What it was expected to take on the device.
        planned_start_ns: When it was expected to start.
        deadline_ns: The request's deadline.
    """
    if result.outcome is Outcome.INPUTS_LATE:
        return INPUTS_LATE
    if result.outcome is not Outcome.OK:
        return STARTED_LATE
    if result.end_ns <= deadline_ns:
        return DELIVERED_LATE
    over_ns = result.device_ns - expected_ns
    if over_ns <= max(0, result.start_ns - planned_start_ns):
        return STARTED_LATE
    off_processor_ns = result.device_ns - result.running_ns
    return PREEMPTED if 2 * off_processor_ns >= over_ns else RAN_LONG


@attrs.define(eq=False)
class Tally:
    """The counts, and the predictions' errors."""

    requests: int = 0
    kept: int = 0
    refused: Counter[str] = attrs.field(factory=Counter)
    refused_at_arrival: int = 0
    broken: Counter[str] = attrs.field(factory=Counter)
    failed: Counter[str] = attrs.field(factory=Counter)
    _errors: deque[int] = attrs.field(factory=lambda: deque(maxlen=ERRORS_REMEMBERED))

    def arrived(self) -> None:
        """Count a request's arrival."""
        self.requests += 1

    def keep(self) -> None:
        """Count an answer in time."""
        self.kept += 1

    def refuse(self, reason: RefusalReason, *, at_arrival: bool) -> None:
        """Count a refusal."""
        self.refused[reason.value] += 1
        self.refused_at_arrival += at_arrival

    def break_promise(self, cause: str) -> None:
        """Count a promise that was not kept."""
        self.broken[cause] += 1

    def fail(self, kind: FailureKind | str) -> None:
        """Count a request that was never promised and could not be served."""
        self.failed[kind.value if isinstance(kind, FailureKind) else kind] += 1

    def predicted(self, *, predicted_end_ns: int, end_ns: int) -> None:
        """Learn one misprediction: actual minus predicted end of an INFER."""
        self._errors.append(end_ns - predicted_end_ns)

    def misprediction_ns(self, quantile: float) -> int:
        """Read a quantile of the last mispredictions (signed, ns)."""
        ordered = sorted(self._errors)
        return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0

    @property
    def ended(self) -> int:
        """Count the requests that ended."""
        return self.kept + self.refused.total() + self.broken.total() + self.failed.total()

    def snapshot(self) -> Ledger:
        """Copy the counts."""
        return Ledger(
            requests=self.requests,
            kept=self.kept,
            refused=tuple(sorted(self.refused.items())),
            broken=tuple(sorted(self.broken.items())),
            failed=tuple(sorted(self.failed.items())),
        )
