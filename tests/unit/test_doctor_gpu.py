"""`cw doctor`: what it finds of NVIDIA cards, by what `nvidia-smi` tells; and of versions."""

import stat

import attrs
import pytest

from cw.doctor import gpu, versions
from cw.doctor.finding import Verdict
from cw.doctor.gathering import gpu as gathering
from cw.doctor.gathering.versions import versions as gather_versions
from cw.doctor.gpu import CardFacts, GpuFacts
from cw.doctor.versions import VersionFacts

CARD = CardFacts(
    index=0,
    name="NVIDIA H100 80GB HBM3",
    driver="580.95.05",
    persistence="Enabled",
    sm_mhz=1755,
    sm_max_mhz=1980,
    busy_ratio=0.0,
    ecc="Enabled",
    uncorrected_errors=0,
    compute_mode="Exclusive_Process",
    mig="Disabled",
    link_width=16,
    link_width_max=16,
    link_generation=5,
    link_generation_max=5,
    executors=("812 python",),
)
CASES = [
    ({"persistence": "Disabled"}, "persistence mode", "warning", "-pm 1"),
    ({"sm_mhz": 345}, "clocks", "warning", "-lgc 1782"),
    ({"ecc": "Disabled"}, "ECC", "warning", "-e 1"),
    ({"uncorrected_errors": 2}, "ECC", "problem", "-i 0 -r"),
    ({"compute_mode": "Default"}, "compute mode", "warning", "-c EXCLUSIVE_PROCESS"),
    ({"compute_mode": "Prohibited"}, "compute mode", "problem", "-c EXCLUSIVE_PROCESS"),
    ({"mig": "Enabled"}, "MIG", "warning", "-mig 0"),
    ({"others": ("77 trainer",)}, "processes", "warning", "kill 77"),
    ({"executors": ("1 python", "2 python")}, "processes", "problem", "ordinal"),
    ({"link_width": 8}, "PCIe", "warning", "lspci"),
    ({"link_generation": 3, "busy_ratio": 0.9}, "PCIe", "warning", "lspci"),
]
VERSIONS = VersionFacts(
    python="3.12.1",
    python_asked=">=3.11",
    installed={"trio": "0.35.0", "pycapnp": "2.2.4", "torch": "2.13.0+cpu"},
    requirements=("trio>=0.30", "pycapnp>=2.2,<3", "torch>=2.11", "cuda-python>=13", "rich>=14"),
)
ANSWER = """\
0, GPU-a, NVIDIA H100 80GB HBM3, 580.95.05, Enabled, 1755, 1980, 0, Enabled, 0, \
Exclusive_Process, Disabled, 16, 16, 5, 5
1, GPU-b, NVIDIA GeForce RTX 4090, 580.95.05, Disabled, 210, 3105, 7, [N/A], [N/A], \
Default, [N/A], 8, 16, 1, 4
"""
USERS = "GPU-a, 812, python\nGPU-a, 813, trainer\n"


def fake_smi(folder, script):
    """Write a stand-in for `nvidia-smi`; give its path."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def bad(findings):
    return [finding for finding in findings if finding.verdict is not Verdict.OK]


def test_a_card_that_is_set_up_is_not_warned_of():
    """Whoever is warned for nothing stops reading warnings."""
    findings = gpu.check(GpuFacts(why_none="", cards=(CARD,), torch="2.13.0+cu130"))

    assert not bad(findings)
    assert "NVIDIA H100 80GB HBM3" in findings[0].found


@pytest.mark.parametrize(
    ("changes", "check", "verdict", "mend"),
    CASES,
    ids=[f"{case[1]}-{case[2]}-{number}" for number, case in enumerate(CASES)],
)
def test_one_bad_setting_is_one_finding(changes, check, verdict, mend):
    """The one setting that is wrong is named alone, with the command that mends it."""
    card = attrs.evolve(CARD, **changes)
    (finding,) = bad(gpu.check(GpuFacts(why_none="", cards=(card,))))

    assert (finding.check, finding.verdict.value) == (f"card 0: {check}", verdict)
    assert mend in finding.mend


def test_the_command_names_the_card_that_it_mends():
    """On a machine with eight cards the wrong one's clocks would be locked."""
    card = attrs.evolve(CARD, index=6, persistence="Disabled")
    (finding,) = bad(gpu.check(GpuFacts(why_none="", cards=(CARD, card))))

    assert finding.mend == "sudo nvidia-smi -i 6 -pm 1"


def test_an_idle_bus_may_be_slow():
    """Cards lower the bus's generation when they idle: that is no finding."""
    card = attrs.evolve(CARD, link_generation=1, busy_ratio=0.0)

    assert not bad(gpu.check(GpuFacts(why_none="", cards=(card,))))


def test_a_torch_that_cannot_use_the_card_is_told():
    """An environment for the cpu device, on a machine with a card, serves far under its means."""
    (finding,) = bad(gpu.check(GpuFacts(why_none="", cards=(CARD,), torch="2.13.0+cpu")))

    assert (finding.check, finding.found) == ("torch", "2.13.0+cpu")


def test_the_answer_of_nvidia_smi_is_read(tmp_path):
    """Columns are told apart by their order alone: one that is off by one would look plausible."""
    for query, text in (("gpu", ANSWER), ("compute", USERS)):
        (tmp_path / query).write_text(text)
    command = fake_smi(
        tmp_path,
        f'case "$1" in --query-gpu=*) cat {tmp_path}/gpu;; *) cat {tmp_path}/compute;; esac',
    )
    cmdline = tmp_path / "proc" / "812" / "cmdline"
    cmdline.parent.mkdir(parents=True)
    cmdline.write_bytes(b"python\0-m\0cw\0executor\0--folder\0f\0")
    facts = gathering.gpu(command, tmp_path)

    assert facts.cards[0] == attrs.evolve(CARD, executors=("812 python",), others=("813 trainer",))
    other = facts.cards[1]
    assert (other.index, other.persistence, other.busy_ratio) == (1, "Disabled", 0.07)
    assert (other.ecc, other.uncorrected_errors, other.mig) == ("", None, "")
    assert (other.link_width, other.link_generation_max) == (8, 4)
    assert (other.executors, other.others) == ((), ())


def test_no_gpu_is_told_plainly(tmp_path):
    """Most machines of a cluster have none: that is a fact, and no fault."""
    facts = gathering.gpu("no-such-command-of-nvidia", tmp_path)
    (finding,) = gpu.check(facts)

    assert finding.verdict is Verdict.OK
    assert finding.found.startswith("no GPU")


def test_cards_that_are_all_hidden_are_no_gpu(tmp_path):
    """`nvidia-smi` then says so in words, and ends well."""
    facts = gathering.gpu(fake_smi(tmp_path, "echo No devices were found"), tmp_path)

    assert facts == GpuFacts(why_none="no GPU: nvidia-smi shows none")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18", "mismatch"),
        ("exec sleep 60", "did not answer within"),
    ],
    ids=["fails", "hangs"],
)
def test_a_driver_in_trouble_is_a_warning(tmp_path, monkeypatch, script, said):
    """A driver that was updated under a running kernel, or hangs, is the first thing to know."""
    monkeypatch.setattr(gathering, "_ANSWER_WITHIN_S", 0.2)
    (finding,) = gpu.check(gathering.gpu(fake_smi(tmp_path, script), tmp_path))

    assert finding.verdict is Verdict.WARNING
    assert said in finding.found


def test_a_driver_without_nvidia_smi_is_a_warning(tmp_path):
    """Containers often have the driver's library alone: the card is there, and can't be judged."""
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text("NVRM version: 580\n")
    (finding,) = gpu.check(gathering.gpu("no-such-command-of-nvidia", tmp_path))

    assert finding.verdict is Verdict.WARNING
    assert finding.found.startswith("a driver is here, but")


def test_versions_that_fit_are_not_warned_of():
    """A build's own suffix (+cpu), and what only some roles need, are no deviation."""
    findings = versions.check(VERSIONS)

    assert not bad(findings)
    assert [finding.check for finding in findings] == [
        *("python", "trio", "pycapnp", "torch", "cuda-python")
    ]


@pytest.mark.parametrize(
    ("changes", "check", "found"),
    [
        ({"python": "3.10.4"}, "python", "3.10.4"),
        ({"installed": {**VERSIONS.installed, "pycapnp": "3.0.0"}}, "pycapnp", "3.0.0"),
        ({"installed": {**VERSIONS.installed, "torch": "2.9.1"}}, "torch", "2.9.1"),
        ({"installed": {"pycapnp": "2.2.4"}}, "trio", "not installed"),
    ],
    ids=["python", "too new", "too old", "missing"],
)
def test_a_version_that_does_not_fit_is_a_problem(changes, check, found):
    """It fails at the first call that is not there, in the midst of serving."""
    (finding,) = bad(versions.check(attrs.evolve(VERSIONS, **changes)))

    assert (finding.check, finding.found, finding.verdict) == (check, found, Verdict.PROBLEM)


def test_this_environment_is_what_is_asked_for():
    """The suite runs on it: a finding here is a false alarm, or a wrong pin."""
    facts = gather_versions()

    assert not bad(versions.check(facts))
    assert {"trio", "pycapnp"} <= set(facts.installed)
