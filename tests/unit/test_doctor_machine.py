"""`cw doctor`: what it finds of a machine's settings, and what it reads them from."""

import attrs
import pytest

from cw.doctor import clocks, limits, memory, processors
from cw.doctor.clocks import ClockFacts
from cw.doctor.finding import Finding, Group, Verdict, ok, worst
from cw.doctor.gathering import machine
from cw.doctor.limits import LimitFacts
from cw.doctor.memory import MemoryFacts
from cw.doctor.processors import ProcessorFacts
from cw.units import MS, SECOND, US, GiB, MiB

GOOD_LIMITS = LimitFacts(open_files=65_536, open_files_hard=65_536, may_run_realtime=True)
GOOD_MEMORY = MemoryFacts(
    total_bytes=64 * GiB,
    available_bytes=32 * GiB,
    swap_total_bytes=0,
    swap_used_bytes=0,
    swappiness=60,
    huge_pages="madvise",
    folder="cluster",
    disk_free_bytes=100 * GiB,
)
GOOD_PROCESSORS = ProcessorFacts(
    cores=8,
    governors=("performance",),
    stolen_share=0.0,
    late_ns_p50=50 * US,
    late_ns_p99=100 * US,
    late_ns_max=2 * MS,
)
GOOD_CLOCKS = ClockFacts(source="tsc", is_synchronised=True, drift_ppm=-12.5)
SWAP = {"swap_total_bytes": GiB}

GOOD = [
    (limits, GOOD_LIMITS),
    (memory, GOOD_MEMORY),
    (processors, GOOD_PROCESSORS),
    (clocks, GOOD_CLOCKS),
]
CASES = [
    (limits, GOOD_LIMITS, {"open_files": 4095}, "open files", "warning", "ulimit -n 4096"),
    (limits, GOOD_LIMITS, {"open_files": 1023}, "open files", "problem", "ulimit -n 4096"),
    (
        *(limits, GOOD_LIMITS, {"open_files": 1024, "open_files_hard": 1024}),
        *("open files", "warning", "LimitNOFILE"),
    ),
    (
        *(limits, GOOD_LIMITS, {"may_run_realtime": False}),
        *("real-time priority", "warning", "LimitRTPRIO"),
    ),
    (limits, GOOD_LIMITS, {"cpu_quota_cores": 2.5}, "processor quota", "warning", "--cpuset-cpus"),
    (
        *(limits, GOOD_LIMITS, {"cpu_quota_cores": 2.0, "throttled_periods": 3}),
        *("processor quota", "problem", "--cpuset-cpus"),
    ),
    (
        *(limits, GOOD_LIMITS, {"memory_limit_bytes": 1000, "memory_used_bytes": 901}),
        *("memory limit", "problem", "gpu_memory"),
    ),
    (memory, GOOD_MEMORY, {"available_bytes": 6 * GiB}, "memory", "warning", "gpu_memory"),
    (memory, GOOD_MEMORY, {"available_bytes": 1 * GiB}, "memory", "problem", "gpu_memory"),
    (memory, GOOD_MEMORY, SWAP, "swap", "warning", "swapoff"),
    (
        *(memory, GOOD_MEMORY, SWAP | {"swappiness": 1, "swap_used_bytes": 1}),
        *("swap", "warning", "swapoff"),
    ),
    (memory, GOOD_MEMORY, {"huge_pages": "always"}, "transparent huge pages", "warning", "madvise"),
    (memory, GOOD_MEMORY, {"disk_free_bytes": 4 * GiB}, "disk", "warning", "cw model remove"),
    (memory, GOOD_MEMORY, {"disk_free_bytes": 1 * MiB}, "disk", "problem", "cw model remove"),
    (processors, GOOD_PROCESSORS, {"cores": 1}, "processors", "warning", "--solo"),
    (
        *(processors, GOOD_PROCESSORS, {"governors": ("performance", "powersave")}),
        *("clock governor", "warning", "scaling_governor"),
    ),
    (processors, GOOD_PROCESSORS, {"stolen_share": 0.02}, "stolen time", "warning", "dedicated"),
    (processors, GOOD_PROCESSORS, {"late_ns_p99": 2 * MS}, "wake-ups", "warning", "margin"),
    (clocks, GOOD_CLOCKS, {"source": "hpet"}, "clock source", "warning", "echo tsc"),
    (clocks, GOOD_CLOCKS, {"is_synchronised": False}, "time service", "warning", "set-ntp"),
    (clocks, GOOD_CLOCKS, {"drift_ppm": -101.0}, "clock drift", "warning", "chronyc"),
]


@pytest.mark.parametrize(("group", "facts"), GOOD, ids=lambda value: type(value).__name__)
def test_a_good_machine_is_not_warned_of(group, facts):
    """Whoever is warned for nothing stops reading warnings."""
    assert {finding.verdict for finding in group.check(facts)} == {Verdict.OK}


@pytest.mark.parametrize(
    ("group", "good", "changes", "check", "verdict", "mend"),
    CASES,
    ids=[f"{case[3]}-{case[4]}-{number}" for number, case in enumerate(CASES)],
)
def test_one_bad_setting_is_one_finding(group, good, changes, check, verdict, mend):
    """The one setting that is wrong is named alone, with the command that mends it."""
    findings = group.check(attrs.evolve(good, **changes))
    (bad,) = [finding for finding in findings if finding.verdict is not Verdict.OK]

    assert (bad.check, bad.verdict.value) == (check, verdict)
    assert mend in bad.mend


def test_what_a_system_does_not_tell_is_no_warning():
    """A virtual machine has no governor to set: nobody could mend that."""
    findings = [
        *clocks.check(ClockFacts(source=None, is_synchronised=None, drift_ppm=None)),
        *processors.check(attrs.evolve(GOOD_PROCESSORS, governors=())),
        *memory.check(attrs.evolve(GOOD_MEMORY, huge_pages=None)),
    ]

    assert {finding.verdict for finding in findings} == {Verdict.OK}
    assert sum("not told by this" in finding.found for finding in findings) == 5


def test_idle_swap_that_is_not_wanted_is_left_alone():
    """With a swappiness of 1 the kernel swaps only to save itself."""
    facts = attrs.evolve(GOOD_MEMORY, **SWAP, swappiness=1)

    assert {finding.verdict for finding in memory.check(facts)} == {Verdict.OK}


def test_a_warning_must_say_what_to_do():
    """A finding without a way out is half a check: it can't be made."""
    with pytest.raises(AssertionError, match="way out"):
        Finding(check="disk", verdict=Verdict.WARNING, found="full")


def test_the_worst_finding_decides():
    """Scripts go by one word, whichever group the problem is in."""
    bad = {"found": "f", "expected": "e", "why": "w", "mend": "m"}
    fine = Group(title="a", findings=(ok("x", "fine"),))
    odd = Group(title="b", findings=(Finding(check="y", verdict=Verdict.WARNING, **bad),))
    broken = Group(title="c", findings=(Finding(check="z", verdict=Verdict.PROBLEM, **bad),))

    assert worst([fine]) is Verdict.OK
    assert worst([fine, odd]) is Verdict.WARNING
    assert worst([broken, odd, fine]) is Verdict.PROBLEM


def lay_out(root, **files):
    """Write a machine's files below a folder; ``__`` in a name stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_control_group_of_version_2_is_read(tmp_path):
    """Containers of today: a quota of 150 ms in each 100 ms, and a limit with cache in use."""
    lay_out(
        tmp_path,
        proc__self__cgroup="0::/pod/box\n",
        **{
            "sys__fs__cgroup__pod__box__cpu.max": "150000 100000\n",
            "sys__fs__cgroup__pod__box__cpu.stat": "nr_throttled 4\nthrottled_usec 70\n",
            "sys__fs__cgroup__pod__box__memory.max": f"{2 * GiB}\n",
            "sys__fs__cgroup__pod__box__memory.current": f"{1 * GiB}\n",
            "sys__fs__cgroup__pod__box__memory.stat": f"anon 5\nfile {1000 * MiB}\n",
        },
    )
    facts = machine.limits(tmp_path)

    assert (facts.cpu_quota_cores, facts.throttled_periods) == (1.5, 4)
    assert facts.throttled_ns == 70 * US
    assert (facts.memory_limit_bytes, facts.memory_used_bytes) == (2 * GiB, 24 * MiB)


def test_a_control_group_of_version_1_is_read(tmp_path):
    """Older hosts mount a folder for each controller, and tell 'none' by -1 and near 2**63."""
    lay_out(
        tmp_path,
        proc__self__cgroup="4:memory:/box\n3:cpu,cpuacct:/box\n0::/\n",
        **{
            "sys__fs__cgroup__cpu__box__cpu.cfs_quota_us": "50000\n",
            "sys__fs__cgroup__cpu__box__cpu.cfs_period_us": "100000\n",
            "sys__fs__cgroup__cpu__box__cpu.stat": "nr_throttled 9\nthrottled_time 80\n",
            "sys__fs__cgroup__memory__box__memory.limit_in_bytes": "9223372036854771712\n",
            "sys__fs__cgroup__memory__box__memory.usage_in_bytes": "1\n",
        },
    )
    facts = machine.limits(tmp_path)

    assert (facts.cpu_quota_cores, facts.throttled_periods, facts.throttled_ns) == (0.5, 9, 80)
    assert facts.memory_limit_bytes is None


def test_memory_and_processors_are_read(tmp_path):
    """Each figure must come from its own line: a share of the wrong column looks plausible."""
    cpu = "sys__devices__system__cpu__cpu"
    lay_out(
        tmp_path,
        proc__meminfo="MemTotal: 100 kB\nMemAvailable: 40 kB\nSwapTotal: 9 kB\nSwapFree: 7 kB\n",
        proc__stat="cpu  10 0 10 60 5 5 0 10 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n",
        proc__sys__vm__swappiness="60\n",
        sys__kernel__mm__transparent_hugepage__enabled="[always] madvise never\n",
        sys__devices__system__clocksource__clocksource0__current_clocksource="hpet\n",
        **{
            f"{cpu}0__cpufreq__scaling_governor": "powersave\n",
            f"{cpu}11__cpufreq__scaling_governor": "performance\n",
        },
    )
    found = machine.memory(tmp_path, tmp_path)
    facts = machine.processors(tmp_path)

    assert (found.total_bytes, found.available_bytes) == (102_400, 40_960)
    assert (found.swap_total_bytes, found.swap_used_bytes) == (9_216, 2_048)
    assert (found.swappiness, found.huge_pages) == (60, "always")
    assert facts.governors == ("performance", "powersave")
    assert facts.stolen_share == 0.1
    assert machine.clocks(tmp_path).source == "hpet"


def test_a_machine_without_these_files_is_read(tmp_path):
    """Kernels differ: what is not there must not end the examination."""
    facts = machine.processors(tmp_path)

    assert (facts.governors, facts.stolen_share) == ((), 0.0)
    assert machine.clocks(tmp_path).source is None
    assert machine.limits(tmp_path).memory_limit_bytes is None


def test_this_machine_is_read():
    """The real files and calls: what they say must at least be possible."""
    found, facts, clock = machine.limits(), machine.processors(), machine.clocks()

    assert 0 < found.open_files <= found.open_files_hard
    assert facts.cores >= 1
    assert 0 <= facts.late_ns_p50 <= facts.late_ns_p99 <= facts.late_ns_max < 60 * SECOND
    assert clock.drift_ppm is None or abs(clock.drift_ppm) < 1000
