"""Journals: what is in the file after a kill, a torn line and a full disk's worth of records."""

import signal
import subprocess
import sys

import pytest

from cw.messages import Incarnation, TenantId, UsageEntry
from cw.metering.journal import CUT_BYTES, Journal, read_earlier, read_records

LIFE = Incarnation(5)


def entry(**used):
    return UsageEntry(hour=471234, tenant_id=TenantId(1), model="m", **used)


@pytest.fixture
def journal(tmp_path):
    """Open the journal of a life."""
    journal = Journal(tmp_path, source="executor:e", incarnation=LIFE)
    yield journal
    journal.close()


def test_records_are_numbered_and_sent_until_they_are_acknowledged(journal):
    """What was sent once is sent again: only the catalog's word counts."""
    for name in (1, 2, 3):
        journal.begin(name, (entry(unknown=1),))
        journal.end(name, (entry(gpu_ns=name),))
    journal.acknowledge(1)
    batch = journal.unsent(10)

    assert batch is not None
    assert [(each.number, each.entries[0].gpu_ns) for each in batch.records] == [(2, 2), (3, 3)]
    journal.acknowledge(3)
    assert journal.unsent(10) is None
    assert [each.number for each in read_records(journal.path)] == [1, 2, 3]


def test_what_began_and_did_not_end_is_unknown_in_the_next_life(journal, tmp_path):
    """Each time it is read it has the same number, so that it counts once."""
    journal.begin(1, (entry(unknown=1),))
    journal.end(1, (entry(gpu_ns=9),))
    journal.begin(2, (entry(unknown=1),))
    journal.begin(3, (entry(unknown=1),))
    journal.end(3, ())  # rejected: nothing was used
    for _ in range(2):
        ((_, batch),) = read_earlier(
            tmp_path, source="executor:e", incarnation=Incarnation(LIFE + 1)
        )

        assert [each.number for each in batch.records] == [1, 2]
        assert batch.records[1].entries == (entry(unknown=1),)


@pytest.mark.parametrize("kept", [0, 1, 8, 20, -1])
def test_a_torn_last_line_is_as_if_never_written(journal, kept):
    """Its write did not end, so that nobody was told of what it says."""
    journal.add((entry(gpu_ns=1),))
    whole = journal.path.read_bytes()
    journal.add((entry(gpu_ns=2),))
    torn = journal.path.read_bytes()[len(whole) :][: -1 if kept == -1 else kept]
    journal.path.write_bytes(whole + torn)
    expected = [1, 2] if kept == -1 else [1]  # less its newline the line is whole

    assert [each.entries[0].gpu_ns for each in read_records(journal.path)] == expected


def test_a_flipped_bit_ends_the_reading(journal):
    """What lies behind it may be anything."""
    for gpu_ns in (1, 2, 3):
        journal.add((entry(gpu_ns=gpu_ns),))
    lines = journal.path.read_bytes().splitlines(keepends=True)
    journal.path.write_bytes(lines[0] + lines[1].replace(b'"m"', b'"n"') + lines[2])

    assert [each.entries[0].gpu_ns for each in read_records(journal.path)] == [1]


def test_a_file_of_which_all_is_acknowledged_is_cut(journal):
    """And numbers go on."""
    count = 0
    while journal.path.stat().st_size < CUT_BYTES:
        for _ in range(100):
            count += 1
            journal.add((entry(gpu_ns=1),))
    journal.acknowledge(count)
    journal.begin(1, (entry(unknown=1),))

    assert journal.path.stat().st_size < 200
    assert [each.number for each in read_records(journal.path)] == [count + 1]


def test_the_file_of_a_busy_life_is_cut_too(journal, tmp_path):
    """Something is always begun and something unsent there: what is open stays in it."""
    journal.begin(1, (entry(unknown=1),))  # runs all the while
    name = 1
    while journal.path.stat().st_size < CUT_BYTES:
        name += 1
        journal.begin(name, (entry(unknown=1),))
        journal.end(name, (entry(gpu_ns=name),))
    last = name - 1
    journal.acknowledge(last - 1)

    assert journal.path.stat().st_size < 1000
    journal.begin(name + 1, (entry(unknown=1),))
    journal.end(name + 1, (entry(gpu_ns=7),))
    assert [each.number for each in journal.unsent(10).records] == [last, last + 1]
    ((_, batch),) = read_earlier(tmp_path, source="executor:e", incarnation=Incarnation(LIFE + 1))
    assert [each.number for each in batch.records] == [last, last + 1, last + 2]
    assert batch.records[-1].entries == (entry(unknown=1),)


def test_a_cut_that_fails_leaves_the_file_as_it_was(journal, monkeypatch, caplog):
    """A full disk must not cost records that were written down."""
    while journal.path.stat().st_size < CUT_BYTES:
        journal.add((entry(gpu_ns=1),))
    last = len(read_records(journal.path))

    def refuse(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(journal.path), "replace", refuse)
    journal.acknowledge(last)
    journal.add((entry(gpu_ns=2),))

    assert "usage_not_cut" in caplog.text
    assert [each.number for each in read_records(journal.path)][-1] == last + 1


def test_a_full_journal_counts_what_it_loses(tmp_path, caplog):
    """The device serves on: promises come before bills."""
    journal = Journal(tmp_path, source="executor:e", incarnation=LIFE, bytes_max=300)
    for _ in range(10):
        journal.add((entry(gpu_ns=1),))
    batch = journal.unsent(100)

    assert batch is not None
    assert len(batch.records) + journal.lost == 10
    assert journal.lost
    assert journal.path.stat().st_size <= 300
    assert caplog.text.count("usage_lost") == 1
    journal.close()


_WRITER = """
import sys
from pathlib import Path
from cw.messages import Incarnation, TenantId, UsageEntry
from cw.metering.journal import Journal
journal = Journal(Path(sys.argv[1]), source="executor:e", incarnation=Incarnation(5))
entry = UsageEntry(hour=1, tenant_id=TenantId(1), model="m", gpu_ns=1)
while True:
    journal.add((entry,))
    sys.stdout.write(".")
    sys.stdout.flush()
"""


def test_no_record_that_was_told_of_is_lost_by_a_kill(tmp_path):
    """A process writes and tells, and is killed while it does; the truth is what was told."""
    command = [sys.executable, "-c", _WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        told = len(writer.stdout.read(500))
        writer.send_signal(signal.SIGKILL)
        told += len(writer.stdout.read())
    written = len(read_records(tmp_path / "usage-5.journal"))

    assert told <= written <= told + 1  # the last one may have been written and not told
