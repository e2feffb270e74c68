"""Telemetry: every action leaves a line, the documentation knows its columns, nothing waits."""

import json
import re
import time
from pathlib import Path

import attrs
import trio

from cw.actors import telemetry
from cw.actors.clock import now_ns
from cw.actors.telemetry import ActionRecord, Telemetry
from cw.units import SECOND
from tests.actor.fakes import MODEL, running_executor

DOCUMENT = Path(__file__).parents[2] / "docs" / "telemetry.md"


def record(action_id):
    values = {field.name: 0 for field in attrs.fields(ActionRecord)}
    return ActionRecord(**values | {"action_id": action_id, "kind": "INFER", "detail": "x" * 100})


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_column_is_documented_and_no_other():
    """Whoever reads a trace in a year has only the page to go by."""
    documented = re.findall(r"^\| `(\w+)` \|", DOCUMENT.read_text(), re.MULTILINE)

    assert documented == [field.name for field in attrs.fields(ActionRecord)]


async def test_an_executor_leaves_a_line_for_every_action(tmp_path):
    """On the real clock, since a thread writes: an incomplete trace misleads."""
    path = tmp_path / "actions.jsonl"
    async with running_executor(telemetry=Telemetry(path)) as rig:
        await rig.warm()
        control = rig.controller
        control.order(control.infer(1, [7], latest_ns=30 * SECOND), control.unload(2))
        await rig.port.infer(control.inputs(1, {0: 7}))
        await control.result(2)

    lines = {line["action_id"]: line for line in lines_of(path)}
    assert [line["kind"] for line in lines.values()] == ["PREPARE", "LOAD", "INFER", "UNLOAD"]
    infer = lines[1]
    assert (infer["outcome"], infer["slots"], infer["ran"]) == ("ok", 1, 1)
    assert infer["received_ns"] <= infer["ready_ns"] <= infer["start_ns"] < infer["end_ns"]
    assert 0 < infer["device_ns"] <= infer["end_ns"] - infer["start_ns"]
    assert [line["model"] for line in lines.values()] == [MODEL.name] * 4
    assert {(line["executor"], line["device"]) for line in lines.values()} == {("e1", "fake fake")}


async def test_plan_and_truth_lie_side_by_side_in_both_clocks(tmp_path):
    """Where a promise broke is seen only if what was foreseen is told beside what came true."""
    path = tmp_path / "actions.jsonl"
    before = now_ns()
    async with running_executor(telemetry=Telemetry(path)) as rig:
        await rig.warm()
        control = rig.controller
        order = control.infer(1, [7], latest_ns=30 * SECOND)
        control.order(order, control.unload(2))
        await rig.port.infer(control.inputs(1, {0: 7}))
        result, unload = await control.result(1), await control.result(2)

    line = next(line for line in lines_of(path) if line["action_id"] == 1)
    told = [result.planned_start_ns, result.planned_end_ns, result.start_ns, result.end_ns]
    assert told == [
        line[name] for name in ("planned_start_ns", "planned_end_ns", "start_ns", "end_ns")
    ]
    assert told[:2] == [order.planned_start_ns, order.planned_start_ns + order.expected_ns]
    assert before < result.local_ns(result.start_ns) < result.local_ns(result.end_ns) < now_ns()
    assert abs(line["clock_offset_ns"] - control.ahead_ns) <= line["clock_error_ns"]
    assert abs(time.time_ns() - line["date_ns"]) < 60 * SECOND
    assert (unload.planned_start_ns, unload.planned_end_ns) == (0, 0)


async def test_an_action_that_is_not_even_queued_leaves_a_line(tmp_path):
    """What a full executor turned away is missed first by whoever looks for a broken promise."""
    path = tmp_path / "actions.jsonl"
    async with running_executor(telemetry=Telemetry(path)) as rig:
        await rig.warm()
        rig.controller.order(rig.controller.infer(1), epoch=99)
        await rig.controller.result(1)

    line = lines_of(path)[-1]
    assert (line["action_id"], line["outcome"], line["ran"]) == (1, "staleEpoch", 0)
    assert line["detail"]


async def test_what_does_not_fit_is_dropped_and_counted(tmp_path, monkeypatch):
    """A slow disk must cost records, never a lane's time or the executor's memory."""
    monkeypatch.setattr(telemetry, "_WAITING_RECORDS_MAX", 2)
    drain = Telemetry(tmp_path / "actions.jsonl")
    for action_id in range(5):
        drain.record(record(action_id))
    with trio.move_on_after(0.05):
        await drain.run()

    assert drain.dropped_count == 3
    assert [line["action_id"] for line in lines_of(tmp_path / "actions.jsonl")] == [0, 1]


async def test_a_full_file_makes_way_once(tmp_path, monkeypatch):
    """An executor runs for months on one disk."""
    monkeypatch.setattr(telemetry, "_FILE_BYTES_MAX", 1000)
    path = tmp_path / "actions.jsonl"
    drain = Telemetry(path)
    for batch in range(4):
        drain.record(record(batch))
        drain.record(record(batch))
        with trio.CancelScope() as scope:
            scope.cancel()
            await drain.run()

    assert sorted(tmp_path.iterdir()) == [path.with_name("actions.jsonl.1")]
    assert path.with_name("actions.jsonl.1").stat().st_size < 2000


async def test_a_disk_that_fails_costs_records_only(tmp_path):
    """A full disk must not end the executor."""
    drain = Telemetry(tmp_path / "absent" / "actions.jsonl")
    drain.record(record(1))
    with trio.move_on_after(0.05):
        await drain.run()

    assert drain.dropped_count == 1
