"""The ledger: each request counted once, each broken promise explained."""

import pytest

from cw.core import ledger
from cw.core.ledger import Tally, cause_of
from cw.messages import ActionId, ActionResult, FailureKind, Outcome, RefusalReason
from cw.units import MS


def result(**changes):
    known = {
        "action_id": ActionId(1),
        "outcome": Outcome.OK,
        "received_ns": 0,
        "ready_ns": 0,
        "start_ns": 0,
        "end_ns": 20 * MS,
        "device_ns": 5 * MS,
        "running_ns": 5 * MS,
    }
    return ActionResult(**{**known, **changes})


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"outcome": Outcome.INPUTS_LATE, "device_ns": 0}, ledger.INPUTS_LATE),
        ({"outcome": Outcome.TOO_LATE, "device_ns": 0}, ledger.STARTED_LATE),
        ({"end_ns": 9 * MS}, ledger.DELIVERED_LATE),
        ({"start_ns": 15 * MS}, ledger.STARTED_LATE),
        ({"device_ns": 20 * MS, "running_ns": 20 * MS}, ledger.RAN_LONG),
        ({"device_ns": 20 * MS, "running_ns": 6 * MS}, ledger.PREEMPTED),
    ],
)
def test_each_cause_is_told_from_the_measured_times(changes, cause):
    """Without the true cause an operator mends the wrong thing."""
    found = cause_of(result(**changes), expected_ns=5 * MS, planned_start_ns=0, deadline_ns=10 * MS)

    assert found == cause


def test_every_end_is_counted_and_sums_up():
    """requests = kept + refused + broken + failed, or something was lost."""
    tally = Tally()
    for _ in range(4):
        tally.arrived()
    tally.keep()
    tally.refuse(RefusalReason.OVERLOAD, at_arrival=True)
    tally.break_promise(ledger.RAN_LONG)
    tally.fail(FailureKind.CANCELLED)
    shown = tally.snapshot()

    assert tally.requests == tally.ended == 4
    assert (shown.kept, shown.refused, shown.broken, shown.failed) == (
        1,
        (("overload", 1),),
        (("ranLong", 1),),
        (("cancelled", 1),),
    )
    assert tally.refused_at_arrival == 1


def test_a_snapshot_does_not_change():
    """`cw status` shows one instant, not a moving target."""
    tally = Tally()
    shown = tally.snapshot()
    tally.arrived()

    assert shown.requests == 0


def test_mispredictions_are_signed():
    """Early and late mean different things: the one wastes room, the other breaks promises."""
    tally = Tally()
    for error_ms in range(-5, 6):
        tally.predicted(predicted_end_ns=10 * MS, end_ns=(10 + error_ms) * MS)

    assert tally.misprediction_ns(0.5) == 0
    assert tally.misprediction_ns(0.0) == -5 * MS
