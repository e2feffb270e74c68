"""`tools/gpu_check`, once there is a GPU and a Python that can use it."""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cw.devices.cuda.experiments import table
from cw.devices.cuda.experiments.child import CARD
from cw.devices.cuda.experiments.figures import Outcome
from cw.devices.cuda.experiments.parent import CHILD, ChildFailed, ask_child, run_all
from cw.devices.cuda.experiments.suite import EXPERIMENTS
from cw.devices.cuda.experiments.table import TestRun

ROOT: Final = Path(__file__).resolve().parents[4]
STATUS_FAILED: Final = 1
STATUS_USAGE: Final = 2

_BUDGET_S: Final = 540.0
_CARD_LIMIT_S: Final = 60.0
_TEST_PARTS: Final = {
    "device contract": ("tests/actor/test_device_contract.py",),
    "gpu tests": ("tests/gpu",),
}
_TEST_PACKAGES: Final = ("trio", "pytest", "pytest_trio", "pytest_timeout", "hypothesis", "capnp")
_NOTHING_COLLECTED: Final = 5


def main(arguments: Sequence[str]) -> int:
    """Run experiments and tests, print the table, and return the exit status."""
    asked = _parse(arguments)
    if asked.list:
        for experiment in EXPERIMENTS.values():
            print(f"{experiment.name:<16} {experiment.question}\n{'':<16} {experiment.rule}")
        return 0
    end_s = time.monotonic() + asked.budget
    try:
        card = ask_child([*CHILD, CARD], limit_s=_CARD_LIMIT_S)
    except ChildFailed as problem:
        _say(f"The card can't be used from {sys.executable}: {problem}.")
        return STATUS_FAILED
    names = asked.only or list(EXPERIMENTS)
    chosen = [EXPERIMENTS[name] for name in names]
    results = run_all(chosen, budget_s=end_s - time.monotonic(), say=_say)
    tests: list[TestRun] = []
    if not asked.only and not asked.no_tests:
        marked = "gpu" if asked.slow else "gpu and not slow"
        tests = [
            run_tests(name, ["-m", marked, *part], limit_s=end_s - time.monotonic())
            for name, part in _TEST_PARTS.items()
        ]
    print(table.as_text(card, results, tests))
    if asked.json:
        text = json.dumps(table.as_plain(card, results, tests), indent=1) + "\n"
        Path(asked.json).write_text(text, encoding="utf-8")
    if asked.markdown:
        text = table.as_markdown(card, results, tests) + "\n"
        Path(asked.markdown).write_text(text, encoding="utf-8")
    outcomes = [result.verdict.outcome for result in results] + [test.outcome for test in tests]
    return 0 if all(outcome.is_good for outcome in outcomes) else STATUS_FAILED


def run_tests(name: str, arguments: Sequence[str], *, limit_s: float) -> TestRun:
    """Run pytest in a child; its output goes to stderr, its summary line into the result."""
    missing = [package for package in _TEST_PACKAGES if not importlib.util.find_spec(package)]
    if missing:
        return TestRun(name, Outcome.FAIL, f"not run: {sys.executable} lacks {', '.join(missing)}")
    if limit_s <= 0:
        return TestRun(name, Outcome.FAIL, "not run: the budget was spent")
    _say(f"{name}: pytest {' '.join(arguments)}")
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TestRun(name, Outcome.FAIL, f"no end after {limit_s:.0f} s")
    print(done.stdout, file=sys.stderr, end="", flush=True)
    return judge_tests(name, done.returncode, done.stdout)


def judge_tests(name: str, status: int, said: str) -> TestRun:
    """Read a run of pytest: tests that were all skipped have proved nothing."""
    summary = next(
        (line for line in reversed(said.splitlines()) if line.strip()), "it said nothing"
    )
    if status == _NOTHING_COLLECTED or "passed" not in summary:
        return TestRun(name, Outcome.FAIL, f"no test ran: {summary}")
    return TestRun(name, Outcome.PASS if status == 0 else Outcome.FAIL, summary.strip("= "))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/gpu_check",
        description="Check what the cuda device assumes of the GPU that is here.",
    )
    parser.add_argument("--list", action="store_true", help="say which experiments there are")
    parser.add_argument("--only", type=_names, metavar="A,B", help="these experiments, no tests")
    parser.add_argument("--slow", action="store_true", help="the slow tests, too: 2,000 models")
    parser.add_argument("--no-tests", action="store_true", help="experiments alone")
    parser.add_argument(
        "--budget", type=float, default=_BUDGET_S, metavar="S", help="seconds (%(default)s)"
    )
    parser.add_argument("--json", "--out", metavar="FILE", help="write all figures as JSON")
    parser.add_argument("--markdown", metavar="FILE", help="write the table for docs/gpu.md")
    parser.add_argument(
        "--python", metavar="PATH", help="a Python with torch for CUDA (or CW_PYTHON)"
    )
    return parser.parse_args(arguments)


def _names(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        known = ", ".join(EXPERIMENTS)
        raise argparse.ArgumentTypeError(f"expected some of {known}; got {', '.join(unknown)}")
    return names


def _say(line: str) -> None:
    print(f"gpu_check: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
