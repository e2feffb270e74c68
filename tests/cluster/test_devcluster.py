"""`devcluster up` as its user meets it: one line when ready, and nothing left when it ends."""

import json
import signal
import socket
import stat
import subprocess
import time

import pytest

from tests.cluster.clusters import (
    CW,
    GENEROUS_S,
    STOP_S,
    environment,
    processes_of,
    run_cw,
    running,
    wait_until,
)

pytestmark = pytest.mark.cluster

EMULATED = ("--device", "emulated", "--profile", "fixed-2ms")


def test_up_says_where_it_is_in_one_line(emulated):
    """Scripts wait for this line and read the address from it."""
    assert emulated.ready["pid"] == emulated.process.pid
    assert emulated.ready["executors"] == 2
    assert [url.split(":")[0] for url in emulated.ready["http"]] == ["http"]
    assert [address.split(":")[0] for address in emulated.ready["gateways"]] == ["tcp"]
    assert sorted(emulated.pids) == ["controller", "executor-0", "executor-1", "gateway-0"]


def test_up_without_json_says_it_in_words(tmp_path):
    """Whoever started it by hand reads the same line, and how to stop it."""
    process = subprocess.Popen(
        [*CW, "devcluster", "up", "--dir", str(tmp_path / "c"), "--executors", "0"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, remarks = process.communicate(timeout=GENEROUS_S)

    assert line.startswith("ready: gateways tcp:127.0.0.1:")
    assert "Ctrl-C" in line
    assert rest == ""
    assert "Traceback" not in remarks


def test_the_admin_key_is_its_owners_alone(emulated):
    """Whoever reads it may have executors run code."""
    assert stat.S_IMODE((emulated.folder / "admin.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_within_two_seconds(tmp_path, number):
    """A second Ctrl-C out of impatience would be the start of trouble."""
    with running(tmp_path / "c", *EMULATED) as cluster:
        assert len(processes_of(cluster.folder)) == 5
        start = time.monotonic()
        cluster.process.send_signal(number)
        status = cluster.process.wait(GENEROUS_S)
        took_s = time.monotonic() - start

        assert status == 0
        assert took_s < STOP_S
        assert processes_of(cluster.folder) == {}
        assert not (cluster.folder / "cluster.json").exists()


def test_a_signal_while_it_starts_stops_it_too(tmp_path):
    """Most Ctrl-Cs come right after a start with a wrong option."""
    process = subprocess.Popen(
        [*CW, "devcluster", "up", "--dir", str(tmp_path / "c"), *EMULATED],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: len(processes_of(tmp_path / "c")) > 1, what="a first child")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=GENEROUS_S)

    assert out == ""
    assert process.returncode == 0
    assert processes_of(tmp_path / "c") == {}


def test_a_killed_supervisor_leaves_no_process_and_no_lock(tmp_path):
    """SIGKILL leaves it no last act; the next `up` in the same folder must simply work."""
    with running(tmp_path / "c", *EMULATED) as cluster:
        cluster.process.kill()
        cluster.process.wait()
        wait_until(lambda: not processes_of(cluster.folder), seconds=10, what="all children gone")
    with running(tmp_path / "c", *EMULATED) as cluster:
        assert len(cluster.pids) == 4


def test_a_second_cluster_in_a_folder_is_told_so(emulated):
    """Two clusters on one store would spoil it."""
    second = run_cw("devcluster", "up", "--dir", emulated.folder, *EMULATED)

    assert second.returncode == 1
    assert second.stdout == ""
    assert f"a cluster already runs in {emulated.folder}" in second.stderr
    assert "Traceback" not in second.stderr
    assert len(emulated.pids) == 4
    assert (emulated.folder / "cluster.json").exists()


def test_a_port_in_use_is_told_so(tmp_path):
    """The commonest mistake with a fixed port is a cluster that was left running."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        up = run_cw("devcluster", "up", "--dir", tmp_path / "c", "--port", port)

    assert up.returncode == 1
    assert f"port {port} can't be had" in up.stderr
    assert "Traceback" not in up.stderr
    assert processes_of(tmp_path / "c") == {}


WRONG_SETTINGS = [
    ("executors = ", "expected a readable TOML file"),
    ("[scheduler]\nmargins = '1ms'", "unknown setting 'margins'"),
    ("[scheduler]\nmargin = '1 parsec'", "margin = '1 parsec'"),
    ("executors = 'two'", "executors = 'two'"),
    ("executors = -1", "executors = -1"),
    ("gateways = 0", "at least one gateway"),
    ("scheduler = 3", "scheduler = 3"),
    ("[executor]\ndevice = 'abacus'", "'abacus'"),
    ("[executor]\ngpu_memory = '1MiB'", "16.0 MiB"),
    ("[executor]\ndevice = 'emulated'\nprofile = 'h1000'", "h1000"),
    ("[scheduler]\npolicy = 'wishful'", "'wishful'"),
    ("[link]\nheartbeat = '0ms'", "heartbeat"),
    ("[link]\nheartbeat = '2s'", "heartbeat"),
    ("[executor]\ncores = [0, 'one']", "cores = [0, 'one']"),
    ("[scheduler]\nhold_ratio = nan", "hold_ratio = nan"),
    ("[scheduler]\nhold_ratio = 25", "0 to 1"),
    ("[scheduler]\nobjective = 'money'", "'money'"),
    ("[scheduler]\nweights = 'a=-1'", "a=-1"),
]


@pytest.mark.parametrize(("text", "said"), WRONG_SETTINGS)
def test_wrong_settings_end_it_with_words(tmp_path, text, said):
    """A settings file is written by hand: each mistake must be named, before anything runs."""
    (tmp_path / "wrong.toml").write_text(text)
    up = run_cw("devcluster", "up", "--dir", tmp_path / "c", "--config", tmp_path / "wrong.toml")

    assert up.returncode == 1
    assert up.stdout == ""
    assert said in up.stderr
    assert "Traceback" not in up.stderr
    assert processes_of(tmp_path / "c") == {}


@pytest.mark.parametrize(
    "words",
    [
        ("no-such-command",),
        ("devcluster", "up", "--gpu-memory", "lots"),
        ("devcluster", "up", "--port", "http"),
        ("infer", "m", "--input", "x.npy", "--slo", "soon"),
        ("bench", "--slo", "nan"),
    ],
)
def test_a_wrong_command_line_is_status_two(words):
    """Scripts tell a typing error from a failure by the status."""
    result = run_cw(*words)

    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_commands_without_a_cluster_say_how_to_get_one(tmp_path):
    """The first thing that a newcomer runs may be `cw status`."""
    nowhere = run_cw("status", cwd=tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody else can take it.
        port = taken.getsockname()[1]
        silent = run_cw("status", "--connect", f"tcp:127.0.0.1:{port}", cwd=tmp_path)

    assert nowhere.returncode == silent.returncode == 1
    assert "tools/devcluster up" in nowhere.stderr
    assert f"no gateway answers at tcp:127.0.0.1:{port}" in silent.stderr
    assert "Traceback" not in nowhere.stderr + silent.stderr


def test_a_port_can_be_chosen(tmp_path):
    """Clients elsewhere have the address in their settings."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with running(tmp_path / "c", "--executors", 0, "--port", port) as cluster:
        assert cluster.address == f"tcp:127.0.0.1:{port}"


def test_status_shows_the_cluster(emulated):
    """It is how one sees that all is well, and it must tell the same to people and scripts."""
    people = emulated.cw("status")
    scripts = emulated.cw("status", "--json")
    told = json.loads(scripts.stdout)

    assert people.returncode == scripts.returncode == 0
    assert people.stderr == ""
    assert people.stdout.index("executor-0") < people.stdout.index("executor-1")
    assert [executor["state"] for executor in told["executors"]] == ["serving", "serving"]
    assert [model["name"] for model in told["models"]] == ["tiny-mlp"]


def test_a_model_without_executors_says_what_it_waits_for(tmp_path, mlp):
    """It would otherwise look like a very slow one."""
    with running(tmp_path / "c", "--executors", 0) as cluster:
        with pytest.raises(subprocess.TimeoutExpired) as caught:
            cluster.cw("model", "add", "--allow-program", mlp.folder, timeout=5)

    assert b"tiny-mlp waits for an executor: none is alive" in caught.value.stderr


def test_models_survive_the_whole_cluster(tmp_path, mlp):
    """What was added stays in the store: nobody uploads again after a reboot."""
    with running(tmp_path / "c", *EMULATED) as cluster:
        assert cluster.cw("model", "add", "--allow-program", mlp.folder).returncode == 0
    with running(tmp_path / "c", *EMULATED) as cluster:
        bench = cluster.cw("model", "show", "tiny-mlp", "--json")
        assert bench.returncode == 0, bench.stderr
