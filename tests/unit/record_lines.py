"""Action records for tests, and the lines that they are on disk."""

import json

import attrs

from cw.actors.telemetry import ActionRecord
from cw.units import MS

EPOCH = 7
OFFSET_NS = -5 * MS
"""Cluster time less the executor's clock, in all of them."""


def record(action_id=1, *, kind="INFER", start_ns=0, took_ns=2 * MS, late_ns=0, **changes):
    """Make an action that was planned for `start_ns`, came `late_ns` after, and ran."""
    is_unload = kind == "UNLOAD"
    values = {
        "date_ns": 10**18 + start_ns,
        "executor": "executor-0",
        "device": "cpu test",
        "epoch": EPOCH,
        "executor_id": 1,
        "action_id": action_id,
        "kind": kind,
        "model_id": 5,
        "model": "net",
        "outcome": "ok",
        "batch_size": int(kind == "INFER"),
        "slots": int(kind == "INFER"),
        "gateways": int(kind == "INFER"),
        "ran": int(kind == "INFER"),
        "earliest_ns": 0 if is_unload else start_ns - MS,
        "latest_ns": 0 if is_unload else start_ns + 10 * MS,
        "expected_ns": 0 if is_unload else 2 * MS,
        "planned_start_ns": 0 if is_unload else start_ns,
        "planned_end_ns": 0 if is_unload else start_ns + 2 * MS,
        "received_ns": start_ns - MS,
        "ready_ns": start_ns - MS,
        "start_ns": start_ns + late_ns,
        "end_ns": start_ns + late_ns + took_ns,
        "device_ns": took_ns,
        "running_ns": took_ns,
        "clock_offset_ns": OFFSET_NS,
        "clock_error_ns": 1000,
        "detail": "",
    }
    return ActionRecord(**values | changes)


def line(one):
    """Write a record as telemetry does."""
    return json.dumps(attrs.asdict(one), separators=(",", ":")) + "\n"


def write(path, *records, end=""):
    """Write a file of records, and what else is to stand at its end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(map(line, records)) + end)
    return path
