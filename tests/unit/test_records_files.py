"""Files of records: read while they are written, after crashes, and from their end."""

import pytest

from cw.errors import ConfigError
from cw.records import files
from cw.records.export import choose
from cw.records.files import Span, Tally
from cw.units import MS, SECOND
from tests.unit.record_lines import EPOCH, line, record, write


def ids(paths, tally=None, **options):
    read = files.read(paths, tally=Tally() if tally is None else tally, **options)
    return [one.action_id for one in read]


def test_a_cluster_s_files_are_found_older_before_newer(tmp_path):
    """A full file makes way as NAME.1: what it holds came before, and belongs to the same lanes."""
    logs = tmp_path / "logs"
    for name in ("b.actions.jsonl", "a.actions.jsonl", "a.actions.jsonl.1", "a.log"):
        write(logs / name)

    names = [path.name for path in files.find(tmp_path)]
    assert names == ["a.actions.jsonl.1", "a.actions.jsonl", "b.actions.jsonl"]


def test_a_line_that_is_being_written_is_none_yet(tmp_path):
    """Whoever looks at a running cluster meets half a line at any moment: that is no damage."""
    path = write(tmp_path / "a", record(1), record(2), end=line(record(3))[:50])
    tally = Tally()

    assert ids([path], tally) == [1, 2]
    assert (tally.records, tally.damaged, tally.foreign) == (2, 0, 0)
    assert files.last(path).action_id == 2


def test_what_a_crash_cut_off_is_passed_over_and_counted(tmp_path):
    """The next life appends to half a line: one record is lost, the rest must not be."""
    broken = line(record(1))[:70] + line(record(2)) + "\0\0\n" + "[]\n" + line(record(3))
    path = write(tmp_path / "a", end=broken)
    tally = Tally()

    assert ids([path], tally) == [3]
    assert tally.damaged == 3


def test_lines_of_another_version_are_counted_apart(tmp_path):
    """After an update the old lines lack columns: guessing them would be lying."""
    path = write(tmp_path / "a", record(2), end='{"epoch":1,"kind":"INFER"}\n')
    strange = write(tmp_path / "b", record(1, kind="NAP"))
    tally = Tally()

    assert ids([path, strange], tally) == [2]
    assert (tally.foreign, tally.damaged) == (2, 0)


def test_a_file_that_is_gone_meanwhile_is_skipped(tmp_path):
    """Between finding and reading, a full file may take another's place."""
    assert ids([tmp_path / "gone", write(tmp_path / "a", record(1))]) == [1]


@pytest.mark.parametrize("since_s", [-1, 0, 0.5, 3.0, 7.77, 9.99, 11])
def test_the_end_is_found_without_reading_the_rest(tmp_path, monkeypatch, since_s):
    """The last seconds of a full file are asked for most; all of it would take seconds."""
    monkeypatch.setattr(files, "_STEP_BYTES", 4096)
    old = [record(number, epoch=EPOCH - 1, start_ns=number * MS) for number in range(1000)]
    new = [record(number, start_ns=number * 10 * MS) for number in range(1000)]
    new[500] = record(500, start_ns=5010 * MS)  # told a moment too late
    path = write(tmp_path / "a", *old, *new)
    since_ns = round(since_s * SECOND)
    tally, told = Tally(), []

    span = Span(EPOCH, since_ns)
    read = ids([path], tally, span=span, advance=told.append)
    assert read == [one.action_id for one in new if one.end_ns >= since_ns]
    assert sum(told) == path.stat().st_size
    assert tally.records <= 200 + len(read) + 20


def test_the_latest_reign_is_chosen(tmp_path):
    """Cluster time starts anew with each controller: two reigns on one axis would be nonsense."""
    one = write(tmp_path / "a", record(1, epoch=3), record(2, epoch=4, start_ns=8 * SECOND))
    two = write(tmp_path / "b", record(3, epoch=3, start_ns=99 * SECOND))
    choice = choose([one, two], last_ns=SECOND)

    assert choice.span == Span(4, 7 * SECOND + 2 * MS)
    assert ids([one, two], span=choice.span) == [2]


def test_no_records_at_all_is_said_with_what_to_do(tmp_path):
    """A newcomer asks for a trace before any request was sent."""
    path = write(tmp_path / "a", end='{"half')

    with pytest.raises(ConfigError, match="cw bench"):
        choose([path])
