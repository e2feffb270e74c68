"""`tools/gpu_check` without a GPU: its children, exits, table, and the names it relies on."""

import ast
import functools
import importlib
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import attrs
import pytest

from cw.devices.cuda.experiments import command, table
from cw.devices.cuda.experiments.figures import (
    Experiment,
    Measurement,
    Outcome,
    failed,
    passed,
)
from cw.devices.cuda.experiments.parent import Result, run_all
from cw.devices.cuda.experiments.presence import why_no_gpu
from cw.devices.cuda.experiments.suite import EXPERIMENTS
from cw.devices.cuda.experiments.table import TestRun as PytestRun

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "cw" / "devices" / "cuda" / "experiments"
CARD = {"card": "a card", "driver": "CUDA 13.0", "torch": "2.13.0", "date": "2026-01-02"}

# A child that does what its experiment's name says.
CHILD = """
    import os, signal, sys, time
    name = sys.argv[1]
    print("a library says something")
    if name == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "hang":
        time.sleep(60)
    if name == "fault":
        sys.exit("DriverRefused: cuStreamSynchronize answers 700")
    if name != "silent":
        print('MEASURED [{"name": "x", "value": 2.0, "unit": "us", "note": ""}]')
"""


@pytest.fixture
def child(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    return (sys.executable, str(script))


def experiment(name, *, wants="x", limit_s=30.0):
    return Experiment(
        name=name,
        question="What is x?",
        rule="x at most 3 us.",
        run=lambda rig: [],
        verdict=lambda figures: passed("x is small") if figures[wants] <= 3 else failed("large"),
        limit_s=limit_s,
    )


def run(child, *experiments, budget_s=60.0):
    return run_all(experiments, budget_s=budget_s, command=child, say=lambda line: None)


def test_one_broken_experiment_leaves_the_others_alone(child):
    """A fault poisons a CUDA context for good: the next experiment needs a process of its own."""
    results = run(child, *(experiment(name) for name in ("crash", "fault", "silent", "good")))

    assert [result.verdict.outcome for result in results] == [Outcome.FAIL] * 3 + [Outcome.PASS]
    crash, fault, silent, good = (result.verdict.words for result in results)
    assert "SIGSEGV" in crash
    assert "status 1" in fault
    assert "answers 700" in fault
    assert "a library says something" in silent
    assert good == "x is small"
    assert results[3].measurements == (Measurement(name="x", value=2.0, unit="us"),)


def test_an_experiment_that_hangs_is_ended(child):
    """A kernel that never ends must not cost the figures of all the others."""
    hung, good = run(child, experiment("hang", limit_s=0.5), experiment("good"))

    assert hung.verdict.outcome is Outcome.FAIL
    assert "no end after" in hung.verdict.words
    assert hung.took_s < 20
    assert good.verdict.outcome is Outcome.PASS


def test_what_the_budget_does_not_reach_fails_by_name(child):
    """An experiment that was left out must not look like one that passed."""
    first, second = run(child, experiment("hang"), experiment("good"), budget_s=0.5)

    assert "no end" in first.verdict.words
    assert second.verdict.outcome is Outcome.FAIL
    assert "--budget" in second.verdict.words


def test_a_verdict_without_its_figure_fails(child):
    """A verdict on a number that nobody measured would be an invention."""
    (result,) = run(child, experiment("good", wants="y"))

    assert result.verdict.outcome is Outcome.FAIL
    assert "'y'" in result.verdict.words


RESULT = Result(
    experiment=experiment("good"),
    measurements=(
        Measurement(name="x", value=2.0, unit="us"),
        Measurement(name="is it so", value=0.0, unit="yes/no"),
    ),
    verdict=passed("x is small | so it is"),
    took_s=1.26,
)
TESTS = [PytestRun("gpu tests", Outcome.FAIL, "1 failed, 3 passed")]


def test_the_table_shows_figures_rules_and_verdicts():
    """Whoever reads it must see by what rule a figure became a verdict."""
    text = table.as_text(CARD, [RESULT], TESTS)

    for part in ("a card", "2 us", "NO", "x at most 3 us.", "PASS: x is small", "FAIL: 1 failed"):
        assert part in text


def test_the_markdown_table_has_four_cells_a_row():
    """A stray bar in a sentence would shift the cells of docs/gpu.md."""
    rows = [row for row in table.as_markdown(CARD, [RESULT], TESTS).splitlines() if "|" in row]

    assert len(rows) == 4
    assert all(row.count("|") == 5 for row in rows)


def test_the_json_holds_the_card_and_each_number():
    """Numbers without the card that gave them can't be compared."""
    plain = json.loads(json.dumps(table.as_plain(CARD, [RESULT], TESTS)))

    assert plain["card"] == CARD
    assert plain["experiments"][0]["measurements"][0]["value"] == 2.0
    assert plain["experiments"][0]["outcome"] == "pass"
    assert plain["tests"][0]["outcome"] == "fail"


@pytest.mark.parametrize(
    ("status", "said", "outcome"),
    [
        (0, "...\n12 passed in 3.0s\n", Outcome.PASS),
        (1, "..F\n1 failed, 2 passed in 3.0s\n", Outcome.FAIL),
        (0, "sss\n3 skipped in 0.1s\n", Outcome.FAIL),
        (5, "no tests ran in 0.1s\n", Outcome.FAIL),
        (-11, "", Outcome.FAIL),
    ],
)
def test_tests_that_did_not_run_have_not_passed(status, said, outcome):
    """On a machine with a GPU a suite that skips itself is the failure to look for."""
    assert command.judge_tests("gpu tests", status, said).outcome is outcome


@pytest.mark.parametrize(("verdict", "status"), [(passed("so"), 0), (failed("not so"), 1)])
def test_exit_status_and_files(monkeypatch, tmp_path, capsys, verdict, status):
    """Continuous integration reads the status, and people the files."""
    result = attrs.evolve(RESULT, verdict=verdict)
    monkeypatch.setattr(command, "ask_child", lambda *_, **__: CARD)
    monkeypatch.setattr(command, "run_all", lambda *_, **__: [result])
    files = {"--json": tmp_path / "found.json", "--markdown": tmp_path / "table.md"}
    words = [str(word) for pair in files.items() for word in pair]

    assert command.main(["--only", "h2d", *words]) == status
    assert verdict.words in capsys.readouterr().out
    assert verdict.words in files["--markdown"].read_text()
    assert json.loads(files["--json"].read_text())["card"] == CARD


def test_unknown_experiments_are_named(capsys):
    """A misspelt name must not run nothing and pass."""
    with pytest.raises(SystemExit) as ended:
        command.main(["--only", "h2d,nonsense"])

    assert ended.value.code == command.STATUS_USAGE
    assert "got nonsense" in capsys.readouterr().err


def test_the_list_has_every_experiment(capsys):
    """A file that is not in the list would never run."""
    assert command.main(["--list"]) == 0
    shown = capsys.readouterr().out
    files = {path.stem for path in FOLDER.glob("*.py") if "EXPERIMENT: Final" in path.read_text()}

    assert files == set(EXPERIMENTS)
    assert all(name in shown for name in files)


def test_no_driver_is_told_in_one_sentence():
    """The most common machine without a GPU has no driver: say so, and nothing else."""
    reason = why_no_gpu("libno-such-driver.so.1")

    assert reason.startswith("No NVIDIA GPU: ")
    assert "libno-such-driver.so.1" in reason
    assert reason.count(".\n") == 0


@pytest.mark.skipif(not why_no_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_3_and_installs_nothing():
    """It must be safe to run anywhere: even Python's own packages are not asked for."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "tools" / "gpu_check")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("cw: No NVIDIA GPU: ")
    assert len(done.stderr.splitlines()) == 1


# As which the device's own driver (cw/devices/cuda/driver.py) holds the bindings.
PREFIXES = {"driver": ("self._cuda.",)}


@functools.cache
def names_used(root):
    """Attribute chains such as torch.cuda.graph that begin with a name."""
    chains = set()
    for path in FOLDER.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            for prefix in (f"{root}.", f"rig.{root}.", f"self.{root}.", *PREFIXES.get(root, ())):
                if text.startswith(prefix) and text.replace(".", "").replace("_", "").isalnum():
                    chains.add(text.removeprefix(prefix))
    # `driver` is also what the device calls its own, whose methods mypy knows.
    return sorted(name for name in chains if root != "driver" or name.lower().startswith("cu"))


@pytest.mark.parametrize(
    ("root", "module", "some"),
    [
        ("torch", "torch", {"cuda.ExternalStream", "cuda.graph_pool_handle", "cuda._sleep"}),
        ("driver", "cuda.bindings.driver", {"cuMemSetAccess", "cuStreamBeginCapture"}),
    ],
)
def test_every_name_that_only_a_gpu_would_try_exists(root, module, some):
    """These lines run on few machines; a misspelt call would be found on the wrong day."""
    library = importlib.import_module(module)
    used = names_used(root)

    assert some <= set(used)
    missing = [name for name in used if not _has(library, name)]
    assert not missing


def _has(library, name):
    try:
        functools.reduce(getattr, name.split("."), library)
    except AttributeError:
        return False
    return True
