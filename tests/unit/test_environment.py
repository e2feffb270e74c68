"""tools/_env.py: whatever was killed, and whoever made .venv, the answer is whole or plain."""

import fcntl
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import _env

ROOT = Path(__file__).resolve().parents[2]


class Recorded(_env.Environment):
    """An environment whose commands are noted and not run; `venv` makes a lone interpreter."""

    def __init__(self, root: Path, *, fail_at: str | None = None) -> None:
        super().__init__(root)
        self.commands: list[str] = []
        self.fail_at = fail_at

    def _run(self, command: list[str], lock_fd: int) -> None:
        line = " ".join(command)
        self.commands.append(line)
        if self.fail_at and self.fail_at in line:
            raise _env.EnvironmentProblem(line)
        if "-m venv" in line:
            self.python.parent.mkdir(parents=True)
            self.python.symlink_to(sys.executable)

    def installed(self) -> list[str]:
        """Return the pin files that pip was given, in order."""
        return [Path(line.split()[-1]).name for line in self.commands if " -r " in line]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    pins = tmp_path / "tools" / "requirements"
    pins.mkdir(parents=True)
    (pins / "runtime.txt").write_text("# Why.\ntrio==0.35.0\n")
    (pins / "models.txt").write_text("")
    (pins / "dev.txt").write_text("pytest==9.2.0\n")
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def test_second_preparation_does_nothing(checkout: Path):
    """Every start of the demo passes here: it must cost nothing once all is in place."""
    Recorded(checkout).prepare("dev")

    again = Recorded(checkout)
    again.prepare("dev")

    assert again.is_ready("runtime")
    assert again.commands == []


def test_the_checks_add_only_their_own_layer(checkout: Path):
    """Whoever tried the demo must not download torch again to run the tests."""
    Recorded(checkout).prepare("runtime")

    later = Recorded(checkout)
    later.prepare("dev")

    assert later.installed() == ["dev.txt"]


def test_changed_pins_are_installed_into_the_same_environment(checkout: Path):
    """After a `git pull` the next command must not run on yesterday's packages."""
    Recorded(checkout).prepare("dev")
    (checkout / "tools" / "requirements" / "dev.txt").write_text("pytest==9.3.0\n")

    changed = Recorded(checkout)
    changed.prepare("dev")

    assert changed.installed() == ["dev.txt"]
    assert not any("-m venv" in line for line in changed.commands)


@pytest.mark.parametrize("step", ["-m venv", "runtime.txt", "models.txt", "-e "])
def test_unfinished_install_is_made_anew(checkout: Path, step: str):
    """A half-unpacked package looks installed to pip, so nothing of it may be kept."""
    with pytest.raises(_env.EnvironmentProblem):
        Recorded(checkout, fail_at=step).prepare("runtime")
    leftover = checkout / ".venv" / "half-unpacked"
    leftover.write_text("")

    redone = Recorded(checkout)
    redone.prepare("runtime")

    assert redone.is_ready("runtime")
    assert not leftover.exists()


def test_foreign_environment_is_refused_and_left_alone(checkout: Path):
    """A .venv that the user made may hold work of theirs: never pip into it, never remove it."""
    foreign = Recorded(checkout)
    foreign._run(["python", "-m", "venv"], lock_fd=0)
    (checkout / "tools" / "requirements" / "runtime.txt").write_text("trio==0.1.0\n")

    with pytest.raises(
        _env.EnvironmentProblem, match=r"lacks trio==0\.1\.0 \(found .*move it away"
    ):
        foreign.prepare("runtime")

    assert foreign.installed() == []
    assert foreign.python.exists()


def test_lock_is_waited_for_also_when_only_pip_holds_it(checkout: Path):
    """Killed, tools/_env.py leaves pip running: a second install beside it would corrupt both."""
    (checkout / ".cw").mkdir()
    with open(checkout / ".cw" / "env.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        orphan = subprocess.Popen(["sleep", "1"], pass_fds=(lock.fileno(),))

    Recorded(checkout).prepare("runtime")

    assert orphan.wait(timeout=0.3) == 0  # not in time, had nobody waited for it


def test_pins_are_exact_and_none_contradicts_another():
    """One loose pin, and two machines test two different programs."""
    environment = _env.Environment(ROOT)
    pins = [pin for layer in _env.LAYERS for pin in environment.pins(layer)]
    names = [pin.partition("==")[0].lower().replace("_", "-") for pin in pins]

    assert [pin for pin in pins if "==" not in pin] == []
    assert sorted(names) == sorted(set(names))


@pytest.mark.slow
def test_real_install_survives_a_kill(tmp_path: Path):
    """What the recorded commands promise, with the real pip, killed while it unpacks."""
    for name in ("cw", "schemas", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    command = [sys.executable, str(tmp_path / "tools" / "_env.py"), "runtime"]
    log_path = tmp_path / "log"
    with open(log_path, "w") as log:
        killed = subprocess.Popen(command, stderr=log)
        while "Installing collected packages" not in log_path.read_text():
            assert killed.poll() is None, log_path.read_text()
            time.sleep(0.1)
        killed.send_signal(signal.SIGKILL)
        killed.wait()

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    script = "import cw, torch, capnp, skimage.data; print(cw.__file__)"
    used = subprocess.check_output(
        [tmp_path / ".venv" / "bin" / "python", "-I", "-c", script], text=True
    )

    assert again.returncode == 0, again.stderr
    assert "did not finish" in again.stderr
    assert used.strip() == str(tmp_path / "cw" / "__init__.py")
