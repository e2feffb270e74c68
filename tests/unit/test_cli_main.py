"""The ``cw`` command itself: interrupts, and errors as words that say what to do next."""

import argparse
import errno
import importlib.util
import os
import signal
import types

import pytest

from cw.cli import main as cli
from cw.errors import CwError


@pytest.fixture
def command(monkeypatch):
    """Have `cw status` do what the test says; return a setter of its `run`."""
    module = types.ModuleType("status")
    module.add_arguments = lambda parser: parser.add_argument("words", nargs="*")
    seen = {}

    def imported(name):
        seen["handler"] = signal.getsignal(signal.SIGINT)
        assert name == "cw.cli.status"
        return module

    monkeypatch.setattr(cli, "importlib", types.SimpleNamespace(import_module=imported))
    module.seen = seen
    return module


def fails_with(exc):
    """Make a command that raises."""

    def run(args: argparse.Namespace) -> int:
        raise exc

    return run


def test_an_interrupt_during_imports_ends_the_process_without_a_traceback(command):
    """The system's own way of dying by a signal, which a shell knows; then Python's again."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.run = lambda args: int(
            signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        )
        status = cli.main(["status"])
    finally:
        signal.signal(signal.SIGINT, before)

    assert command.seen["handler"] is signal.SIG_DFL
    assert status == 0


def test_interrupts_that_somebody_ignores_stay_ignored(command):
    """`nohup cw bench` and `cw bench &` in a script must survive the terminal's Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        command.run = lambda args: 0
        cli.main(["status"])
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert command.seen["handler"] is after is signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EACCES, "its owner"),
        (errno.EROFS, "another place"),
        (errno.ENOENT, "check the path"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_what_the_system_forbids_is_told_with_a_way_out(command, capsys, number, advice):
    """`[Errno 28]` alone leaves a person with a search engine."""
    command.run = fails_with(OSError(number, os.strerror(number), "out/plan.json"))

    assert cli.main(["status"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"cw status: out/plan.json: {os.strerror(number)}; ")
    assert advice in said
    assert "Errno" not in said


def test_other_errors_of_the_system_keep_their_words(command, capsys):
    """Where nothing better is known, nothing is lost."""
    command.run = fails_with(OSError(errno.EIO, "Input/output error", "disk"))

    assert cli.main(["status"]) == 1
    assert "cw status: disk: Input/output error" in capsys.readouterr().err


def test_errors_of_a_group_are_each_told_once(command, capsys):
    """Ten tasks that lost one connection have one thing to say."""
    command.run = fails_with(
        BaseExceptionGroup("", [CwError("gone"), ExceptionGroup("", [CwError("gone")])])
    )

    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err == "cw status: gone\n"


def test_a_bug_keeps_its_traceback(command):
    """It is to be reported, not to be explained away."""
    command.run = fails_with(ExceptionGroup("", [CwError("gone"), KeyError("bug")]))

    with pytest.raises(ExceptionGroup):
        cli.main(["status"])


def test_every_command_that_is_listed_is_there():
    """A name in the help that ends in an ImportError is worse than none."""
    for name in cli.COMMANDS:
        assert importlib.util.find_spec(f"cw.cli.{name}"), name
