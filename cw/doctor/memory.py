"""Memory and disk: whether weights stay where they were put, and records find a place."""

from collections.abc import Iterator

import attrs

from cw.config import ExecutorSettings
from cw.doctor.finding import Finding, Verdict, ok
from cw.units import GiB, format_bytes

_FREE_SHARE_LEAST = 0.1
_FREE_SHARE_BAD = 0.02
_SWAPPINESS_MOST = 10
_DISK_LEAST_BYTES = 5 * GiB
_DISK_BAD_BYTES = 1 * GiB
_RECORDS = "records of actions take up to 512 MiB per executor, and uploads need room in the store"


@attrs.frozen(kw_only=True)
class MemoryFacts:
    """The machine's memory, and the disk of a folder."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_used_bytes: int
    swappiness: int | None
    huge_pages: str | None
    """``always``, ``madvise`` or ``never``: of transparent huge pages; None: not told here."""
    folder: str
    """Whose disk was looked at."""
    disk_free_bytes: int


def check(facts: MemoryFacts) -> tuple[Finding, ...]:
    """Judge them."""
    return (*_memory(facts), _swap(facts), _huge_pages(facts), _disk(facts))


def _memory(facts: MemoryFacts) -> Iterator[Finding]:
    share = facts.available_bytes / facts.total_bytes
    found = f"{format_bytes(facts.available_bytes)} of {format_bytes(facts.total_bytes)} available"
    if share >= _FREE_SHARE_LEAST:
        yield ok("memory", found)
        return
    yield Finding(
        check="memory",
        verdict=Verdict.PROBLEM if share < _FREE_SHARE_BAD else Verdict.WARNING,
        found=found,
        expected=f"{_FREE_SHARE_LEAST:.0%} or more",
        why="an allocation waits while the kernel frees memory, and images of models leave the "
        "page cache: a LOAD then reads the disk, and takes longer than was promised",
        mend="stop what else runs here ('ps -eo rss,pid,comm --sort -rss | head' shows it), or "
        "give executors less: [executor] gpu_memory and host_memory in the cluster file (by "
        f"default {format_bytes(ExecutorSettings().gpu_memory_bytes)} and "
        f"{format_bytes(ExecutorSettings().host_memory_bytes)} each)",
    )


def _swap(facts: MemoryFacts) -> Finding:
    if not facts.swap_total_bytes:
        return ok("swap", "none")
    used, total = format_bytes(facts.swap_used_bytes), format_bytes(facts.swap_total_bytes)
    found = f"{used} of {total} used, swappiness {facts.swappiness}"
    is_eager = facts.swappiness is None or facts.swappiness > _SWAPPINESS_MOST
    if not facts.swap_used_bytes and not is_eager:
        return ok("swap", found)
    return Finding(
        check="swap",
        verdict=Verdict.WARNING,
        found=found,
        expected=f"no swap; else unused, with a swappiness of at most {_SWAPPINESS_MOST}",
        why="weights that have been swapped out are read from the disk in the midst of an "
        "inference: milliseconds become seconds",
        mend="sudo swapoff -a   (or: sudo sysctl vm.swappiness=1)",
    )


def _huge_pages(facts: MemoryFacts) -> Finding:
    if facts.huge_pages is None:
        return ok("transparent huge pages", "not told by this system")
    if facts.huge_pages != "always":
        return ok("transparent huge pages", facts.huge_pages)
    return Finding(
        check="transparent huge pages",
        verdict=Verdict.WARNING,
        found="always",
        expected="madvise or never",
        why="the kernel may stop a thread that touches new memory to tidy up 2 MiB for it, and "
        "gathers pages behind everyone's back",
        mend="echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
    )


def _disk(facts: MemoryFacts) -> Finding:
    found = f"{format_bytes(facts.disk_free_bytes)} free for {facts.folder}"
    if facts.disk_free_bytes >= _DISK_LEAST_BYTES:
        return ok("disk", found)
    return Finding(
        check="disk",
        verdict=Verdict.PROBLEM if facts.disk_free_bytes < _DISK_BAD_BYTES else Verdict.WARNING,
        found=found,
        expected=f"{format_bytes(_DISK_LEAST_BYTES)} or more",
        why=f"{_RECORDS}; what finds none is lost",
        mend="remove models that nobody asks for ('cw model remove NAME'), or lay the cluster's "
        "folder on a larger disk (--dir)",
    )
