"""Experiments that ask the driver alone, on a card in software: what they measure, they judge.

The figures mean nothing there; that they are all taken, by calls that a driver accepts, does.
"""

import json
import os
import subprocess
import sys

import pytest

from cw.devices.cuda.experiments import h2d, notify, rig, small_copy, vmm_cost
from cw.devices.cuda.experiments.figures import Figures, Outcome
from cw.devices.cuda.experiments.rig import DriverRefused, Rig
from cw.errors import DeviceFault
from cw.units import MiB
from tests.softcuda.card import SoftCard, environment_with_card, needs_card

pytestmark = needs_card


@pytest.fixture
def card():
    card = SoftCard()
    yield card
    assert card.hazards == []
    SoftCard()


def test_page_costs_are_measured_and_judged(card):
    """What is measured must be what the verdict asks for, and all pages must be given back."""
    found = vmm_cost.run(Rig(with_torch=False))

    assert vmm_cost.verdict(Figures(found)).outcome in (Outcome.PASS, Outcome.FALLBACK)
    assert Figures(found).holds("one unmap takes many pages")
    assert card.leaks() == []


def test_copy_rates_are_measured_and_judged(card, monkeypatch):
    """Each way copies the same number of bytes, or their rates could not be compared."""
    total_bytes = 64 * MiB
    monkeypatch.setattr(h2d, "_TOTAL_BYTES", total_bytes)
    found = h2d.run(Rig(with_torch=False))

    assert h2d.verdict(Figures(found)).words
    ways = [figure for figure in found if figure.unit == "GB/s"]
    copied = sum(call.arguments[2] for call in card.calls("cuMemcpyHtoDAsync"))
    assert copied == len(ways) * 3 * total_bytes
    assert card.counts()["pinned"] == 0


def test_copy_rates_are_those_of_the_card(card, monkeypatch):
    """Taken before the copies' end, they would be the rate of sending."""
    monkeypatch.setattr(h2d, "_TOTAL_BYTES", 64 * MiB)
    monkeypatch.setattr(h2d, "_REPEATS", 1)
    card.set_copy_time(2e9)
    found = Figures(h2d.run(Rig(with_torch=False)))

    for name in ("plain memory, one copy", "pages, chunks of 16 MiB"):
        assert 0.01 < found[name] <= 2.0


def test_waits_of_small_copies_are_measured_and_judged(card, monkeypatch):
    """The kernel's part needs torch; the copies' names must be those of the verdict."""
    monkeypatch.setattr(small_copy, "_REPEATS", 5)
    found = {figure.name: figure.value for figure in small_copy.run_copies(Rig(with_torch=False))}

    assert {"input behind nothing", "output behind 2 x 16 MiB"} <= set(found)
    missing = {f"input behind 2 x {size} MiB" for size in (2, 4, 16)} - set(found)
    assert not missing


def test_an_input_waits_for_the_load_before_it_and_an_output_does_not(card, monkeypatch):
    """The engines serve each direction in order: that is what the experiment is to find out."""
    monkeypatch.setattr(small_copy, "_REPEATS", 3)
    monkeypatch.setattr(small_copy, "_WARM_REPEATS", 1)
    card.set_copy_time(1e9)
    found = {figure.name: figure.value for figure in small_copy.run_copies(Rig(with_torch=False))}
    load_us = 2 * 16 * MiB / 1e9 * 1e6

    assert found["input behind 2 x 16 MiB"] > load_us > found["output behind 2 x 16 MiB"]


def test_delays_of_news_are_measured_and_judged(card, monkeypatch):
    """Each way has to hear of every end: one that is missed would wait for ever."""
    monkeypatch.setattr(notify, "_SAMPLES", 20)
    monkeypatch.setattr(notify, "_WORK_BYTES", MiB)
    found = notify.run(Rig(with_torch=False))

    assert notify.verdict(Figures(found)).words
    assert len(card.calls("cuLaunchHostFunc")) == 25
    assert card.counts()["plain"] == card.counts()["host"] == 0


def test_the_command_runs_as_on_a_card(tmp_path):
    """Children, table and JSON: the way of `tools/gpu_check`, with a driver that answers."""
    command = (sys.executable, "-m", "cw.devices.cuda.experiments.command")
    done = subprocess.run(
        [*command, "--only", "vmm_cost", "--json", tmp_path / "found.json"],
        env=os.environ | environment_with_card(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = json.loads((tmp_path / "found.json").read_text())

    assert done.returncode in (0, 1), done.stderr
    assert found["card"]["card"] == "Software card"
    assert "mapping and unmapping" in done.stdout


def test_a_card_that_breaks_fails_its_experiment_alone(tmp_path):
    """The next one has a process, and a context, of its own."""
    command = [sys.executable, "-m", "cw.devices.cuda.experiments.child", "h2d"]
    done = subprocess.run(
        command,
        env=os.environ | environment_with_card(SOFTCUDA_MEMORY_BYTES=str(64 * MiB)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "expected memory for cuMemCreate" in done.stderr


def test_a_refusal_names_the_call(card):
    """A status alone does not say which of a thousand calls was refused."""
    with pytest.raises(DeviceFault, match="cuMemUnmap"):
        Rig(with_torch=False).reserve(1).unmap()


def test_what_runs_beside_is_stopped_and_its_error_told(card):
    """A LOAD that failed in the background would make the figures beside it look good."""

    def step(index):
        if index == 3:
            raise DriverRefused("the fourth copy")

    with pytest.raises(DriverRefused, match="fourth"):
        with Rig(with_torch=False).beside(step) as beside:
            while beside.count < 3:
                pass


def test_a_captured_stream_takes_what_is_sent_and_runs_it_later(card):
    """What `manual_capture` and every graph rely on: nothing runs before a launch."""
    asked = Rig(with_torch=False)
    stream, source, target = asked.stream(), asked.pinned(MiB), asked.plain_memory(MiB)
    rig.fill_host(source, MiB, 5)
    driver, mode = (
        asked.driver,
        asked.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
    )
    asked.call(driver.cuStreamBeginCapture, stream, mode)
    asked.copy_in(target, source, MiB, stream)
    # A wait would never end: nothing was sent. The driver refuses, and the capture is spoilt.
    with pytest.raises(DeviceFault, match="900"):
        asked.wait()
    with pytest.raises(DriverRefused, match="INVALIDATED"):
        asked.call(driver.cuStreamEndCapture, stream)
    asked.call(driver.cuStreamBeginCapture, stream, mode)
    asked.copy_in(target, source, MiB, stream)
    graph = asked.call(driver.cuStreamEndCapture, stream)
    assert asked.shipped.node_kinds(graph) == ["MEMCPY"]
    executable = asked.shipped.instantiate(graph)
    asked.shipped.empty(graph)
    assert asked.shipped.node_kinds(graph) == []
    back = asked.pinned(MiB)
    asked.shipped.launch(executable, stream)
    asked.copy_out(back, target, MiB, stream)
    asked.wait()

    assert rig.ctypes.string_at(back, 8) == bytes([5]) * 8


def test_what_was_destroyed_is_not_taken_again(card):
    """A stale handle that works by luck is a crash on a real card."""
    asked = Rig(with_torch=False)
    event, stream = asked.shipped.event(timing=True), asked.stream()
    asked.shipped.drop_event(event)
    with pytest.raises(DeviceFault, match="400"):
        asked.shipped.record(event, stream)
    asked.shipped.drop_stream(stream)
    with pytest.raises(DeviceFault, match="400"):
        asked.shipped.record(asked.shipped.event(timing=True), stream)
