"""`cw doctor`: what it finds of a running cluster, by its status and its executors' records."""

import threading
import time
from functools import partial

import attrs
import pytest
import trio

from cw.doctor import cluster
from cw.doctor.cluster import ClusterFacts, RecordFacts
from cw.doctor.examination import _part
from cw.doctor.finding import Verdict, ok
from cw.doctor.gathering import cluster as gathering
from cw.errors import PeerDisconnected
from cw.messages import (
    CellStatus,
    ClusterStatus,
    Epoch,
    ExecutorId,
    ExecutorStatus,
    Ledger,
    ModelState,
    ModelStatus,
)
from cw.units import MS, SECOND
from tests.unit.record_lines import EPOCH, OFFSET_NS, record, write
from tests.unit.scheduler_world import spec

EXECUTOR = ExecutorStatus(
    executor_id=ExecutorId(1),
    name="executor-0",
    state="serving",
    device="cpu test",
    pages_total=4,
    pages_free=4,
    resident=(),
    utilisation=0.0,
)
STATUS = ClusterStatus(
    epoch=Epoch(EPOCH), queued=0, executors=(EXECUTOR,), models=(), ledger=Ledger(kept=1000)
)
RECORDS = RecordFacts(
    executor="executor-0",
    joins=1,
    clock_offset_ns=OFFSET_NS,
    clock_error_ns=100_000,
    runs=1000,
    overruns=3,
    worst_model="net",
)
FACTS = ClusterFacts(
    address="tcp:host:1",
    answer_ns=2 * MS,
    status=STATUS,
    http=(("http://host:2", ""),),
    executors_asked=1,
    records=(RECORDS,),
    span_s=600,
)


def status(**changes):
    return {"status": attrs.evolve(STATUS, **changes)}


def records(**changes):
    return {"records": (RECORDS, attrs.evolve(RECORDS, executor="executor-1", **changes))}


def cell(number, epoch):
    return CellStatus(cell=number, epoch=Epoch(epoch), executors=(), queued=0, ledger=Ledger())


CASES = [
    ({"status": None, "error": "refused"}, "gateway", "problem", "tools/devcluster up"),
    ({"answer_ns": 200 * MS}, "gateway", "warning", "top -H"),
    ({"http": (("http://host:2", "refused"),)}, "HTTP doors", "problem", "ss -ltnp"),
    (status(cells=(cell(0, 7), cell(1, 0))), "cells", "problem", "logs/controller"),
    (status(executors=()), "executors", "problem", "logs/executor"),
    ({"executors_asked": 2}, "executors", "warning", "logs/executor"),
    (
        status(ledger=Ledger(kept=97, broken=(("ranLong", 2), ("executorLost", 1)))),
        *("promises", "warning", "cw trace draw"),
    ),
    (records(clock_error_ns=3 * MS), "clocks", "warning", "ping"),
    (records(overruns=18), "estimates", "warning", "cw profile net"),
    (records(joins=3), "restarts", "warning", "logs/executor"),
]


def bad(facts):
    return [finding for finding in cluster.check(facts) if finding.verdict is not Verdict.OK]


def test_a_cluster_in_order_is_not_warned_of():
    """Whoever is warned for nothing stops reading warnings."""
    assert not bad(FACTS)


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "mend"),
    CASES,
    ids=[f"{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_one_fault_is_one_finding(changes, check, verdict, mend):
    """The one thing that is wrong is named alone, with what to do about it."""
    (finding,) = bad(attrs.evolve(FACTS, **changes))

    assert (finding.check, finding.verdict.value) == (check, verdict)
    assert mend in finding.mend


def test_a_failed_model_is_named_with_its_reason():
    """Among hundreds of models nobody finds the one that every request is refused for."""
    failed = ModelStatus(
        spec=attrs.evolve(spec(0), name="resnet"),
        state=ModelState.FAILED,
        steps_done=0,
        steps_total=1,
        profile=(),
        load_ns=0,
        detail="no room",
    )
    (finding,) = bad(attrs.evolve(FACTS, **status(models=(failed,))))

    assert "resnet (no room)" in finding.found
    assert finding.mend.startswith("cw model show resnet ")


def test_a_few_runs_prove_nothing():
    """One late run of ten is ten percent, and chance."""
    few = attrs.evolve(RECORDS, runs=10, overruns=1)

    assert not bad(attrs.evolve(FACTS, records=(few,)))


def test_what_is_not_known_here_is_said():
    """A cluster on other machines keeps its records there: silence would look like health."""
    findings = cluster.check(attrs.evolve(FACTS, records=None))

    assert "--folder" in findings[-1].found


def test_records_of_the_last_minutes_are_summed_up(tmp_path):
    """Older runs, other epochs, probes and what did not run say nothing of how it goes now."""
    now_ns = time.time_ns()
    late = [
        record(number, start_ns=SECOND * number, took_ns=3 * MS, executor_id=number, model="slow")
        for number in (1, 2)
    ]
    shown = [
        record(3, start_ns=3 * SECOND, clock_error_ns=6 * MS - 4000),
        record(4, start_ns=4 * SECOND, slots=0, took_ns=9 * MS),
        record(5, start_ns=5 * SECOND, outcome="tooLate", took_ns=9 * MS),
    ]
    old = record(0, start_ns=-2 * gathering.SPAN_S * SECOND, took_ns=9 * MS, executor_id=99)
    dated = [
        attrs.evolve(each, date_ns=now_ns - 5 * SECOND + each.start_ns)
        for each in (old, *late, *shown)
    ]
    write(tmp_path / "logs" / "executor-0.actions.jsonl", *dated)
    write(tmp_path / "logs" / "gone.actions.jsonl", record(epoch=EPOCH - 1, executor="gone"))

    assert gathering.read_records(tmp_path, STATUS) == (
        RecordFacts(
            executor="executor-0",
            joins=2,
            clock_offset_ns=OFFSET_NS,
            clock_error_ns=6 * MS // 5,  # of five records, four of which say 1000
            runs=3,
            overruns=2,
            worst_model="slow",
        ),
    )


async def test_a_gateway_that_says_nothing_is_given_up(autojump_clock):
    """A stopped process must not hang the command that is to find it."""

    class Silent:
        async def __aenter__(self):
            await trio.sleep_forever()

        async def __aexit__(self, *_):
            raise AssertionError("it was never entered")

    facts = await gathering.cluster("tcp:host:1", Silent, folder=None)

    assert facts.status is None
    assert facts.error == "nothing came from tcp:host:1 within 5 s"


async def test_why_a_gateway_cannot_be_asked_is_kept():
    """The client's own words say what to do: they must reach the report."""

    class Gone:
        async def __aenter__(self):
            raise PeerDisconnected("nothing listens there")

        async def __aexit__(self, *_):
            raise AssertionError("it was never entered")

    facts = await gathering.cluster("tcp:host:1", Gone, folder=None)

    assert (facts.status, facts.error) == (None, "nothing listens there")


async def test_an_http_door_is_tried():
    """A gateway may serve by one door and have lost the other's port to somebody else."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_tcp, trio.aclose_forcefully, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        open_error = await gathering.http_error(url)
        nursery.cancel_scope.cancel()

    assert open_error == ""
    assert await gathering.http_error(url) != ""


async def test_a_part_that_fails_or_hangs_is_a_finding():
    """A dead disk must not hide what all other parts would have found."""

    def fails():
        raise OSError(5, "Input/output error")

    never = threading.Event()
    failed = await _part("memory", fails, lambda facts: (ok("memory", "fine"),))
    hanging = await _part("memory", never.wait, lambda facts: (), within_s=0.05)
    never.set()

    assert "Input/output error" in failed[0].found
    assert "no answer within 0.05 s" in hanging[0].found
    assert {failed[0].verdict, hanging[0].verdict} == {Verdict.WARNING}
