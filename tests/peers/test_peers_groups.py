"""What is measured with one start of a server, and how what it leaves behind is found."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from cw.benchmarks.peers import install
from cw.benchmarks.peers.cases import LOADS, SLOS_NS, Case
from cw.benchmarks.peers.install import environment_of
from cw.benchmarks.peers.measuring import recorded_runs
from cw.benchmarks.peers.peers import PEERS
from cw.benchmarks.peers.processes import ServerFailed, running
from cw.benchmarks.peers.running import make_groups
from cw.benchmarks.peers.servers.served import RUN_RECORD

EIGHT = Case(8)


def _groups(name, case=EIGHT):
    return make_groups([PEERS[name]], [case], LOADS, SLOS_NS)


def test_who_takes_the_slo_with_each_request_is_started_once():
    """Its three runs at each load are of one server that is warm."""
    (group,) = _groups("triton-reject")

    assert len(group.cells) == 1 + len(LOADS) * len(SLOS_NS)


def test_who_must_know_it_at_the_start_is_started_for_each():
    """BentoML told of 100 ms is another server than BentoML told of 25 ms."""
    groups = _groups("bentoml")

    assert [group.slo_ns for group in groups] == list(SLOS_NS)
    assert {cell.slo_ns for cell in groups[1].cells} == {SLOS_NS[1]}


def test_who_can_not_be_told_has_one_run_for_all_columns():
    """To run it three times would change nothing but the noise."""
    (group,) = _groups("ray")

    assert [cell.load for cell in group.cells] == [0, *LOADS]


def test_added_latency_is_measured_once_a_case():
    """One request at a time, first of all; where models are swapped it would be LOADs."""
    cells = [cell for group in _groups("bentoml") for cell in group.cells]
    assert sum(not cell.load for cell in cells) == 1

    assert all(cell.load for group in _groups("mlserver", Case(64, 16)) for cell in group.cells)


def test_cells_have_keys_of_their_own():
    """Two cells under one key would overwrite one another."""
    groups = make_groups(list(PEERS.values()), [EIGHT, Case(64), Case(64, 16)], LOADS, SLOS_NS)
    keys = [cell.key for group in groups for cell in group.cells]

    assert len(keys) == len(set(keys))


def test_runs_outside_of_the_load_are_not_counted():
    """Warm-ups are in the same file; the last record may be cut off."""
    runs = [(90, 10, 1), (100, 10, 2), (150, 30, 4), (200, 10, 8)]
    records = b"".join(RUN_RECORD.pack(*run) for run in runs)[:-1]

    found = recorded_runs(records, 100, 100)
    assert found == {"runs": 2, "mean_batch": 3.0, "busy_share": 0.4}


async def test_daemons_are_found_and_ended(tmp_path):
    """Ray's leave their parent and their session; left running they would disturb the next."""
    daemon = "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)"
    sleep = "import time; time.sleep(60)"
    core = min(os.sched_getaffinity(0))
    argv = [sys.executable, "-c", f"{daemon}; {sleep}"]
    async with running(argv, core=core, environment={}, folder=tmp_path) as server:
        with trio.fail_after(20):
            while len(server.pids()) < 2:
                await trio.sleep(0.01)
        pids = server.pids()
        assert all(os.sched_getaffinity(pid) == {core} for pid in pids)
        assert server.memory_bytes() > 1 << 20

    assert server.pids() == []


async def test_a_server_that_ends_says_why(tmp_path):
    """Its last words go into the table."""
    argv = [sys.executable, "-c", "raise SystemExit('no stub for this Python')"]
    async with running(argv, core=0, environment={}, folder=tmp_path) as server:
        await trio.to_thread.run_sync(server.process.wait)
        with pytest.raises(ServerFailed, match="status 1: no stub for this Python"):
            server.check()


def test_a_peer_that_can_not_be_installed_says_why(tmp_path, monkeypatch):
    """It is one row of the table, not the end of the run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "No matching distribution found")

    monkeypatch.setattr(install.subprocess, "run", run)
    with pytest.raises(ServerFailed, match="No matching distribution"):
        environment_of("triton", say=lambda _: None)


def test_all_peers_are_pinned():
    """The same command measures the same versions next year; torch is alike in all of them."""
    pins = Path(install.__file__).parents[3] / "tools" / "requirements" / "peers"
    for peer in PEERS.values():
        if not peer.is_cw:
            lines = (pins / f"{peer.installed_as}.txt").read_text().splitlines()[1:]
            assert all("==" in line for line in lines)
            assert "torch==2.13.0" in lines
            assert peer.version
