"""`cw doctor`: what it finds of a cluster's own processes, and how it finds them."""

import os

import attrs
import pytest

from cw.doctor import processes
from cw.doctor.finding import Verdict
from cw.doctor.gathering import processes as gathering
from cw.doctor.processes import ProcessFacts
from cw.units import KiB, MiB

GOOD = ProcessFacts(
    name="gateway-0",
    pid=7,
    files_used=100,
    files_limit=1000,
    is_realtime=True,
    swapped_bytes=0,
    is_restarted=False,
)
CASES = [
    ({"files_used": 801}, "files in use", "problem", "prlimit --pid 7 "),
    ({"is_realtime": False}, "scheduling", "warning", "LimitRTPRIO"),
    ({"swapped_bytes": MiB}, "swapped out", "warning", "swapoff"),
    ({"is_restarted": True}, "processes", "warning", "logs/gateway-0.log"),
]


def test_processes_in_order_are_not_warned_of():
    """Whoever is warned for nothing stops reading warnings."""
    other = attrs.evolve(GOOD, name="executor-0", files_used=None, files_limit=None)

    assert {finding.verdict for finding in processes.check([GOOD, other])} == {Verdict.OK}
    assert {finding.verdict for finding in processes.check([other])} == {Verdict.OK}
    assert {finding.verdict for finding in processes.check([])} == {Verdict.OK}


@pytest.mark.parametrize(("changes", "check", "verdict", "mend"), CASES)
def test_one_fault_is_one_finding(changes, check, verdict, mend):
    """The one thing that is wrong is named alone, with the process that it is about."""
    findings = processes.check(
        [attrs.evolve(GOOD, name="controller"), attrs.evolve(GOOD, **changes)]
    )
    (bad,) = [finding for finding in findings if finding.verdict is not Verdict.OK]

    assert (bad.check, bad.verdict.value) == (check, verdict)
    assert "gateway-0" in bad.found
    assert mend in bad.mend


def test_a_cluster_finds_its_own_processes(tmp_path):
    """Several clusters may run on a machine; each has its folder on its command lines."""
    folder, pid = tmp_path / "cluster", os.getpid()
    ticks = os.sysconf("SC_CLK_TCK")
    shared = ["--folder", str(folder), "--supervised"]
    proc = tmp_path / "proc"
    for number, words in {
        pid: ["python", "-m", "cw", "executor", "--name", "executor-0", *shared],
        pid + 1: ["python", "-m", "cw", "executor", "--folder", "other", "--supervised"],
        pid + 2: ["less", str(folder)],
    }.items():
        (proc / str(number)).mkdir(parents=True)
        (proc / str(number) / "cmdline").write_bytes("\0".join(words).encode())
    (proc / "stat").write_text("cpu 1\nbtime 1000\n")
    # Field 22, the start, is the twentieth behind the name, which may look like anything.
    fields = " ".join(["S", *"0" * 18, str(5 * ticks), "0"])
    (proc / str(pid) / "stat").write_text(f"{pid} (a) b) {fields}\n")
    (proc / str(pid) / "status").write_text("Name:\tcw\nVmSwap:\t     12 kB\n")
    (proc / str(pid) / "fd").mkdir()
    (proc / str(pid) / "fd" / "0").touch()

    (before,) = gathering.processes(folder, 1006.0, tmp_path)
    (after,) = gathering.processes(folder, 1004.0, tmp_path)

    assert (before.name, before.pid, before.files_used) == ("executor-0", pid, 1)
    assert before.swapped_bytes == 12 * KiB
    assert (before.is_restarted, after.is_restarted) == (False, True)
