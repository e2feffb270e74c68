"""Records as a trace of Chrome's format, which ui.perfetto.dev and chrome://tracing open.

One process per executor. Each of its lanes has a row of what was planned above one of what came
true, and an arrow leads from each plan to its run, or the other way round where the run began
first: viewers know no arrow back in time. What did not run is a mark in the lower row, with its
reason. Counters show how busy the lanes were.

Plans may overlap: a result that comes early moves what is planned next before the end that was
planned for its predecessor. Since boxes in a row must not overlap, such a plan goes to another row
of the same name. What ran can't overlap on its executor's own clock; in cluster time it may, by
what that clock's offset moved between two results, and then the later box begins where the earlier
one ends. Its ``args`` hold the instants as they were recorded, in both clocks.

Instants in the trace are cluster time, in microseconds, exact to the nanosecond.

Source: "Trace Event Format" (Google), the JSON object format: phases X, i, s, f, C and M.
"""

import json
from typing import Any, Final

import attrs

from cw.actors.telemetry import ActionRecord
from cw.messages import Outcome
from cw.units import MS, US

HEAD: Final = '{"displayTimeUnit":"ms","traceEvents":[\n'
FOOT: Final = "\n]}\n"

PLANNED_ROWS_MAX: Final = 8
"""Rows of plans per lane; at most a few are ever used. What overlaps even then is cut short."""
BUSY_BUCKET_NS: Final = 100 * MS
"""What a lane's share of busy time is counted over."""

_LANES: Final = {"INFER": "INFER", "PREPARE": "INFER", "LOAD": "LOAD", "UNLOAD": "LOAD"}
"""Which lane runs what. (Where both are one resource they still have a row each.)"""
_FIRST_ROW: Final = {"INFER": 10, "LOAD": 30}
"""The number of a lane's first row of plans; the row of what came true is the last of its tens."""
_OK: Final = Outcome.OK.value


@attrs.define(eq=False)
class _Lane:
    """One lane's rows, as they have been filled so far."""

    name: str
    planned_free_ns: list[int] = attrs.field(factory=list)
    """For each row of plans: where its last box ends."""
    has_actual_row: bool = False
    actual_free_ns: int = -(1 << 62)
    """Where the last box of what came true ends."""
    bucket: int | None = None
    """The stretch of `BUSY_BUCKET_NS` whose busy time is being counted."""
    busy_ns: int = 0

    @property
    def actual_row(self) -> int:
        """The number of the row of what came true."""
        return _FIRST_ROW[self.name] + PLANNED_ROWS_MAX


@attrs.frozen
class _Box:
    """A box that was put into a row."""

    row: int
    start_ns: int


@attrs.define(eq=False)
class ExecutorTrace:
    """Makes one executor's events, record by record; each is the text of a JSON object.

    Args:
        pid: Its number in the trace.
        name: What the process is called.
    """

    pid: int
    name: str
    _out: list[str] = attrs.field(factory=list)
    _lanes: dict[str, _Lane] = attrs.field(
        factory=lambda: {name: _Lane(name) for name in _FIRST_ROW}
    )
    _names: dict[int, str] = attrs.field(factory=dict)
    """Of models, by id; for records of what the executor had forgotten already."""

    def begin(self) -> list[str]:
        """Name the process and put it in its place."""
        self._name("process_name", 0, name=self.name)
        self._name("process_sort_index", 0, sort_index=self.pid)
        return self._taken()

    def events(self, record: ActionRecord) -> list[str]:
        """Turn a record into events. An executor's records come in the order of their lines."""
        lane = self._lanes[_LANES[record.kind]]
        label = self._label(record)
        planned = None if record.kind == "UNLOAD" else self._plan(lane, record, label)
        if not lane.has_actual_row:
            self._begin_row(lane.actual_row, f"{lane.name} actual")
            lane.has_actual_row = True
        if record.outcome != _OK:
            self._mark(lane, record, label)
            return self._taken()
        actual = self._run(lane, record, label)
        if planned is not None:
            ends = (planned, actual) if planned.start_ns <= actual.start_ns else (actual, planned)
            for phase, box in zip(('"s"', '"f","bp":"e"'), ends, strict=True):
                self._out.append(
                    f'{{"ph":{phase},"pid":{self.pid},"tid":{box.row},"ts":{_us(box.start_ns)},'
                    f'"id":{record.action_id},"cat":"plan","name":"came true"}}'
                )
        return self._taken()

    def end(self) -> list[str]:
        """Make the counters' last events."""
        for lane in self._lanes.values():
            if lane.bucket is not None:
                self._count_until(lane, lane.bucket + 2)
        return self._taken()

    def _taken(self) -> list[str]:
        taken, self._out = self._out, []
        return taken

    # --- rows -------------------------------------------------------------------------------------

    def _plan(self, lane: _Lane, record: ActionRecord, label: str) -> _Box:
        start_ns, end_ns = record.planned_start_ns, record.planned_end_ns
        ends = lane.planned_free_ns
        at = next((at for at, free_ns in enumerate(ends) if free_ns <= start_ns), len(ends))
        if at == PLANNED_ROWS_MAX:
            at = ends.index(min(ends))
            start_ns = ends[at]
            end_ns = max(start_ns, end_ns)
        row = _FIRST_ROW[lane.name] + at
        if at == len(ends):
            ends.append(start_ns)
            self._begin_row(row, f"{lane.name} planned")
        ends[at] = end_ns
        args = {
            "action": record.action_id,
            "planned_start_ns": record.planned_start_ns,
            "planned_end_ns": record.planned_end_ns,
            "own_clock_planned_start_ns": record.planned_start_ns - record.clock_offset_ns,
            "own_clock_planned_end_ns": record.planned_end_ns - record.clock_offset_ns,
        }
        return self._box("planned", row, start_ns, end_ns, label, args)

    def _run(self, lane: _Lane, record: ActionRecord, label: str) -> _Box:
        start_ns = max(record.start_ns, lane.actual_free_ns)
        end_ns = lane.actual_free_ns = max(record.end_ns, start_ns)
        self._count(lane, start_ns, end_ns)
        return self._box("actual", lane.actual_row, start_ns, end_ns, label, _args(record))

    def _mark(self, lane: _Lane, record: ActionRecord, label: str) -> None:
        args = json.dumps({**_args(record), "why": record.detail or record.outcome})
        self._out.append(
            f'{{"ph":"i","s":"t","pid":{self.pid},"tid":{lane.actual_row},'
            f'"ts":{_us(record.start_ns)},"cat":"not run",'
            f'"name":{json.dumps(f"{record.outcome}: {label}")},"args":{args}}}'
        )

    def _box(
        self, category: str, row: int, start_ns: int, end_ns: int, label: str, args: dict[str, Any]
    ) -> _Box:
        self._out.append(
            f'{{"ph":"X","pid":{self.pid},"tid":{row},"ts":{_us(start_ns)},'
            f'"dur":{_us(end_ns - start_ns)},"cat":"{category}","name":{json.dumps(label)},'
            f'"args":{json.dumps(args)}}}'
        )
        return _Box(row, start_ns)

    # --- counters ---------------------------------------------------------------------------------

    def _count(self, lane: _Lane, start_ns: int, end_ns: int) -> None:
        """Count a run as busy time; it begins no earlier than the one before it ended."""
        for bucket in range(start_ns // BUSY_BUCKET_NS, end_ns // BUSY_BUCKET_NS + 1):
            self._count_until(lane, bucket)
            begin_ns = bucket * BUSY_BUCKET_NS
            lane.busy_ns += min(end_ns, begin_ns + BUSY_BUCKET_NS) - max(start_ns, begin_ns)

    def _count_until(self, lane: _Lane, bucket: int) -> None:
        """Go on to a stretch: tell of the one that is over, and of a pause behind it."""
        before = lane.bucket
        if before == bucket:
            return
        if before is not None:
            self._counter(lane, before, lane.busy_ns)
            if bucket > before + 1:
                self._counter(lane, before + 1, 0)
        lane.bucket, lane.busy_ns = bucket, 0

    def _counter(self, lane: _Lane, bucket: int, busy_ns: int) -> None:
        self._out.append(
            f'{{"ph":"C","pid":{self.pid},"ts":{_us(bucket * BUSY_BUCKET_NS)},'
            f'"name":"{lane.name} busy %","args":{{"busy":{100 * busy_ns / BUSY_BUCKET_NS:.1f}}}}}'
        )

    # --- names ------------------------------------------------------------------------------------

    def _begin_row(self, row: int, name: str) -> None:
        self._name("thread_name", row, name=name)
        self._name("thread_sort_index", row, sort_index=row)

    def _name(self, what: str, row: int, **args: Any) -> None:
        self._out.append(
            json.dumps({"ph": "M", "pid": self.pid, "tid": row, "name": what, "args": args})
        )

    def _label(self, record: ActionRecord) -> str:
        """Name a box: the model, and what is not plain from its row."""
        if record.model:
            self._names[record.model_id] = record.model
        model = self._names.get(record.model_id, f"model {record.model_id:x}")
        if record.kind != "INFER":
            return model if record.kind == "LOAD" else f"{record.kind} {model}"
        return f"{model} x{record.slots}" if record.slots else f"{model} probe"


def _args(record: ActionRecord) -> dict[str, Any]:
    """Say of an action what its box can't show."""
    args: dict[str, Any] = {
        "action": record.action_id,
        "model": record.model,
        "outcome": record.outcome,
    }
    if record.kind == "INFER":
        args |= {"batch": record.batch_size, "requests": record.slots, "ran": record.ran}
    if record.outcome == _OK:
        args["device_us"] = record.device_ns / US
    if record.kind != "UNLOAD":
        if record.outcome == _OK:
            args["misprediction_us"] = (record.device_ns - record.expected_ns) / US
            args["start_error_us"] = (record.start_ns - record.planned_start_ns) / US
        args["window_slack_us"] = (record.latest_ns - record.start_ns) / US
        args["window_ns"] = [record.earliest_ns, record.latest_ns]
    return args | {
        "ready_ns": record.ready_ns,
        "start_ns": record.start_ns,
        "end_ns": record.end_ns,
        "own_clock_start_ns": record.start_ns - record.clock_offset_ns,
        "own_clock_end_ns": record.end_ns - record.clock_offset_ns,
        "clock_error_us": record.clock_error_ns / US,
    }


def _us(time_ns: int) -> str:
    """Write nanoseconds as microseconds, exactly: a float would round large instants."""
    sign, time_ns = ("-", -time_ns) if time_ns < 0 else ("", time_ns)
    return f"{sign}{time_ns // US}.{time_ns % US:03d}"
