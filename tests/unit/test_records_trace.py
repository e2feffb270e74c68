"""Traces: what a viewer asks of their events, and that they say what the records said."""

import gzip
import json
from collections import defaultdict

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cw.cli import main
from cw.errors import ConfigError
from cw.records import export, files, trace
from cw.records.files import Tally
from cw.records.picture import draw_lanes
from cw.records.timing import Timings
from cw.units import MS, SECOND, US
from tests.unit.record_lines import EPOCH, OFFSET_NS, record, write


@st.composite
def executions(draw):
    """One executor's records: lanes are serial, plans and clocks are as they like."""
    free_ns, made = {"INFER": SECOND, "LOAD": SECOND}, []
    for action_id in range(draw(st.integers(1, 20))):
        kind = draw(st.sampled_from(files.KINDS))
        lane = trace._LANES[kind]
        jump_ns = draw(st.integers(-3 * US, 300 * MS))  # back: the clock's offset moved
        start_ns = free_ns[lane] + jump_ns
        took_ns = draw(st.integers(0, 250 * MS))
        planned_ns = start_ns + draw(st.integers(-20 * MS, 20 * MS))
        expected_ns = draw(st.integers(0, 30 * MS))
        ran = draw(st.booleans())
        if ran:
            free_ns[lane] = start_ns + took_ns
        made.append(
            record(
                action_id,
                kind=kind,
                start_ns=start_ns,
                took_ns=took_ns,
                outcome="ok" if ran else "tooLate",
                expected_ns=expected_ns,
                planned_start_ns=0 if kind == "UNLOAD" else planned_ns,
                planned_end_ns=0 if kind == "UNLOAD" else planned_ns + expected_ns,
                model=draw(st.sampled_from(['net "é"', ""])),
            )
        )
    return made


def events_of(records):
    made = trace.ExecutorTrace(1, "executor-0")
    texts = [*made.begin(), *(text for one in records for text in made.events(one)), *made.end()]
    return json.loads(trace.HEAD + ",\n".join(texts) + trace.FOOT, parse_float=str)["traceEvents"]


def ns(text):
    """Read microseconds with three places, exactly."""
    whole, places = text.split(".")
    assert len(places) == 3
    return int(whole) * US + int(places)


@given(executions())
def test_viewers_can_show_every_trace(records):
    """Boxes that overlap, run backwards or point nowhere are dropped by viewers without a word."""
    rows, arrows, named = defaultdict(list), defaultdict(list), set()
    for event in events_of(records):
        assert event["pid"] == 1
        match event["ph"]:
            case "M":
                assert event["name"] in {
                    "process_name",
                    "process_sort_index",
                    "thread_name",
                    "thread_sort_index",
                }
                named.add(event["tid"])
            case "X":
                begin, took = ns(event["ts"]), ns(event["dur"])
                assert took >= 0
                assert event["tid"] in named
                rows[event["tid"]].append((begin, begin + took))
            case "i":
                assert event["s"] == "t"
                assert event["args"]["why"]
                assert event["tid"] in named
            case "s" | "f":
                arrows[event["id"]].append((event["ph"], event["tid"], ns(event["ts"])))
            case "C":
                assert 0 <= float(event["args"]["busy"]) <= 100
            case other:
                raise AssertionError(other)
    for boxes in rows.values():
        for (_, end), (begin, _) in zip(sorted(boxes), sorted(boxes)[1:], strict=False):
            assert end <= begin
    for ends in arrows.values():
        (first, _, from_ns), (second, _, to_ns) = ends
        assert (first, second) == ("s", "f")
        assert from_ns <= to_ns
        assert all(any(begin == at for begin, _ in rows[row]) for _, row, at in ends)


@given(executions())
def test_a_trace_leaves_nothing_out(records):
    """Each action is there once as it ended, and once as it was planned, if it was."""
    ends, plans, arrows = [], [], set()
    for event in events_of(records):
        if event.get("cat") in {"actual", "not run"}:
            ends.append(event["args"]["action"])
        elif event.get("cat") == "planned":
            plans.append(event["args"]["action"])
        elif event.get("cat") == "plan":
            arrows.add(event["id"])
    planned = [one for one in records if one.kind != "UNLOAD"]
    assert ends == [one.action_id for one in records]
    assert plans == [one.action_id for one in planned]
    assert arrows == {one.action_id for one in planned if one.outcome == "ok"}


def test_plan_and_truth_are_told_in_both_clocks():
    """A window is judged to the microsecond, against whichever clock is in question."""
    late = record(3, start_ns=SECOND, late_ns=1500, took_ns=2 * MS + 700, slots=3, batch_size=4)
    boxes = {it["cat"]: it for it in events_of([late]) if it["ph"] == "X"}
    planned, actual = boxes["planned"], boxes["actual"]

    assert planned["name"] == actual["name"] == "net x3"
    assert (ns(planned["ts"]), ns(planned["dur"])) == (SECOND, 2 * MS)
    assert (ns(actual["ts"]), ns(actual["dur"])) == (SECOND + 1500, 2 * MS + 700)
    args = actual["args"]
    assert (args["start_error_us"], args["misprediction_us"]) == ("1.5", "0.7")
    assert args["window_slack_us"] == "9998.5"
    assert args["own_clock_start_ns"] == args["start_ns"] - OFFSET_NS == SECOND + 1500 - OFFSET_NS
    assert args["clock_error_us"] == "1.0"
    assert (args["batch"], args["requests"], args["ran"]) == (4, 3, 1)


def test_plans_that_overlap_stand_in_rows_of_their_own():
    """An early end moves the next plan before the end that was planned: both must be seen whole."""
    records = [
        record(1, start_ns=0, expected_ns=9 * MS, planned_end_ns=9 * MS),
        record(2, start_ns=3 * MS),
    ]
    boxes = [it for it in events_of(records) if it.get("cat") == "planned"]
    names = {
        it["tid"]: it["args"]["name"] for it in events_of(records) if "thread_name" in it["name"]
    }

    assert [(ns(it["ts"]), ns(it["dur"])) for it in boxes] == [(0, 9 * MS), (3 * MS, 2 * MS)]
    assert [names[it["tid"]] for it in boxes] == ["INFER planned"] * 2
    assert len({it["tid"] for it in boxes}) == 2


def test_counters_show_how_busy_a_lane_was():
    """A lane that looks full in a zoomed-out trace may be idle half of the time."""
    records = [record(1, took_ns=50 * MS), record(2, start_ns=150 * MS, took_ns=350 * MS)]
    counted = [
        (ns(it["ts"]) // MS, it["args"]["busy"]) for it in events_of(records) if it["ph"] == "C"
    ]

    assert counted == [
        (0, "50.0"),
        (100, "50.0"),
        (200, "100.0"),
        (300, "100.0"),
        (400, "100.0"),
        (500, "0.0"),
        (600, "0.0"),
    ]


def test_errors_are_measured_per_kind():
    """A slow PREPARE must not hide how well INFERs keep time; UNLOADs have no plan to keep."""
    timings = Timings()
    for number in range(100):
        timings.add(record(number, late_ns=number * US, took_ns=2 * MS - 500))
    timings.add(record(100, kind="UNLOAD"))
    timings.add(record(101, kind="LOAD", late_ns=11 * MS, clock_error_ns=MS))
    timings.add(record(102, outcome="tooLate"))
    summary = timings.to_json()

    assert summary["kinds"]["INFER"] == {
        "actions": 101,
        "ran": 100,
        "in_window_share": 1.0,
        "in_window_by_clock_share": 1.0,
        "start_error_us": {"p1": 1.0, "p50": 50.0, "p99": 99.0, "max": 99.0},
        "duration_error_us": {"p1": -0.5, "p50": -0.5, "p99": -0.5, "max": -0.5},
    }
    assert summary["kinds"]["UNLOAD"]["in_window_share"] is None
    load = summary["kinds"]["LOAD"]
    assert (load["in_window_share"], load["in_window_by_clock_share"]) == (0.0, 1.0)
    assert (summary["actions"], summary["ran"]) == (103, 102)


@pytest.fixture
def cluster(tmp_path):
    """Make a folder of a cluster with two executors, one of which has an older file."""
    logs = tmp_path / "logs"
    write(logs / "executor-0.actions.jsonl.1", record(1))
    write(logs / "executor-0.actions.jsonl", record(2, start_ns=5 * MS, model="other"))
    write(logs / "executor-1.actions.jsonl", record(3, executor="executor-1"), end="{")
    return tmp_path


@pytest.mark.parametrize("suffix", ["json", "json.gz"])
def test_export_writes_every_executor_once(cluster, tmp_path, capsys, suffix):
    """Rotated files belong to the same lanes, or a viewer shows an executor in two halves."""
    out = tmp_path / f"trace.{suffix}"
    words = ["trace", "export", "--folder", str(cluster), "--out", str(out), "--json"]
    assert main.main(words) == 0

    opened = gzip.open if suffix.endswith("gz") else open
    with opened(out, "rt") as file:
        events = json.load(file)["traceEvents"]
    names = [it["args"]["name"] for it in events if it["name"] == "process_name"]
    assert names == ["executor-0 (cpu test)", "executor-1 (cpu test)"]
    summary = json.loads(capsys.readouterr().out)
    assert (summary["actions"], summary["epoch"]) == (3, EPOCH)
    assert not list(tmp_path.glob("*.new"))


def test_export_of_files_one_model_and_the_end(cluster, tmp_path, capsys):
    """What is asked for is what is there, and no more: a trace of everything is too large."""
    out = tmp_path / "trace.json"
    paths = [str(path) for path in (cluster / "logs").iterdir()]
    for words, count in ((["--model", "oth*"], 1), (["--last", "1ms"], 1), ([], 3)):
        assert main.main(["trace", "export", *paths, "--out", str(out), "--json", *words]) == 0
        assert json.loads(capsys.readouterr().out)["actions"] == count


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "resnet"], "net, other"),
        (["--epoch", "1"], "epoch 1"),
        (["--epoch", "1", "--last", "1s"], "--last"),
        (["absent.jsonl"], "both"),
    ],
)
def test_export_says_why_there_is_nothing(cluster, tmp_path, capsys, words, said):
    """An empty trace opens as an empty page, which tells nobody what went wrong."""
    out = tmp_path / "trace.json"
    base = ["trace", "export", "--folder", str(cluster), "--out", str(out)]

    assert main.main([*base, *words]) == 1
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_without_a_cluster_or_records_export_says_what_to_do(tmp_path, monkeypatch, capsys):
    """The first thing that a newcomer sees of the command may be its error."""
    monkeypatch.chdir(tmp_path)
    assert main.main(["trace", "export"]) == 1
    assert "tools/devcluster up" in capsys.readouterr().err

    (tmp_path / ".cw" / "dev" / "logs").mkdir(parents=True)
    assert main.main(["trace", "export"]) == 1
    assert "cw bench" in capsys.readouterr().err
    assert main.main(["trace", "export", "absent.jsonl"]) == 1
    assert "absent.jsonl" in capsys.readouterr().err


def test_a_picture_says_what_it_cannot_draw(tmp_path):
    """A name misspelt, or a minute of actions, would give an empty or a black picture."""
    records = [record(1), record(2, kind="LOAD")]
    with pytest.raises(ConfigError, match="executor-0"):
        draw_lanes(records, tmp_path / "a.png", executor="executor-9")
    with pytest.raises(ConfigError, match="shorter"):
        draw_lanes([attrs.evolve(records[0], action_id=n) for n in range(2001)], tmp_path / "a.png")


def test_a_picture_is_drawn(tmp_path):
    """The same boxes, for a page or a message."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    records = [record(1), record(2, kind="LOAD"), record(3, outcome="tooLate", model="late")]
    draw_lanes(records, tmp_path / "lanes.svg")

    drawn = (tmp_path / "lanes.svg").read_text()
    assert all(f"<!-- {text} -->" in drawn for text in ("LOAD actual", "INFER planned", "net"))


def test_reading_again_finds_the_same(cluster):
    """`choose` and `read` are what all commands begin with."""
    choice = export.choose(files.find(cluster))
    assert [it.action_id for it in export.read(choice, tally=Tally())] == [1, 2, 3]
