"""`tools/fuzz`: feed every reader of foreign bytes with inputs that nobody would send on purpose.

Each target (tests/fuzz/targets.py) is fed by libFuzzer in a process of its own, which keeps the
inputs that reach new code and goes on from those. An input that crashes, takes more than 10 s or
2 GiB, or raises what its reader should not, ends the run: it is written to FOLDER/findings, and the
command says how to feed it again. The same seed feeds the same inputs, given the same corpus.

Examples:
  tools/fuzz
  tools/fuzz --inputs 1000000 --seed 7
  tools/fuzz --target graphs --inputs 50000 --keep
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import TARGETS, shares

ROOT: Final = Path(__file__).parents[2]
INPUT_S_MAX: Final = 10
MEMORY_MIB_MAX: Final = 2048
GROWTH_MIB_MAX: Final = 200
"""More resident memory than that, beyond what the target had when warm, is called a leak."""
INPUT_BYTES_MAX: Final = 1 << 14
KEPT_FILES_MAX: Final = 60
KEPT_BYTES_MAX: Final = 2048
_COUNTER_BYTES: Final = 24

people: Final = Console(stderr=True, highlight=False)


@attrs.frozen(kw_only=True)
class Fed:
    """What one target was fed, and what came of it."""

    target: str
    inputs: int
    seconds: float
    growth_bytes: int
    corpus: int
    """Inputs that reach code which no smaller set of them does, the seeds among them."""
    finding: str | None = None
    """Where the input lies that shows what is wrong."""

    @property
    def is_sound(self) -> bool:
        """Whether nothing was found, a leak included."""
        return self.finding is None and self.growth_bytes < GROWTH_MIB_MAX << 20


def feed(name: str, inputs: int, seed: int, folder: Path, progress: Progress) -> Fed:
    """Feed one target in a process of its own."""
    corpus, findings = folder / "corpus" / name, folder / "findings"
    for place in (corpus, findings):
        place.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()[name]):
        (corpus / f"seed-{number}").write_bytes(data)
    kept = CORPUS / name
    options = [
        f"-runs={inputs}", f"-seed={seed}", f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-max_len={INPUT_BYTES_MAX}", "-print_final_stats=0",
        f"-artifact_prefix={findings}/{name}-",
        *(str(place) for place in (corpus, kept) if place.exists()),
    ]  # fmt: skip
    before, began_s = set(findings.iterdir()), time.monotonic()
    bar = progress.add_task(name, total=inputs)
    with tempfile.TemporaryDirectory() as scratch:
        counter, log = Path(scratch) / "counter", findings.parent / f"{name}.log"
        command = [sys.executable, "-m", "tests.fuzz.worker", name, str(counter), *options]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, env=_environment()
            )
            try:
                while process.poll() is None:
                    progress.update(bar, completed=_read(counter)[0])
                    time.sleep(0.2)
            finally:
                process.kill()
        fed, warm_bytes, now_bytes = _read(counter)
    new = sorted(set(findings.iterdir()) - before)
    finding = str(new[0]) if new else None
    if process.returncode and finding is None:
        finding = str(log)
    progress.update(bar, completed=inputs if finding is None else fed)
    return Fed(
        target=name,
        inputs=inputs if finding is None else fed,
        seconds=time.monotonic() - began_s,
        growth_bytes=max(0, now_bytes - warm_bytes),
        corpus=sum(1 for _ in corpus.iterdir()),
        finding=finding,
    )


def _read(counter: Path) -> tuple[int, int, int]:
    """Read what a worker notes: inputs fed, resident bytes when warm, resident bytes now."""
    data = counter.read_bytes() if counter.exists() else b""
    if len(data) != _COUNTER_BYTES:
        return 0, 0, 0
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, _COUNTER_BYTES, 8)]
    return words[0], words[1], words[2]


def _environment() -> dict[str, str]:
    """Let the worker find the fuzzer, and forget what differs from run to run."""
    paths = [str(ROOT), str(ROOT / ".cw" / "fuzz")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"}


def keep(name: str, folder: Path) -> int:
    """Take the smallest inputs of a run into the checkout's corpus; return how many are new."""
    place = CORPUS / name
    place.mkdir(parents=True, exist_ok=True)
    found = sorted((folder / "corpus" / name).iterdir(), key=lambda path: path.stat().st_size)
    room, new = KEPT_FILES_MAX - sum(1 for _ in place.iterdir()), 0
    for path in found:
        if new >= room or path.stat().st_size > KEPT_BYTES_MAX:
            break
        target = place / f"{path.name}.bin"  # Whatever it may look like, it is no text.
        if path.name.startswith("seed-") or target.exists():
            continue
        shutil.copy(path, target)
        new += 1
    return new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("--inputs", type=int, default=100_000, help="of all targets; 100,000")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / ".cw" / "fuzzing",
        help="for corpus, findings and logs; what it holds is gone on from",
    )
    parser.add_argument("--keep", action="store_true", help="add to tests/fuzz/corpus")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def show(results: list[Fed]) -> None:
    """Tell people what was fed and found."""
    for it in results:
        state = "sound" if it.is_sound else f"FOUND: {it.finding or 'memory grows'}"
        people.print(
            f"{it.target:<11} {it.inputs:>9,} inputs {it.seconds:>6.0f} s  "
            f"{it.growth_bytes / 2**20:>5.0f} MiB grown  {it.corpus:>5} kept  {state}"
        )
    total = sum(it.inputs for it in results)
    people.print(
        f"{total:,} inputs, {sum(not it.is_sound for it in results)} target(s) with findings"
    )
    for it in results:
        if it.finding is not None:
            people.print(
                f"again: PYTHONPATH=.cw/fuzz python -m tests.fuzz.worker {it.target} /dev/null "
                f"{it.finding}"
            )


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="tools/fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    args = parser.parse_args(arguments)
    names = tuple(dict.fromkeys(args.target or TARGETS))
    results = []
    columns: tuple[Any, ...] = (
        TextColumn("{task.description:<11}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=people) as progress:
        for name, inputs in shares(args.inputs, names).items():
            results.append(feed(name, inputs, args.seed, args.folder, progress))
    show(results)
    if args.keep:
        people.print(f"{sum(keep(name, args.folder) for name in names)} new in tests/fuzz/corpus")
    if args.json:
        print(json.dumps([{**attrs.asdict(it), "is_sound": it.is_sound} for it in results]))
    return 0 if all(it.is_sound for it in results) else 1
