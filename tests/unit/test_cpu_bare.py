"""The bare loop that the device is measured against: it must be the device's own program."""

import os
import threading

import pytest

from cw.devices.cpu.bare import BareModel, copy_durations_ns
from cw.devices.cpu.program import load_program
from cw.devices.fitting import read_program
from cw.models.archive import verify_archive
from cw.models.examples.tiny import CNN


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    archive = verify_archive(CNN.pack(tmp_path_factory.mktemp("bare") / "cnn").folder)
    model = BareModel.open(archive.manifest.to_spec(), archive.program_path, archive.weights_path)
    yield model
    model.close()


@pytest.mark.parametrize("as_exported", [False, True])
def test_programs_can_be_left_as_they_were_exported(tmp_path, caplog, as_exported):
    """To be compared with servers that run torch as it is, cw must be able to do so, too."""
    archive = verify_archive(CNN.pack(tmp_path / "cnn").folder)
    model = archive.manifest.to_spec()
    checked = read_program(model, archive.program_path, is_allowed=True)
    with caplog.at_level("INFO", logger="cw.devices.cpu.program"):
        load_program(checked, model, as_exported=as_exported)

    assert (" packed=0 " in caplog.text) == as_exported


def test_each_call_is_measured(bare):
    """As many durations as were asked for, warm-ups not among them, at each batch size."""
    for batch_size in (1, 8):
        durations_ns = bare.durations_ns(batch_size, runs=7)

        assert len(durations_ns) == 7
        assert min(durations_ns) > 1_000


def test_the_loop_leaves_the_caller_as_it_was(bare):
    """Its core and torch's settings are its thread's alone; the caller may be an event loop."""
    cores = os.sched_getaffinity(0)
    threads = threading.active_count()
    bare.durations_ns(1, runs=1, cores=(min(cores),))

    assert os.sched_getaffinity(0) == cores
    assert threading.active_count() == threads


def test_copies_are_measured_each():
    """The rate that a LOAD is compared with."""
    durations_ns = copy_durations_ns(1 << 20, runs=4)

    assert len(durations_ns) == 4
    assert min(durations_ns) > 1_000
