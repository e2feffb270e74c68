"""Which Python `tools/gpu_check` takes where there is a GPU."""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "gpu_check"


@pytest.fixture
def gpu_check(monkeypatch):
    """The script as a module, on a machine with a GPU."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("CW_PYTHON", raising=False)
    loader = importlib.machinery.SourceFileLoader("gpu_check", str(SCRIPT))
    spec = importlib.util.spec_from_loader("gpu_check", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.setattr(module, "why_no_gpu", lambda: "")
    return module


def stub_python(folder, name, *, fit):
    """A Python that says whether it can use the GPU, and how it is called otherwise."""
    path = folder / name
    answer = "exit 0" if fit else "echo its torch was built without CUDA >&2; exit 1"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = -c ]; then {answer}; fi\necho "$@" > {path}.called\nexit 7\n'
    )
    path.chmod(0o755)
    return path


def test_the_named_python_runs_the_command(gpu_check, tmp_path, monkeypatch):
    """Arguments and status must come through: others read them."""
    python = stub_python(tmp_path, "fit", fit=True)
    monkeypatch.setenv("CW_PYTHON", str(python))

    assert gpu_check.main(["--only", "h2d"]) == 7
    called = Path(f"{python}.called").read_text().split()
    assert called == ["-m", gpu_check.COMMAND, "--only", "h2d"]


@pytest.mark.parametrize("words", [["--python", "{}"], ["--python={}"]])
def test_a_named_python_that_will_not_do_is_not_replaced(gpu_check, tmp_path, words, capsys):
    """Figures of another torch than the one that was named would mislead."""
    python = stub_python(tmp_path, "unfit", fit=False)

    with pytest.raises(SystemExit) as ended:
        gpu_check.main([word.format(python) for word in words])

    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"{python} will not do: its torch was built without CUDA." in said
    assert "docs/gpu.md" in said


def test_the_running_python_is_taken_before_the_projects_own(gpu_check, tmp_path, monkeypatch):
    """Where torch for CUDA is installed already, gigabytes need not be fetched again."""
    own = stub_python(tmp_path, "own", fit=True)
    monkeypatch.setattr(gpu_check.sys, "executable", str(own))

    assert gpu_check.choose_python("") == str(own)


def test_a_python_that_is_not_there_is_named(gpu_check, tmp_path):
    """A misspelt path must be told from a torch without CUDA."""
    assert "can't be started" in gpu_check.why_unfit(str(tmp_path / "none"))
