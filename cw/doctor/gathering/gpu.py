"""Facts of the NVIDIA cards, asked of `nvidia-smi`: if the driver hangs, only that one does."""

import csv
import subprocess
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

import attrs

from cw.doctor.gathering.versions import installed_version
from cw.doctor.gpu import CardFacts, GpuFacts

_ANSWER_WITHIN_S: Final = 10
"""Without persistence mode the first call wakes the card, which takes seconds."""
FIELDS: Final = (
    *("index", "uuid", "name", "driver_version", "persistence_mode", "clocks.sm", "clocks.max.sm"),
    *("utilization.gpu", "ecc.mode.current", "ecc.errors.uncorrected.volatile.total"),
    *("compute_mode", "mig.mode.current", "pcie.link.width.current", "pcie.link.width.max"),
    *("pcie.link.gen.current", "pcie.link.gen.max"),
)
_FORMAT: Final = "--format=csv,noheader,nounits"
_ROOT: Final = Path("/")


def gpu(command: str = "nvidia-smi", root: Path = _ROOT) -> GpuFacts:
    """Ask for the cards and who uses them.

    Args:
        command: What to run.
        root: Of the file system: whether there is a driver, and what the processes are.
    """
    try:
        cards = list(_cards(_ask(command, f"--query-gpu={','.join(FIELDS)}")))
        users = _ask(command, "--query-compute-apps=gpu_uuid,pid,process_name") if cards else ""
    except (OSError, subprocess.SubprocessError) as exc:
        has_driver = (root / "proc/driver/nvidia/version").exists()
        if isinstance(exc, FileNotFoundError) and not has_driver:
            return GpuFacts(why_none="no GPU: neither nvidia-smi nor NVIDIA's driver is here")
        return GpuFacts(why_none=f"a driver is here, but {_trouble(command, exc)}", is_asked=False)
    if not cards:
        return GpuFacts(why_none="no GPU: nvidia-smi shows none")
    return GpuFacts(
        why_none="",
        cards=tuple(_with_users(uuid, card, users, root) for uuid, card in cards),
        torch=installed_version("torch"),
    )


def _ask(command: str, query: str) -> str:
    return subprocess.run(
        [command, query, _FORMAT],
        capture_output=True,
        text=True,
        timeout=_ANSWER_WITHIN_S,
        check=True,
        stdin=subprocess.DEVNULL,
    ).stdout


def _trouble(command: str, exc: Exception) -> str:
    if isinstance(exc, subprocess.TimeoutExpired):
        return f"{command} did not answer within {_ANSWER_WITHIN_S} s"
    if isinstance(exc, subprocess.CalledProcessError):
        # It tells its own errors on standard output.
        said = (exc.stderr or exc.stdout or "").strip().splitlines()
        return f"{command} ended with status {exc.returncode}: {said[-1] if said else 'no word'}"
    return f"{command} can't be run ({exc})"


def _cards(text: str) -> Iterator[tuple[str, CardFacts]]:
    """Read the answer to `FIELDS`: a line for each card, in their order."""
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(FIELDS):
            continue  # "No devices were found"
        told = dict(zip(FIELDS, row, strict=True))
        busy = _number(told, "utilization.gpu")
        yield (
            told["uuid"],
            CardFacts(
                index=int(told["index"]),
                name=told["name"],
                driver=told["driver_version"],
                persistence=_word(told, "persistence_mode"),
                sm_mhz=_number(told, "clocks.sm"),
                sm_max_mhz=_number(told, "clocks.max.sm"),
                busy_ratio=None if busy is None else busy / 100,
                ecc=_word(told, "ecc.mode.current"),
                uncorrected_errors=_number(told, "ecc.errors.uncorrected.volatile.total"),
                compute_mode=_word(told, "compute_mode"),
                mig=_word(told, "mig.mode.current"),
                link_width=_number(told, "pcie.link.width.current"),
                link_width_max=_number(told, "pcie.link.width.max"),
                link_generation=_number(told, "pcie.link.gen.current"),
                link_generation_max=_number(told, "pcie.link.gen.max"),
            ),
        )


def _word(told: Mapping[str, str], field: str) -> str:
    """Give a word; empty for what a card does not tell, such as ``[N/A]``."""
    return "" if told[field].startswith("[") else told[field]


def _number(told: Mapping[str, str], field: str) -> int | None:
    return int(told[field]) if told[field].isdigit() else None


def _with_users(uuid: str, card: CardFacts, users: str, root: Path) -> CardFacts:
    """Sort who uses the card into executors of cw and all others."""
    executors: list[str] = []
    others: list[str] = []
    for row in csv.reader(users.splitlines(), skipinitialspace=True):
        if len(row) == 3 and row[0] == uuid:
            is_ours = _is_executor(root / "proc" / row[1] / "cmdline")
            (executors if is_ours else others).append(f"{row[1]} {row[2]}")
    return attrs.evolve(card, executors=tuple(executors), others=tuple(others))


def _is_executor(path: Path) -> bool:
    """Say whether a process is ``python -m cw executor ...``, or ``solo``, which holds one."""
    try:
        words = path.read_bytes().split(b"\0")
    except OSError:  # of another container, or gone
        return False
    roles = {b"executor", b"solo"}
    return any(
        word.rpartition(b"/")[2] == b"cw" and after in roles for word, after in pairwise(words)
    )
