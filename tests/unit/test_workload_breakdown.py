"""Added latency, step by step: its parts add up, and waiting for others is no part of it."""

from hypothesis import given

from cw.client import Result
from cw.messages import Refusal, RefusalReason, Timing
from cw.units import MS
from cw.workload.breakdown import STEPS, Steps, breakdown, breakdown_table, steps_of
from cw.workload.client import End, Planned, Sent
from cw.workload.report import added_latency_ns
from tests import strategies


def kept(latency_ns, timing):
    return Sent(
        planned=Planned(at_ns=0, model="m", inputs={}),
        scheduled_ns=0,
        lateness_ns=0,
        latency_ns=latency_ns,
        end=End.KEPT,
        reason="",
        result=Result(timing=timing, promised=True, outputs={}),
    )


def test_alone_each_step_is_what_its_process_measured():
    """One request, nobody else's work: 1 + 2 + 3 + 4 + 5 ms beside 10 ms on the device."""
    timing = Timing(
        total_ns=24 * MS,
        device_ns=10 * MS,
        assigned_ns=2 * MS,
        executor_ns=19 * MS,
        waited_ns=4 * MS,
    )
    assert steps_of(25 * MS, timing) == Steps(
        client=1 * MS, decision=2 * MS, payload=3 * MS, start=4 * MS, end=5 * MS
    )


def test_others_work_is_taken_off_the_executors_wait_and_then_off_the_decision():
    """7 ms of others' work: 4 ms of them in the executor, the other 3 ms before it was assigned."""
    timing = Timing(
        total_ns=20 * MS,
        device_ns=5 * MS,
        lane_busy_ns=7 * MS,
        assigned_ns=4 * MS,
        executor_ns=10 * MS,
        waited_ns=4 * MS,
    )
    steps = steps_of(21 * MS, timing)
    assert (steps.decision, steps.start) == (1 * MS, 0)


@given(strategies.durations, strategies.timings())
def test_the_steps_add_up_to_the_added_latency(latency_ns, timing):
    """Whatever the processes say, no time is lost between the rows or counted twice."""
    steps = steps_of(latency_ns, timing)
    added_ns = added_latency_ns(kept(latency_ns, timing))
    assert sum(getattr(steps, name) for name, _ in STEPS) == added_ns


def test_only_what_was_answered_in_time_counts():
    """A refusal has no steps; a load without answers has no breakdown."""
    refusal = Refusal(reason=RefusalReason.OVERLOAD, message="")
    refused = Sent(
        planned=Planned(at_ns=0, model="m", inputs={}),
        scheduled_ns=0,
        lateness_ns=0,
        latency_ns=1 * MS,
        end=End.REFUSED,
        reason="overload",
        result=Result(timing=Timing(total_ns=1 * MS), promised=False, refusal=refusal),
    )
    assert breakdown([refused]) == {}
    rows = breakdown([refused, kept(2 * MS, Timing(total_ns=1 * MS, assigned_ns=1 * MS))])
    assert rows["client"] == {"p50": 1.0, "p99": 1.0, "share": 0.5}
    assert rows["all"] == {"p50": 2.0, "p99": 2.0, "share": 1.0}
    assert breakdown_table(rows).row_count == len(STEPS) + 1
