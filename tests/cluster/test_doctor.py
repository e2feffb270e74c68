"""`cw doctor` beside a real cluster: what it finds in order, and what not after a fault."""

import json

import pytest

from tests.cluster.clusters import run_cw, wait_until

pytestmark = pytest.mark.cluster

NOWHERE = "tcp:127.0.0.1:1"


def examined(cluster, *words):
    """Run the command; give each group's findings by what was looked at."""
    done = run_cw("doctor", "--folder", cluster.folder, "--json", *words)
    report = json.loads(done.stdout)
    groups = {group["title"]: group["findings"] for group in report["groups"]}
    assert set(groups) == {"this machine", "versions", "GPU", "cluster", "processes"}
    return {name: {it["check"]: it for it in findings} for name, findings in groups.items()}


def test_a_running_cluster_is_examined(emulated):
    """Its own folder is enough: door, executors and records are found from there."""
    loaded = emulated.cw("bench", "--models", "tiny-mlp", "--seconds", 1, "--rate", 200)
    assert loaded.returncode == 0, loaded.stderr

    def judged():
        found = examined(emulated)["cluster"]
        return "took longer than estimated" in found.get("estimates", {}).get("found", "")

    wait_until(judged, what="records were written")  # four times a second
    groups = examined(emulated)
    found = groups["cluster"]

    assert emulated.address in found["gateway"]["found"]
    assert found["HTTP doors"]["verdict"] == "ok"
    assert found["executors"]["found"].startswith("2 joined")
    assert found["models"] == found["models"] | {"verdict": "ok", "found": "1, none failed"}
    assert found["restarts"]["verdict"] == "ok"
    assert "executor-0" in found["clocks"]["found"]
    assert groups["processes"]["processes"]["found"] == "4, each the first of its name"
    assert "the fullest" in groups["processes"]["files in use"]["found"]


def test_a_lost_executor_is_found_by_its_restart(shaken):
    """The supervisor mends it within a second: without records nobody would ever know."""
    loaded = shaken.cw("bench", "--models", "tiny-mlp", "--seconds", 1, "--rate", 200)
    assert loaded.returncode == 0, loaded.stderr
    before = shaken.pids["executor-0"]
    shaken.send_signal("executor-0", 9)
    wait_until(lambda: shaken.pids.get("executor-0", before) != before, what="a new executor")

    def told():
        found = examined(shaken)["cluster"]
        return found.get("restarts", {}).get("verdict") == "warning"

    wait_until(told, what="the new one has prepared the model and written it down")
    groups = examined(shaken)
    found = groups["cluster"]

    assert "executor-0 (1)" in found["restarts"]["found"]
    assert "logs/executor-" in found["restarts"]["mend"]
    assert groups["processes"]["processes"]["found"].endswith(": executor-0")


def test_an_address_where_nobody_listens_is_a_problem(tmp_path):
    """The status is what a script goes by; the words are what a person needs."""
    done = run_cw("doctor", "--address", NOWHERE, cwd=tmp_path)

    assert done.returncode == 1
    assert f"no answer: no gateway answers at {NOWHERE}" in done.stdout
    assert "tools/devcluster up" in done.stdout


def test_without_a_cluster_the_machine_is_examined(tmp_path):
    """It is run before there is a cluster, too: that there is none is no problem."""
    done = run_cw("doctor", cwd=tmp_path)

    assert "none asked" in done.stdout
    assert "problem  gateway" not in done.stdout
    assert done.stderr == ""


def test_a_folder_that_is_none_is_refused(tmp_path):
    """A misspelt folder must not look like a cluster without faults."""
    done = run_cw("doctor", "--folder", tmp_path / "misspelt")

    assert done.returncode == 1
    assert "expected a cluster's folder" in done.stderr
